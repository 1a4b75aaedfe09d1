"""Frozen batch norms, folded into the convolutions in front of them.

A frozen norm is a factor and a shift for each channel. On the weights of a convolution they cost next to nothing; on
its output they cost two passes over the map forward and one backward, and under autocast they turn 16 bits into 32.
Names of parameters and buffers stay, and so does the graph that is exported: engines fold for themselves.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeVar, cast

import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

Conv = TypeVar("Conv", bound=nn.Conv2d)


class FoldedNorm(FrozenBatchNorm2d):
    """A frozen batch norm that the convolution in front of it has applied already."""

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w], as it is; normalised where the network is being exported."""
        return cast(Tensor, super().forward(features)) if torch.compiler.is_exporting() else features

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and shift, each [C]."""
        factor = self.weight * (self.running_var + self.eps).rsqrt()
        return factor, self.bias - self.running_mean * factor


class NormedConv2d(nn.Conv2d):
    """A convolution without a bias of its own that applies the norm behind it."""

    norm: tuple[FoldedNorm]  # in a tuple: the norm is no child, its tensors stay where they are named

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C',h',w'], normalised; not so where the network is being exported."""
        if torch.compiler.is_exporting():
            return super().forward(features)
        return self._conv_forward(features, *self._folded())

    def plain(self) -> nn.Conv2d:
        """A convolution of its own that computes the same, the norm in its weights and its bias."""
        plain, (weight, bias) = _with_geometry_of(self, nn.Conv2d, bias=True), self._folded()
        plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
        return plain

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Weights and bias, the norm worked in."""
        factor, shift = self.norm[0].affine()
        return self.weight * factor.view(-1, 1, 1, 1), shift


def freeze_norms(module: nn.Module) -> nn.Module:
    """Freeze the batch norms of a backbone, and fold those that directly follow a plain convolution.

    Args:
        module: registers every batch norm right behind the convolution that feeds it, as timm and torchvision do.
    """
    frozen: nn.Module = freeze_batch_norm_2d(module)
    _fold(frozen)
    return frozen


def _fold(module: nn.Module) -> None:
    for (name, conv), (behind, norm) in pairwise(list(module.named_children())):
        if type(conv) is nn.Conv2d and conv.bias is None and type(norm) is FrozenBatchNorm2d:
            folded = FoldedNorm(conv.out_channels, norm.eps)
            folded.load_state_dict(norm.state_dict())
            normed = _with_geometry_of(conv, NormedConv2d, bias=False)
            normed.weight, normed.norm = conv.weight, (folded,)
            setattr(module, name, normed)
            setattr(module, behind, folded)
    for child in module.children():
        _fold(child)


def _with_geometry_of(conv: nn.Conv2d, kind: type[Conv], *, bias: bool) -> Conv:
    """A convolution of the same channels, kernel, stride, padding, dilation and groups; it has no values yet."""
    return kind(
        conv.in_channels,
        conv.out_channels,
        cast("tuple[int, int]", conv.kernel_size),
        cast("tuple[int, int]", conv.stride),
        cast("str | tuple[int, int]", conv.padding),
        cast("tuple[int, int]", conv.dilation),
        conv.groups,
        bias,
        conv.padding_mode,
        device="meta",  # draws nothing: a seed gives the same fresh weights, folded or not
    )
