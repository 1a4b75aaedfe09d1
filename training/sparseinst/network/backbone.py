"""Backbones: a picture in, feature maps C3, C4, C5 (strides 8, 16, 32) out.

A new backbone is one function and one row in `BACKBONES`. Batch norms are frozen: statistics and affine terms
stay as pre-trained, because detection batches are too small to estimate them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models import mobilenet_v2


class Backbone(nn.Module, ABC):
    """What every backbone has.

    Attributes:
        channels: widths of C3, C4, C5.
    """

    channels: tuple[int, int, int]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""

    @staticmethod
    @abstractmethod
    def from_library(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameter names of the library that trained the ImageNet weights -> ours."""


class MobileNetV2(Backbone):
    """Torchvision's MobileNetV2 up to stride 32, with its parameter names (`features.0` ... `features.17`)."""

    channels = (32, 96, 320)
    taps = (6, 13, 17)  # the last block of strides 8, 16 and 32

    def __init__(self) -> None:
        super().__init__()
        self.features = freeze_batch_norm_2d(mobilenet_v2(weights=None).features[: self.taps[-1] + 1])

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""
        maps = []
        for index, block in enumerate(self.features):
            images = block(images)
            if index in self.taps:
                maps.append(images)
        return maps

    @staticmethod
    def from_library(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Torchvision's parameter names -> ours; takes the flat layout of torchvision before 0.5 as well."""
        if "features.1.conv.0.weight" not in state:
            return state
        return {re.sub(r"^features\.(\d+)\.conv\.(\d+)\.", _nested_name, name): value for name, value in state.items()}


class ResNet50(Backbone):
    """Timm's ResNet-50 (stride in the 3x3 convolution), with timm's parameter names."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        library = timm.create_model("resnet50", features_only=True, out_indices=(2, 3, 4), pretrained=False)
        self.features = freeze_batch_norm_2d(library)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""
        maps: list[Tensor] = self.features(images)
        return maps

    @staticmethod
    def from_library(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Timm's parameter names -> ours."""
        return {f"features.{name}": value for name, value in state.items()}


def _nested_name(flat: re.Match[str]) -> str:
    """One layer of an inverted residual block: its place in a flat list -> (group, place in the group)."""
    block, layer = flat.groups()
    nested = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    if block == "1":  # the first block has no expansion
        nested |= {"3": "1", "4": "2"}
    return f"features.{block}.conv.{nested[layer]}."


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet50": ResNet50,
}


def build_backbone(name: str) -> Backbone:
    """A backbone with random weights.

    Raises:
        ValueError: the name is not in `BACKBONES`.
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; wanted one of {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]()


def load_imagenet_weights(backbone: Backbone, path: str | Path) -> None:
    """Fill a backbone from a state dict of its library (torchvision for MobileNetV2, timm for ResNet-50).

    The classifier and other layers behind stride 32 are left out; a backbone tensor without a value is an error.

    Raises:
        ValueError: tensors of the backbone are missing in the file or have another shape.
    """
    named = backbone.from_library(torch.load(path, map_location="cpu", weights_only=True))
    wanted = backbone.state_dict()
    faults = [
        f"{name} ({'missing' if name not in named else f'is {tuple(named[name].shape)}, wanted {tuple(tensor.shape)}'})"
        for name, tensor in wanted.items()
        if name not in named or named[name].shape != tensor.shape
    ]
    if faults:
        raise ValueError(
            f"{path} does not fit this backbone: {len(faults)} of {len(wanted)} tensors, the first {faults[0]}; "
            "give an ImageNet checkpoint of the same architecture"
        )
    backbone.load_state_dict({name: named[name] for name in wanted})
