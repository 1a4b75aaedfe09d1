"""The layers of a graph that can be quantised, in groups by the module of the network that they belong to.

Convolutions with constant weights are those layers: nearly all multiplications are in them. Normalisation of the
pictures, pooling under the activation maps, heads, mask product and scoring have next to none and stay float.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import prod

import onnx

from sparseinst_export.verify import ExportError

PREFIX = "model."  # of every weight in a graph of ours: ServingModel's attribute


@dataclass(frozen=True)
class Layer:
    """A convolution with constant weights.

    Attributes:
        node: its name in the graph.
        weight: name of its weights.
        group: module of the network, as `backbone.layer1`.
        macs: multiplications for one picture.
    """

    node: str
    weight: str
    group: str
    macs: int


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """The convolutions of a folded graph, in the order of computation.

    Raises:
        ExportError: there are none with weights that are named after the network's modules.
    """
    shaped = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {value.name: _positions(value) for value in (*shaped.value_info, *shaped.output)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers = [
        Layer(node.name, node.input[1], group_of(node.input[1]), prod(weights[node.input[1]]) * sizes[node.output[0]])
        for node in model.graph.node
        if node.op_type == "Conv" and node.input[1] in weights and node.input[1].startswith(PREFIX)
    ]
    if not layers or not all(layer.node for layer in layers):
        raise ExportError(
            "the graph has no convolutions that are named after the network's modules; wanted a graph that "
            "`sparseinst-export onnx` wrote"
        )
    return layers


def group_of(weight: str) -> str:
    """`model.backbone.features.layer1.0.conv1.weight` -> `backbone.layer1`.

    A backbone is grouped by its stages (MobileNetV2 by its blocks), the encoder by its four parts, the decoder by
    branch: the convolutions on instance features, activation maps, convolutions on mask features, and projection.
    """
    room, *parts = weight.removeprefix(PREFIX).split(".")
    part = parts[0] if room == "encoder" or len(parts) < 3 else parts[1]
    return f"{room}.{part}"


def by_group(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Layers by group, groups in the order of computation."""
    groups: dict[str, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[layer.group].append(layer)
    return dict(groups)


def check_groups(names: tuple[str, ...], groups: dict[str, list[Layer]]) -> None:
    """Raise ExportError where a name is no group."""
    if unknown := [name for name in names if name not in groups]:
        raise ExportError(f"there is no group {unknown[0]}; the graph's groups are {', '.join(groups)}")


def _positions(value: onnx.ValueInfoProto) -> int:
    # Positions of a map [B,C,h,w]; unknown sizes count 1.
    return prod(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim[2:])
