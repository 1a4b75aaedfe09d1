"""Initial weights of the published model, by the kind of layer."""

from __future__ import annotations

from torch import nn

Layer = nn.Conv2d | nn.Linear


def for_relu(layer: Layer) -> None:
    """Kaiming normal over the outputs, for layers in front of a ReLU; bias 0."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    set_bias(layer, 0.0)


def for_fusion(layer: Layer) -> None:
    """Kaiming uniform with slope 1, for layers without an activation behind them; bias 0."""
    nn.init.kaiming_uniform_(layer.weight, a=1)
    set_bias(layer, 0.0)


def small(layer: Layer, bias: float = 0.0) -> None:
    """Normal with standard deviation 0.01, for predictors whose first answers are their bias."""
    nn.init.normal_(layer.weight, std=0.01)
    set_bias(layer, bias)


def set_bias(layer: Layer, value: float) -> None:
    """Fill the bias, where the layer has one."""
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)
