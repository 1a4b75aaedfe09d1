"""The network's architecture as typed values: what a checkpoint stores beside its weights to be built again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Activation = Literal["sigmoid", "softmax"]
Gathering = Literal["iam", "cross_attention"]


@dataclass(frozen=True)
class EncoderConfig:
    """Instance context encoder: pyramid pooling on C5, top-down fusion to stride 8.

    Attributes:
        channels: width of every feature map in the encoder, a multiple of the number of pool sizes.
        pool_sizes: output sides of the pyramid pooling, in feature-map cells; empty leaves the pooling out.
        fusion: the maps of all strides are fused; without, the map at stride 8 is given out as it is.
    """

    channels: int = 256
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)
    fusion: bool = True

    def __post_init__(self) -> None:
        """Refuse what the encoder cannot be built from."""
        if self.pool_sizes and self.channels % len(self.pool_sizes):
            raise ValueError(f"encoder channels {self.channels} must be divisible by {len(self.pool_sizes)} pool sizes")


@dataclass(frozen=True)
class DecoderConfig:
    """Instance activation map (IAM) decoder.

    Attributes:
        classes: number of object classes C.
        instances: number of instance activation maps N, the most instances a picture can have.
        groups: activation maps for one instance; 1 is the plain decoder, 4 the paper's G-IAM. Divides `channels`.
        channels: width of both branches.
        depth: number of 3x3 convolutions in each branch.
        kernel_dim: length of a mask kernel, the number of mask feature maps.
        iam_activation: what makes an activation map of logits: `sigmoid` of each cell, divided by the map's sum, or
            `softmax` over all cells of the map.
        iam_kernel: side of the convolution that gives the logits, 3 or 1.
        iam_depth: number of those convolutions, with ReLU between them.
        coordinates: two channels with the position of each cell go before the features.
        deformable: the last 3x3 convolution of each branch is a deformable one.
        gathering: how an instance's features are gathered: `iam`, or `cross_attention` of learned queries.
        heads: of the cross-attention; divides `channels` there.
        rescoring: an instance's score is the root of class probability times objectness; without, the class
            probability alone.
    """

    classes: int = 80
    instances: int = 100
    groups: int = 4
    channels: int = 256
    depth: int = 4
    kernel_dim: int = 128
    iam_activation: Activation = "sigmoid"
    iam_kernel: int = 3
    iam_depth: int = 1
    coordinates: bool = True
    deformable: bool = False
    gathering: Gathering = "iam"
    heads: int = 4
    rescoring: bool = True

    def __post_init__(self) -> None:
        """Refuse what the decoder cannot be built from."""
        if self.channels % self.groups:
            raise ValueError(f"decoder channels {self.channels} must be divisible by groups {self.groups}")
        if self.gathering == "cross_attention" and self.channels % self.heads:
            raise ValueError(f"decoder channels {self.channels} must be divisible by heads {self.heads}")
        if self.iam_activation not in get_args(Activation):
            raise ValueError(f"iam_activation is {self.iam_activation!r}; wanted sigmoid or softmax")
        if self.iam_kernel not in (1, 3):
            raise ValueError(f"iam_kernel is {self.iam_kernel}; wanted 3 or 1")
        if self.gathering not in get_args(Gathering):
            raise ValueError(f"gathering is {self.gathering!r}; wanted iam or cross_attention")
        if self.gathering == "cross_attention" and self.groups > 1:
            raise ValueError(f"cross_attention has no groups of activation maps; got groups {self.groups}, wanted 1")
        if min(self.depth, self.iam_depth) < 1:
            raise ValueError(f"depth is {self.depth}, iam_depth {self.iam_depth}; wanted at least one convolution each")


@dataclass(frozen=True)
class NetworkConfig:
    """A whole SparseInst; the defaults are G-IAM on ResNet-50.

    Attributes:
        backbone: a key of `backbone.BACKBONES`.
    """

    backbone: str = "resnet50"
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @classmethod
    def from_dict(cls, raw: dict) -> NetworkConfig:
        """Rebuild a config from `dataclasses.asdict` after a trip through JSON (tuples come back as lists)."""
        encoder = raw["encoder"] | {"pool_sizes": tuple(raw["encoder"]["pool_sizes"])}
        return cls(raw["backbone"], EncoderConfig(**encoder), DecoderConfig(**raw["decoder"]))
