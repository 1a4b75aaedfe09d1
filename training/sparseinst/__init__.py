"""SparseInst in PyTorch: network, training, evaluation.

from sparseinst import Predictor, load_model
model, contract = load_model("model.safetensors")  # normalised [B,3,H,W] -> logits
instances = Predictor("model.safetensors")(picture)  # uint8 RGB [H,W,3] -> instances in the picture's own frame
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseinst.checkpoint import load_model
    from sparseinst.losses import Criterion
    from sparseinst.matcher import Matcher
    from sparseinst.network import SparseInst
    from sparseinst.predict import Predictor
    from sparseinst.recipes import build_model

__all__ = ["Criterion", "Matcher", "Predictor", "SparseInst", "build_model", "load_model"]

# Imported when first asked for: torch takes seconds, and `sparseinst --help` has no use for it.
_HOMES = {
    "Criterion": "losses",
    "Matcher": "matcher",
    "Predictor": "predict",
    "SparseInst": "network",
    "build_model": "recipes",
    "load_model": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
