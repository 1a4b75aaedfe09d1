"""Graphs to look inside of: besides what is served they give out logits or instance activation maps.

Such a graph is for looking, not for a repository: no client asks for these outputs, and copying them costs time.

Shapes: B batch, N instances of the network, K classes, G groups, H x W the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast, get_args

from torch import Tensor, nn

from sparseinst import SparseInst
from sparseinst.figures.activations import listening, weights
from sparseinst.network.head import ServingModel, normalise
from sparseinst_export.precision import HalfSparseInst
from sparseinst_runtime.contract import MASK_STRIDE, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparseinst_runtime import Contract

Extra = Literal["raw", "activations"]
EXTRAS: tuple[Extra, ...] = get_args(Extra)
ACTIVATION_STRIDE = 8  # input pixels per cell of an activation map


class InspectedModel(nn.Module):
    """What is served, then the extra outputs, all from one pass.

    Args:
        serving: the network with its scoring.
        extras: `raw` for the logits, `activations` for the instance activation maps; see `extra_outputs`.
    """

    def __init__(self, serving: ServingModel, extras: Sequence[Extra]) -> None:
        super().__init__()
        self.serving, self.extras = serving, extras

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 RGB [B,H,W,3] -> scores, labels, masks as `ServingModel`, and those of `extra_outputs`."""
        model = self.serving.model
        pixels = normalise(image, self.serving.contract)
        found: list[Tensor] = []
        if "activations" in self.extras:
            network = model.network if isinstance(model, HalfSparseInst) else cast(SparseInst, model)
            with listening(network) as heard:
                outputs = model(pixels)
            found = [weights(heard[0], network.config.decoder)]
        else:
            outputs = model(pixels)
        if "raw" in self.extras:
            found = [*(outputs[name].float() for name in ("pred_logits", "pred_scores", "pred_masks")), *found]
        return (*self.serving.answer(outputs), *found)


def inspected(serving: ServingModel, extras: Sequence[Extra]) -> nn.Module:
    """The network with its extra outputs, or as it is where there are none."""
    return InspectedModel(serving, extras) if extras else serving


def extra_outputs(model: SparseInst, contract: Contract, extras: Sequence[Extra]) -> tuple[TensorSpec, ...]:
    """What an inspected graph gives out behind the contract's outputs, all FP32.

    `raw` gives `pred_logits` [N,K], `pred_scores` [N,1] (objectness) and `pred_masks` [N,H/4,W/4]: logits of all
    instances, in the network's order. `activations` gives `activations` [G,N,H/8,W/8]: the instance activation maps,
    each with the sum 1 (section 3.2 of the paper).

    Raises:
        FigureError: activation maps of a network that has none.
    """
    decoder = model.config.decoder
    height, width = contract.input_size
    specs: list[TensorSpec] = []
    if "raw" in extras:
        specs += [
            TensorSpec("pred_logits", "FP32", (decoder.instances, decoder.classes)),
            TensorSpec("pred_scores", "FP32", (decoder.instances, 1)),
            TensorSpec("pred_masks", "FP32", (decoder.instances, height // MASK_STRIDE, width // MASK_STRIDE)),
        ]
    if "activations" in extras:
        with listening(model):  # the sentence now, not from inside the exporter
            pass
        cells = (height // ACTIVATION_STRIDE, width // ACTIVATION_STRIDE)
        specs.append(TensorSpec("activations", "FP32", (decoder.groups, decoder.instances, *cells)))
    return tuple(specs)
