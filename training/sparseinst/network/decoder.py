"""IAM decoder: instance activation maps pool one feature vector for each instance; kernels from it draw the masks.

Shapes: B batch, N instances, G groups, C channels, D kernel_dim, K classes, h x w cells at stride 8.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseinst.network import initialise
from sparseinst.network.config import DecoderConfig

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


def conv_stack(in_channels: int, channels: int, depth: int) -> nn.Sequential:
    """`depth` times 3x3 convolution and ReLU; parameters sit at even indices, as in the published checkpoints."""
    layers: list[nn.Module] = []
    for i in range(depth):
        conv = nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1)
        initialise.for_relu(conv)
        layers += [conv, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class InstanceBranch(nn.Module):
    """Features -> class logits, mask kernels and objectness of N instances."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        channels, groups, instances = config.channels, config.groups, config.instances
        self.instances, self.groups = instances, groups
        self.inst_convs = conv_stack(in_channels, channels, config.depth)
        # Output channel g*N+n is group g of instance n.
        self.iam_conv = nn.Conv2d(channels, instances * groups, 3, padding=1, groups=groups)
        # Added to all cells of a map before the softmax, so without effect; published checkpoints hold it.
        self.softmax_bias = nn.Parameter(torch.ones(1)) if config.iam_activation == "softmax" else None
        width = channels * groups
        self.fc = nn.Linear(width, width) if groups > 1 else None
        self.cls_score = nn.Linear(width, config.classes)
        self.mask_kernel = nn.Linear(width, config.kernel_dim)
        self.objectness = nn.Linear(width, 1)
        for layer in (self.iam_conv, self.cls_score):
            initialise.small(layer, bias=-math.log((1 - PRIOR) / PRIOR))
        initialise.small(self.mask_kernel)
        if self.fc is not None:
            initialise.for_fusion(self.fc)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B,C+2,h,w] -> logits [B,N,K], kernels [B,N,D], objectness logits [B,N,1]."""
        features = self.inst_convs(features)
        logits = self.iam_conv(features)
        if self.softmax_bias is not None:
            pooled = pool_by_softmax(logits + self.softmax_bias, features)  # [B,G*N,C]
        else:
            pooled = pool_by_activation(logits, features)
        if self.fc is not None:
            batch, _, channels = pooled.shape
            pooled = pooled.view(batch, self.groups, self.instances, channels).transpose(1, 2)
            pooled = F.relu(self.fc(pooled.reshape(batch, self.instances, self.groups * channels)))
        return self.cls_score(pooled), self.mask_kernel(pooled), self.objectness(pooled)


def pool_by_activation(activation_logits: Tensor, features: Tensor) -> Tensor:
    """Weighted average of the features under each instance activation map (section 3.2 of the paper).

    Normalised before the product and in fp32 whatever the surroundings: un-normalised sums come close to fp16's limit.

    Args:
        activation_logits: [B,M,h,w].
        features: [B,C,h,w].

    Returns:
        [B,M,C] in the features' dtype.
    """
    with torch.autocast(features.device.type, enabled=False):
        activations = activation_logits.float().sigmoid().flatten(2)  # [B,M,hw]
        weights = activations / activations.sum(dim=-1, keepdim=True).clamp(min=1e-6)
        return (weights @ features.float().flatten(2).transpose(1, 2)).to(features.dtype)


def pool_by_softmax(activation_logits: Tensor, features: Tensor) -> Tensor:
    """Weighted average of the features under softmax activation maps, whose weights sum to 1 by themselves; in fp32.

    Args:
        activation_logits: [B,M,h,w].
        features: [B,C,h,w].

    Returns:
        [B,M,C] in the features' dtype.
    """
    with torch.autocast(features.device.type, enabled=False):
        weights = activation_logits.float().flatten(2).softmax(dim=-1)  # [B,M,hw]
        return (weights @ features.float().flatten(2).transpose(1, 2)).to(features.dtype)


class MaskBranch(nn.Module):
    """Features -> D mask feature maps that the kernels weigh."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.mask_convs = conv_stack(in_channels, config.channels, config.depth)
        self.projection = nn.Conv2d(config.channels, config.kernel_dim, 1)
        initialise.for_relu(self.projection)

    def forward(self, features: Tensor) -> Tensor:
        """[B,C+2,h,w] -> [B,D,h,w]."""
        return self.projection(self.mask_convs(features))


class Decoder(nn.Module):
    """The encoder's map -> classes, objectness and masks of N instances."""

    def __init__(self, in_channels: int, config: DecoderConfig) -> None:
        super().__init__()
        self.inst_branch = InstanceBranch(in_channels + COORDINATES, config)
        self.mask_branch = MaskBranch(in_channels + COORDINATES, config)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """[B,C,h,w] at stride 8 -> logits `pred_logits` [B,N,K], `pred_scores` [B,N,1], `pred_masks` [B,N,2h,2w]."""
        features = append_coordinates(features)
        logits, kernels, objectness = self.inst_branch(features)
        mask_features = self.mask_branch(features)
        batch, _, height, width = mask_features.shape
        masks = (kernels @ mask_features.flatten(2)).view(batch, -1, height, width)
        masks = F.interpolate(masks, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"pred_logits": logits, "pred_scores": objectness, "pred_masks": masks}
