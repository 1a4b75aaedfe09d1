"""IAM decoder: instance activation maps pool one feature vector for each instance; kernels from it draw the masks.

Shapes: B batch, N instances, G groups, C channels, D kernel_dim, K classes, h x w cells at stride 8.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseinst.network import initialise
from sparseinst.network.config import Activation, DecoderConfig
from sparseinst.network.deformable import DeformableConv2d

PRIOR = 0.01  # initial probability of every class and activation, as in focal loss
COORDINATES = 2


def append_coordinates(features: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,C+2,h,w]: x then y, each -1 at the first and 1 at the last cell, ahead of the features."""
    batch, _, height, width = features.shape
    x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype)
    y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)
    x = x.view(1, 1, 1, width).expand(batch, 1, height, width)
    y = y.view(1, 1, height, 1).expand(batch, 1, height, width)
    return torch.cat([x, y, features], dim=1)


def conv_stack(in_channels: int, channels: int, depth: int, *, deformable: bool = False) -> nn.Sequential:
    """`depth` times 3x3 convolution and ReLU; parameters sit at even indices, as in the published checkpoints."""
    layers: list[nn.Module] = []
    for i in range(depth):
        width = in_channels if i == 0 else channels
        last = i == depth - 1
        conv = DeformableConv2d(width, channels) if deformable and last else nn.Conv2d(width, channels, 3, padding=1)
        initialise.for_relu(conv)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def iam_convolution(config: DecoderConfig) -> nn.Module:
    """Features -> logits of the activation maps; output channel g*N+n is group g of instance n."""
    channels, side = config.channels, config.iam_kernel
    last = nn.Conv2d(channels, config.instances * config.groups, side, padding=side // 2, groups=config.groups)
    initialise.small(last, bias=-math.log((1 - PRIOR) / PRIOR))
    if config.iam_depth == 1:
        return last  # under its published name
    return nn.Sequential(*conv_stack(channels, channels, config.iam_depth - 1), last)


class CrossAttention(nn.Module):
    """Learned queries that gather features by attention, in place of activation maps (table 7 of the paper)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(config.instances, config.channels))
        nn.init.normal_(self.queries)
        self.attention = nn.MultiheadAttention(config.channels, config.heads, batch_first=True)

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,N,C]."""
        cells = features.flatten(2).transpose(1, 2)  # [B,hw,C]
        attention, channels = self.attention, self.queries.shape[1]
        # Step by step: what nn.MultiheadAttention does in one call is exported for the traced batch size only.
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        queries = self._split(F.linear(self.queries, weight[:channels], bias[:channels])[None])
        keys, values = F.linear(cells, weight[channels:], bias[channels:]).chunk(2, dim=-1)
        keys, values = self._split(keys), self._split(values)
        gathered = F.scaled_dot_product_attention(queries.expand(keys.shape[0], -1, -1, -1), keys, values)
        projected: Tensor = attention.out_proj(gathered.transpose(1, 2).flatten(2))
        return projected

    def _split(self, vectors: Tensor) -> Tensor:
        """[B,L,C] -> [B,heads,L,C/heads]."""
        return vectors.unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)


class InstanceBranch(nn.Module):
    """Features -> class logits, mask kernels and objectness of N instances."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.groups
        self.instances, self.groups, self.iam_activation = config.instances, groups, config.iam_activation
        self.inst_convs = conv_stack(in_channels, channels, config.depth, deformable=config.deformable)
        iam = config.gathering == "iam"
        self.iam_conv = iam_convolution(config) if iam else None
        self.cross_attention = None if iam else CrossAttention(config)
        # Added to all cells of a map before the softmax, so without effect; published checkpoints hold it.
        self.softmax_bias = nn.Parameter(torch.ones(1)) if iam and config.iam_activation == "softmax" else None
        width = channels * groups
        self.fc = nn.Linear(width, width) if groups > 1 else None
        self.cls_score = nn.Linear(width, config.classes)
        self.mask_kernel = nn.Linear(width, config.kernel_dim)
        self.objectness = nn.Linear(width, 1)
        initialise.small(self.cls_score, bias=-math.log((1 - PRIOR) / PRIOR))
        initialise.small(self.mask_kernel)
        if self.fc is not None:
            initialise.for_fusion(self.fc)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B,C,h,w] -> logits [B,N,K], kernels [B,N,D], objectness logits [B,N,1]."""
        features = self.inst_convs(features)
        gathered = self.gather(features)
        return self.cls_score(gathered), self.mask_kernel(gathered), self.objectness(gathered)

    def gather(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> instance features [B,N,G*C]."""
        if self.iam_conv is None:
            return cast(Tensor, cast(CrossAttention, self.cross_attention)(features))
        logits = self.iam_conv(features)
        if self.softmax_bias is not None:
            logits = logits + self.softmax_bias
        pooled = pool_by_activation(logits, features, self.iam_activation)  # [B,G*N,C]
        if self.fc is None:
            return pooled
        batch, _, channels = pooled.shape
        pooled = pooled.view(batch, self.groups, self.instances, channels).transpose(1, 2)
        return F.relu(self.fc(pooled.reshape(batch, self.instances, self.groups * channels)))


def activation_weights(logits: Tensor, activation: Activation = "sigmoid") -> Tensor:
    """Instance activation maps whose cells sum to 1 (section 3.2 of the paper), in fp32.

    Args:
        logits: [B,M,h,w].
        activation: `sigmoid` of each cell, divided by the sum over the map; or `softmax` over the map.

    Returns:
        [B,M,hw].
    """
    cells = logits.float().flatten(2)
    if activation == "softmax":
        return cells.softmax(dim=-1)
    activations = cells.sigmoid()
    return activations / activations.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def pool_by_activation(logits: Tensor, features: Tensor, activation: Activation = "sigmoid") -> Tensor:
    """Weighted average of the features under each instance activation map.

    Normalised before the product and in fp32 whatever the surroundings: un-normalised sums come close to fp16's limit.

    Args:
        logits: [B,M,h,w].
        features: [B,C,h,w].
        activation: see `activation_weights`.

    Returns:
        [B,M,C] in the features' dtype.
    """
    with torch.autocast(features.device.type, enabled=False):
        weights = activation_weights(logits, activation)
        return (weights @ features.float().flatten(2).transpose(1, 2)).to(features.dtype)


class MaskBranch(nn.Module):
    """Features -> D mask feature maps that the kernels weigh."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.mask_convs = conv_stack(in_channels, config.channels, config.depth, deformable=config.deformable)
        self.projection = nn.Conv2d(config.channels, config.kernel_dim, 1)
        initialise.for_relu(self.projection)

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,D,h,w]."""
        return self.projection(self.mask_convs(features))


class Decoder(nn.Module):
    """The encoder's map -> classes, objectness and masks of N instances."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.coordinates = config.coordinates
        width = in_channels + COORDINATES if config.coordinates else in_channels
        self.inst_branch = InstanceBranch(width, config)
        self.mask_branch = MaskBranch(width, config)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """[B,C,h,w] at stride 8 -> logits `pred_logits` [B,N,K], `pred_scores` [B,N,1], `pred_masks` [B,N,2h,2w]."""
        if self.coordinates:
            features = append_coordinates(features)
        logits, kernels, objectness = self.inst_branch(features)
        mask_features = self.mask_branch(features)
        batch, _, height, width = mask_features.shape
        masks = (kernels @ mask_features.flatten(2)).view(batch, -1, height, width)
        masks = F.interpolate(masks, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"pred_logits": logits, "pred_scores": objectness, "pred_masks": masks}
