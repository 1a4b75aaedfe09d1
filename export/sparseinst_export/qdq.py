"""Q/DQ pairs around chosen convolutions of a graph, in int8 or fp8, which every engine reads as quantised layers.

A layer that is not chosen is left exactly as it was, bias included. fp8 (E4M3) has an exponent, so that it needs no
bias correction and no uint8: weights are rounded from the float ones, and ranges are those of symmetric int8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from sparseinst_export.calibration import INT8_MAX, Quantised
from sparseinst_export.folding import initialisers
from sparseinst_export.onnx import store_halves

if TYPE_CHECKING:
    from sparseinst_export.layer_groups import Layer

Kind = Literal["int8", "fp8"]
E4M3_MAX = 448.0


def insert(model: onnx.ModelProto, layers: list[Layer], numbers: dict[str, Quantised], kind: Kind) -> onnx.ModelProto:
    """A copy with these layers quantised.

    Args:
        model: a folded graph in float32.
        layers: those to quantise; none gives the float graph.
        numbers: of at least these layers, by node; symmetric ones for fp8.
        kind: of integers or floats.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    store_halves(graph)  # what stays float is stored as the export stores it
    chosen = {layer.node for layer in layers}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer} if kind == "fp8" else {}
    constants: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []
    restored: dict[tuple[str, bytes], str] = {}  # tensors before several convolutions are rounded once
    for node in graph.node:
        if node.name in chosen:
            name, found = node.input[1], numbers[node.name]
            if kind == "fp8":
                found = _as_fp8(found, weights[name], weights[node.input[2]])
            key = (node.input[0], found.scale.tobytes() + found.zero_point.tobytes())
            if key not in restored:
                restored[key] = f"{node.input[0]}.{node.name}.restored"
                nodes += _round(node.input[0], restored[key], found, constants)
            rounded = f"{name}.{kind}"
            constants |= {
                rounded: found.weight,
                f"{name}.scale": found.weight_scale,
                f"{name}.zero": np.zeros(len(found.weight), found.weight.dtype),
                f"{node.input[2]}.{kind}": found.bias,
            }
            pair = [rounded, f"{name}.scale", f"{name}.zero"]
            nodes.append(helper.make_node("DequantizeLinear", pair, [f"{rounded}.restored"], f"{rounded}.dq", axis=0))
            node.input[:] = [restored[key], f"{rounded}.restored", f"{node.input[2]}.{kind}"]
        nodes.append(node)
    _replace(graph, nodes, constants)
    return result


def _round(tensor: str, restored: str, found: Quantised, constants: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    scale, zero, rounded = (f"{restored}.{part}" for part in ("scale", "zero", "rounded"))
    constants |= {scale: found.scale, zero: found.zero_point}
    axis: dict[str, Any] = {"axis": 1} if found.scale.ndim else {}
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, zero], [rounded], f"{restored}.q", **axis),
        helper.make_node("DequantizeLinear", [rounded, scale, zero], [restored], f"{restored}.dq", **axis),
    ]


def _as_fp8(found: Quantised, weight: np.ndarray, bias: np.ndarray) -> Quantised:
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)))
    scale = (np.where(largest > 0, largest, 1) / E4M3_MAX).astype(np.float32)
    rounded = weight / scale.reshape((-1,) + (1,) * (weight.ndim - 1))
    return Quantised(
        scale=(found.scale * (INT8_MAX / E4M3_MAX)).astype(np.float32),
        zero_point=np.zeros_like(found.scale).astype(ml_dtypes.float8_e4m3fn),
        weight=rounded.clip(-E4M3_MAX, E4M3_MAX).astype(ml_dtypes.float8_e4m3fn),
        weight_scale=scale,
        bias=bias,
    )


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> None:
    # A weight's cast that nobody needs any more goes, and then what it was cast from.
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used or _given(graph, node)]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *initialisers(constants)])


def _given(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    return node.output[0] in {tensor.name for tensor in graph.output}
