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
from sparseinst.state_dicts import CheckpointError, compare
from sparseinst_runtime import Contract
from sparseinst_runtime.files import atomic_write

CLASS_LAYER = "decoder.inst_branch.cls_score."  # the only tensors whose shape depends on the number of classes
HEADER = "sparseinst"  # the entry of a safetensors header that says what the weights are


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
    """Fine-tune: copy all tensors of other weights; only the class layer keeps its start values, where classes differ.

    Returns:
        Names of the tensors that were not copied: none, or those of the class layer.

    Raises:
        CheckpointError: the file cannot be loaded, or another tensor is missing, unexpected or of another shape.
    """
    source, contract = load_model(path)
    mine, theirs = model.state_dict(), source.state_dict()
    fresh = [
        name
        for name in mine
        if name.startswith(CLASS_LAYER) and name in theirs and theirs[name].shape != mine[name].shape
    ]
    wanted = {name: tuple(tensor.shape) for name, tensor in mine.items() if name not in fresh}
    state = {name: tensor for name, tensor in theirs.items() if name not in fresh}
    if faults := compare(state, wanted):
        raise CheckpointError(
            f"{path} is of another network ({_differences(source.config, model.config)}):\n{faults}"
            f"  train with the recipe these weights were made with (they are called {contract.name!r}), "
            "or start from --backbone-weights"
        )
    model.load_state_dict(state, strict=False)
    return sorted(fresh)


def _differences(theirs: NetworkConfig, mine: NetworkConfig) -> str:
    """What two architectures do not share, besides the number of classes."""
    then, now = _flat(asdict(theirs)), _flat(asdict(mine))
    differing = [name for name in now if name != "decoder.classes" and then.get(name) != now[name]]
    return ", ".join(f"{name} {then.get(name)}, wanted {now[name]}" for name in differing) or "same settings"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in values.items():
        rows |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return rows


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
