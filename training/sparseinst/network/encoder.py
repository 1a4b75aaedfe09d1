"""Instance context encoder: pyramid pooling widens what C5 sees, top-down fusion brings all scales to stride 8.

Shapes: B batch, C channels, h x w a feature map's cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseinst.network import initialise
from sparseinst.network.config import EncoderConfig


def averaging_matrix(cells: int, bins: int, like: Tensor) -> Tensor:
    """Adaptive average pooling along one axis as a constant matrix [bins, cells].

    Bin i averages cells floor(i*cells/bins) ... ceil((i+1)*cells/bins)-1, exactly as `adaptive_avg_pool` does, for
    sizes that do not divide as well. A matrix product is what every engine runs and computes alike.
    """
    matrix = torch.zeros(bins, cells, dtype=like.dtype)
    for i in range(bins):
        start, stop = i * cells // bins, -(-(i + 1) * cells // bins)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix.to(like.device)


def pool(features: Tensor, bins: int) -> Tensor:
    """[B,C,h,w] -> [B,C,bins,bins]: adaptive average pooling as P_h X P_w^T."""
    rows = averaging_matrix(features.shape[2], bins, features)
    columns = averaging_matrix(features.shape[3], bins, features)
    return rows @ features @ columns.T


class PyramidPooling(nn.Module):
    """Averages over coarse grids, brought back to full size and mixed with the input (PSPNet's module)."""

    def __init__(self, channels: int, pool_sizes: Sequence[int]) -> None:
        super().__init__()
        self.pool_sizes = tuple(pool_sizes)
        width = channels // len(self.pool_sizes)
        # The pooling is a function; its place at index 0 keeps the published parameter names (`stages.0.1.weight`).
        self.stages = nn.ModuleList(nn.Sequential(nn.Identity(), nn.Conv2d(channels, width, 1)) for _ in pool_sizes)
        self.bottleneck = nn.Conv2d(channels + width * len(self.pool_sizes), channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,C,h,w]."""
        size = features.shape[2:]
        priors = []
        for bins, stage in zip(self.pool_sizes, self.stages, strict=True):
            prior = F.relu(stage(pool(features, bins)))
            priors.append(F.interpolate(prior, size, mode="bilinear", align_corners=False))
        return F.relu(self.bottleneck(torch.cat([*priors, features], dim=1)))


class InstanceContextEncoder(nn.Module):
    """C3, C4, C5 -> one map at stride 8."""

    def __init__(self, in_channels: Sequence[int], config: EncoderConfig) -> None:
        super().__init__()
        channels = config.channels
        self.fpn_laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in reversed(in_channels))
        levels = len(in_channels) if config.fusion else 1  # without fusion only the finest is given out
        self.fpn_outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        # The pyramid pooling keeps the framework's start values, as published.
        self.ppm = PyramidPooling(channels, config.pool_sizes) if config.pool_sizes else nn.Identity()
        self.fusion = nn.Conv2d(channels * len(in_channels), channels, 1) if config.fusion else None
        for conv in (*self.fpn_laterals, *self.fpn_outputs):
            initialise.for_fusion(conv)
        if self.fusion is not None:
            initialise.for_relu(self.fusion)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[C3, C4, C5], each [B,c,h,w] at strides 8, 16, 32 -> [B,C,h,w] at stride 8."""
        deepest, *shallower = reversed(maps)
        merged = [self.ppm(self.fpn_laterals[0](deepest))]  # coarse to fine
        for features, lateral in zip(shallower, self.fpn_laterals[1:], strict=True):
            merged.append(lateral(features) + F.interpolate(merged[-1], scale_factor=2.0, mode="nearest"))
        if self.fusion is None:
            return cast(Tensor, self.fpn_outputs[0](merged[-1]))
        *coarser, finest = (output(level) for output, level in zip(self.fpn_outputs, merged, strict=True))
        size = finest.shape[2:]
        resized = [F.interpolate(level, size, mode="bilinear", align_corners=False) for level in reversed(coarser)]
        return cast(Tensor, self.fusion(torch.cat([finest, *resized], dim=1)))
