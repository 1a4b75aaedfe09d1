"""State dicts that others wrote, as tensors by name: torch files or safetensors, flat or wrapped, never code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

LISTED = 10  # names of one kind that a message shows
_WRAPPERS = ("model", "state_dict")  # where trainers keep it, beside their optimiser's state
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_WANTED = "wanted a state dict, flat or under 'model' or 'state_dict'"
# For files that hold more than tensors. Running them is a user's decision, so the line is given and not executed.
_FROM_PICKLE = (
    "import pickle, torch; state = pickle.load(open('IN', 'rb'), encoding='latin1')['model']; "
    "torch.save({{name: torch.as_tensor(value) for name, value in state.items()}}, '{out}')"
)
_FROM_TORCH = "import torch; torch.save(torch.load('IN', 'cpu', weights_only=False)['model'], '{out}')"


class CheckpointError(ValueError):
    """A file that cannot be loaded; the message says what was found, what was wanted and what to do."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name; of a pickle only tensors and plain values are read, never code.

    A state dict under `model` or `state_dict`, as trainers write it, is taken out of there; prefixes that
    `DistributedDataParallel` (`module.`) and `torch.compile` (`_orig_mod.`) put before every name are taken off.

    Args:
        path: what torch saved, or a `.safetensors` file.

    Raises:
        CheckpointError: unreadable, a pickle that would run code, or no tensors by name in it.
        OSError: no such file.
    """
    path = Path(path)
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise CheckpointError(_why_unreadable(path, error)) from error
    while isinstance(state, Mapping) and (inner := [state[key] for key in _WRAPPERS if _is_mapping(state.get(key))]):
        state = inner[0]
    if not _is_mapping(state) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds something else than tensors by name; {_WANTED}")
    tensors = dict(cast("Mapping[str, Tensor]", state))
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def compare(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """What keeps a state dict from being a layout, a line for each kind of fault; empty when nothing does.

    Args:
        state: tensors by name.
        wanted: the shapes of the layout by name.
    """
    kinds = {
        "missing": [f"{name} {shape}" for name, shape in wanted.items() if name not in state],
        "unexpected": [f"{name} {tuple(tensor.shape)}" for name, tensor in state.items() if name not in wanted],
        "misshapen": [
            f"{name} {tuple(state[name].shape)}, wanted {shape}"
            for name, shape in wanted.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    return "".join(f"  {len(names)} {kind}: {listed(names)}\n" for kind, names in kinds.items() if names)


def listed(names: Iterable[str]) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    more = f"; and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return "; ".join(names[:LISTED]) + more


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _why_unreadable(path: Path, error: Exception) -> str:
    out = path.with_suffix(".tensors.pth").name
    if path.suffix in {".pkl", ".pickle"}:
        line = _FROM_PICKLE.format(out=out).replace("IN", path.name)
        return (
            f"{path} is a pickle, which may run code when it is read, so it is not read; {_WANTED}.\n"
            f'If you trust where it comes from, write its tensors into a file of their own:\n  python -c "{line}"'
        )
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        line = _FROM_TORCH.format(out=out).replace("IN", path.name)
        return (
            f"{path} holds pickled code ({code[1]}), which is not run; {_WANTED}.\n"
            f'If you trust where it comes from, write its tensors into a file of their own:\n  python -c "{line}"'
        )
    reason = next(iter(str(error).splitlines()), "it is empty")
    return f"{path} is neither a state dict that torch saved nor safetensors ({reason}); {_WANTED}"
