"""SparseInst in PyTorch: network, training, evaluation.

from sparseinst import Predictor, load_model
model, contract = load_model("model.safetensors")  # normalised [B,3,H,W] -> logits
instances = Predictor("model.safetensors")(picture)  # uint8 RGB [H,W,3] -> instances in the picture's own frame
"""

from sparseinst.checkpoint import load_model
from sparseinst.losses import Criterion
from sparseinst.matcher import Matcher
from sparseinst.network import SparseInst
from sparseinst.predict import Predictor
from sparseinst.recipes import get_recipe

__all__ = ["Criterion", "Matcher", "Predictor", "SparseInst", "build_model", "load_model"]


def build_model(variant: str) -> SparseInst:
    """The network of a recipe with fresh weights; raises ValueError for a name that is no recipe."""
    return SparseInst(get_recipe(variant).network)
