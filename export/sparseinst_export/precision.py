"""The network in half precision, for graphs that say in their own types what an engine computes in.

TensorRT from 10 on takes precision from the graph alone. In fp32 stay the normalisation of the pictures, the instance
activation maps with the pooling under them (`pool_by_activation` sees to that) and the scoring.
"""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from sparseinst import SparseInst
from sparseinst.network.frozen_norm import FoldedNorm, NormedConv2d
from sparseinst_export.verify import FP16, FP32, ExportError, Tolerance

Precision = Literal["fp32", "fp16"]
TOLERANCES: dict[Precision, Tolerance] = {"fp32": FP32, "fp16": FP16}


class HalfSparseInst(nn.Module):
    """A copy of a network in fp16 that takes float32 pictures, as `head.ServingModel` gives them."""

    def __init__(self, model: SparseInst) -> None:
        super().__init__()
        self.config = model.config
        folded = copy.deepcopy(model)
        with torch.no_grad():
            _fold(folded)
        self.network = folded.half()
        beyond = [name for name, tensor in self.network.state_dict().items() if not tensor.isfinite().all()]
        if beyond:
            raise ExportError(
                f"{beyond[0]} is beyond fp16's largest number, 65504; wanted precision fp32 for these weights"
            )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B,3,H,W] float32, normalised -> logits in fp16, named as those of SparseInst."""
        return cast("dict[str, Tensor]", self.network(images.half()))


def _fold(module: nn.Module) -> None:
    # Variances can be smaller than fp16's smallest number: norms are worked into weights and biases before the cast.
    for name, child in module.named_children():
        if isinstance(child, NormedConv2d):
            setattr(module, name, child.plain())
        elif isinstance(child, FoldedNorm):
            setattr(module, name, nn.Identity())
        elif isinstance(child, FrozenBatchNorm2d | nn.BatchNorm2d):
            _forget_statistics(child)
        else:
            _fold(child)


def _forget_statistics(norm: FrozenBatchNorm2d | nn.BatchNorm2d) -> None:
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = norm.weight * (variance + norm.eps).rsqrt()
    norm.bias.copy_(norm.bias - mean * factor)
    norm.weight.copy_(factor)
    mean.zero_()
    variance.fill_(1 - norm.eps)
