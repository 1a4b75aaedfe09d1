"""The operators of a graph that multiply and add: nearly all of its work."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = {"Conv", "DeformConv"}
PRODUCTS = {*CONVOLUTIONS, "MatMul", "Gemm"}


def multiply_adds(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds of one operator, from the shapes of its tensors; 0 for what is no product."""
    if node.op_type in CONVOLUTIONS:
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "MatMul":
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return 0


def kind_of(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> str:
    """The operator, a convolution with its kernel: `Conv 3x3`, `Conv 3x3 depthwise`, `Conv 3x3 grouped`."""
    if node.op_type not in CONVOLUTIONS:
        return node.op_type
    out, per_group, *kernel = shapes[node.input[1]]
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    words = " depthwise" if per_group == 1 and groups == out > 1 else " grouped" if groups > 1 else ""
    return f"{node.op_type} {'x'.join(map(str, kernel))}{words}"
