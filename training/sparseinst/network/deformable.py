"""Deformable convolution, for backbones and for the decoder."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    """Deformable convolution, version 1: a 3x3 convolution predicts where each of the nine taps samples.

    Not modulated, one group of offsets, no bias (arXiv 1703.06211). Offsets start at 0: an ordinary convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.offset = nn.Conv2d(in_channels, 2 * 3 * 3, 3, stride, padding=1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(cast(Tensor, self.offset.bias))

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C',h/stride,w/stride]."""
        return deform_conv2d(features, self.offset(features), self.weight, stride=self.stride, padding=self.padding)
