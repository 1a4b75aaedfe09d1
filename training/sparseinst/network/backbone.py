"""Backbones: a picture in, feature maps C3, C4, C5 (strides 8, 16, 32) out.

A new backbone is one function or class and one row in `BACKBONES`. Batch norms of the ResNets and of MobileNetV2 are
frozen: statistics and affine terms stay as pre-trained, because detection batches are too small to estimate them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from sparseinst.network.deformable import DeformableConv2d
from sparseinst.network.frozen_norm import freeze_norms
from sparseinst.state_dicts import read_state_dict


class Backbone(nn.Module, ABC):
    """What every backbone has.

    Attributes:
        channels: widths of C3, C4, C5.
    """

    channels: tuple[int, int, int]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""

    @abstractmethod
    def from_library(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameter names of the library that trained the ImageNet weights -> ours."""


class MobileNetV2(Backbone):
    """Torchvision's MobileNetV2 up to stride 32, with its parameter names (`features.0` ... `features.17`)."""

    channels = (32, 96, 320)
    taps = (6, 13, 17)  # the last block of strides 8, 16 and 32

    def __init__(self) -> None:
        super().__init__()
        self.features = cast(nn.Sequential, freeze_norms(mobilenet_v2(weights=None).features[: self.taps[-1] + 1]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""
        maps = []
        for index, block in enumerate(self.features):
            images = block(images)
            if index in self.taps:
                maps.append(images)
        return maps

    def from_library(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Torchvision's parameter names -> ours; takes the flat layout of torchvision before 0.5 as well."""
        if "features.1.conv.0.weight" not in state:
            return state
        return {re.sub(r"^features\.(\d+)\.conv\.(\d+)\.", _nested_name, name): value for name, value in state.items()}


class TimmBackbone(Backbone):
    """One of timm's networks up to stride 32, with timm's parameter names behind `features.`.

    Args:
        name: timm's name of the architecture.
        taps: timm's indices of the feature maps at strides 8, 16 and 32.
        options: what else timm's constructor takes.
    """

    def __init__(self, name: str, taps: tuple[int, int, int], **options: Any) -> None:
        super().__init__()
        library: Any = timm.create_model(name, features_only=True, out_indices=taps, pretrained=False, **options)
        self.features: nn.ModuleDict = library
        self.channels = cast("tuple[int, int, int]", tuple(library.feature_info.channels()))

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] normalised -> [C3, C4, C5]."""
        maps: list[Tensor] = self.features(images)
        return maps

    def from_library(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Timm's parameter names -> ours; offsets of deformable convolutions, which ImageNet does not know, keep 0."""
        # timm flattens the first level where it gives out feature maps: `stages.0` becomes `stages_0`
        flat = {re.sub(r"^(stem|stages)\.", r"\1_", name): value for name, value in state.items()}
        named = {f"features.{name}": value for name, value in flat.items()}
        return {name: value for name, value in self.state_dict().items() if ".offset." in name} | named


def resnet(name: str, *, deformable: bool = False) -> TimmBackbone:
    """A ResNet with frozen batch norms, stride in the 3x3 convolutions; `d` in timm's name is the paper's `vd`.

    Args:
        name: timm's name of the architecture.
        deformable: deformable 3x3 convolutions in the last two stages (res4, res5).
    """
    backbone = TimmBackbone(name, taps=(2, 3, 4))
    for stage in ("layer3", "layer4") if deformable else ():
        for block in cast(Any, backbone.features[stage]):
            plain = block.conv2
            block.conv2 = DeformableConv2d(plain.in_channels, plain.out_channels, plain.stride[0])
            block.conv2.weight = plain.weight  # as initialised for a ResNet
    backbone.features = cast(nn.ModuleDict, freeze_norms(backbone.features))
    return backbone


def darknet(name: str) -> TimmBackbone:
    """DarkNet-53 or its cross-stage partial form: batch norms learn, LeakyReLU of slope 0.01, in timm as published."""
    return TimmBackbone(name, taps=(3, 4, 5))


def pyramid_vision_transformer(name: str) -> TimmBackbone:
    """PVTv2; in training a block is skipped with a probability that grows with its depth, up to 0.1, as published.

    LayerNorms have eps 1e-6 in blocks and behind stages, 1e-5 behind patch embeddings and inside the attention; both
    in timm and as published.
    """
    return TimmBackbone(name, taps=(1, 2, 3), drop_path_rate=0.1)


def _nested_name(flat: re.Match[str]) -> str:
    """One layer of an inverted residual block: its place in a flat list -> (group, place in the group)."""
    block, layer = flat.groups()
    nested = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    if block == "1":  # the first block has no expansion
        nested |= {"3": "1", "4": "2"}
    return f"features.{block}.conv.{nested[layer]}."


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "mobilenet_v2": MobileNetV2,
    "resnet50": partial(resnet, "resnet50"),
    "resnet50_dcn": partial(resnet, "resnet50", deformable=True),
    "resnet50d": partial(resnet, "resnet50d"),
    "resnet50d_dcn": partial(resnet, "resnet50d", deformable=True),
    "resnet101": partial(resnet, "resnet101"),
    "resnet101_dcn": partial(resnet, "resnet101", deformable=True),
    "darknet53": partial(darknet, "darknet53"),
    "cspdarknet53": partial(darknet, "cspdarknet53"),
    "pvt_v2_b1": partial(pyramid_vision_transformer, "pvt_v2_b1"),
    "pvt_v2_b2_li": partial(pyramid_vision_transformer, "pvt_v2_b2_li"),
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
    """Fill a backbone from a state dict of its library (torchvision for MobileNetV2, timm for all others).

    The classifier and other layers behind stride 32 are left out; a backbone tensor without a value is an error.

    Args:
        backbone: what to fill.
        path: a state dict that torch saved, or a `.safetensors` file, as timm's weights come in; see `read_state_dict`.

    Raises:
        OSError: no such file.
        ValueError: the file cannot be read, or tensors of the backbone are missing in it or have another shape.
    """
    named = backbone.from_library(read_state_dict(path))
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
