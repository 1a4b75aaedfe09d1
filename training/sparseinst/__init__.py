"""SparseInst in PyTorch: network, training, evaluation.

from sparseinst import load_model
model, contract = load_model("model.safetensors")
"""

from sparseinst.checkpoint import load_model
from sparseinst.network import SparseInst
from sparseinst.recipes import get_recipe

__all__ = ["SparseInst", "build_model", "load_model"]


def build_model(variant: str) -> SparseInst:
    """The network of a recipe with fresh weights; raises ValueError for a name that is no recipe."""
    return SparseInst(get_recipe(variant).network)
