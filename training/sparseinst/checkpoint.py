"""Weights as safetensors that carry their contract and architecture, and the state that a training resumes from."""

from __future__ import annotations

import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from sparseinst.network import NetworkConfig, SparseInst
from sparseinst_runtime import Contract
from sparseinst_runtime.files import atomic_write

HEADER = "sparseinst"  # the entry of a safetensors header that says what the weights are


class CheckpointError(ValueError):
    """A file that cannot be loaded; the message says what was found, what was wanted and what to do."""


def save_weights(path: str | os.PathLike[str], model: SparseInst, contract: Contract, *, half: bool = True) -> Path:
    """Write weights with contract and architecture in the header, atomically.

    Parameters are stored as fp16 unless `half` is False: half the size, and AP does not move. Batch-norm statistics
    stay fp32, because variances can be smaller than fp16's smallest number.
    """
    parameters = {name for name, _ in model.named_parameters()} if half else set()
    tensors = {
        name: (tensor.half() if name in parameters else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    # One entry: safetensors writes several in random order, and equal weights are to give equal bytes.
    header = {"contract": asdict(contract), "network": asdict(model.config)}
    return atomic_write(path, save(tensors, {HEADER: json.dumps(header)}))


def load_model(path: str | os.PathLike[str]) -> tuple[SparseInst, Contract]:
    """Build the network that `save_weights` stored.

    Returns:
        The network in evaluation mode, float32, on the CPU; and its contract.

    Raises:
        CheckpointError: no such file, not safetensors, or not written by `save_weights`.
        ContractError: the contract inside does not hold.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; `sparseinst train` writes best.safetensors into its --out folder")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file ({error})") from error
    if not {"contract", "network"} <= header.keys():
        raise CheckpointError(f"{path.name} has no contract and network in its header; wanted weights of ours")
    contract = Contract.from_json(json.dumps(header["contract"]), source=f"the contract in {path.name}")
    model = SparseInst(NetworkConfig.from_dict(header["network"]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path.name} does not fit the architecture in its own header: {error}") from error
    return model.eval(), contract


def initialise_from(model: SparseInst, path: str | os.PathLike[str]) -> list[str]:
    """Fine-tune: copy what fits from other weights; tensors of another shape (other classes) keep their start values.

    Returns:
        Names of the tensors that were not copied.

    Raises:
        CheckpointError: the file cannot be loaded, or nothing but a few tensors fits.
    """
    source, _ = load_model(path)
    mine, theirs = model.state_dict(), source.state_dict()
    fitting = {name: theirs[name] for name in mine if name in theirs and theirs[name].shape == mine[name].shape}
    if len(fitting) < len(mine) / 2:
        raise CheckpointError(f"only {len(fitting)} of {len(mine)} tensors of {path} fit this network; same recipe?")
    model.load_state_dict(fitting, strict=False)
    return sorted(mine.keys() - fitting.keys())


def save_state(path: str | os.PathLike[str], state: dict[str, Any]) -> Path:
    """Write a training's state (tensors and plain values), atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return atomic_write(path, buffer.getvalue())


def load_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a training's state; unpickles tensors and plain values only.

    Raises:
        CheckpointError: unreadable.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} is not a training state of ours ({error}); start again without --resume"
        ) from error


def parameter_count(model: nn.Module) -> int:
    """Number of trainable and frozen parameters, buffers left out."""
    return sum(p.numel() for p in model.parameters())
