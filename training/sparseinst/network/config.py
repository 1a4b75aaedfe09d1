"""The network's architecture as typed values: what a checkpoint stores beside its weights to be built again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EncoderConfig:
    """Instance context encoder: pyramid pooling on C5, top-down fusion to stride 8.

    Attributes:
        channels: width of every feature map in the encoder, a multiple of the number of pool sizes.
        pool_sizes: output sides of the pyramid pooling, in feature-map cells.
    """

    channels: int = 256
    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)


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
    """

    classes: int = 80
    instances: int = 100
    groups: int = 4
    channels: int = 256
    depth: int = 4
    kernel_dim: int = 128
    iam_activation: Literal["sigmoid", "softmax"] = "sigmoid"

    def __post_init__(self) -> None:
        """Refuse what the decoder cannot be built from."""
        if self.channels % self.groups:
            raise ValueError(f"decoder channels {self.channels} must be divisible by groups {self.groups}")
        if self.iam_activation not in ("sigmoid", "softmax"):
            raise ValueError(f"iam_activation is {self.iam_activation!r}; wanted sigmoid or softmax")


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
        encoder = EncoderConfig(raw["encoder"]["channels"], tuple(raw["encoder"]["pool_sizes"]))
        return cls(raw["backbone"], encoder, DecoderConfig(**raw["decoder"]))
