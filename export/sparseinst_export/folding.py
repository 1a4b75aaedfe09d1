"""A graph of ours as a quantiser wants it: what follows a convolution channel by channel worked into its weights.

The export writes frozen norms as a product and a sum behind the convolution, and weights that fp16 holds exactly in
fp16 with a cast. Left so, an int8 convolution would round before the norm, and the cast weights would be no constants.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable

Constants = dict[str, np.ndarray]
AFFINE = ("Mul", "Add")


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes the same with fewer operators: no casts of weights, no norms behind convolutions.

    Every convolution with constant weights has a bias afterwards, named after the weights. Names of weights, tensors
    between layers, inputs and outputs stay, and so does the metadata.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = _without_casts(graph.node, constants)
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            users[name].append(node)
    given = {tensor.name for tensor in graph.output}
    gone: set[str] = set()
    for node in nodes:
        if node.op_type == "Conv" and node.input[1] in constants and len(users[node.input[1]]) == 1:
            gone |= _fold_into(node, users, constants, given)
    nodes = [node for node in nodes if node.output[0] not in gone or node.op_type == "Conv"]
    _replace(graph, nodes, constants)
    del graph.value_info[:]
    return result


def initialisers(constants: Constants) -> Iterable[onnx.TensorProto]:
    """Constants as ONNX holds them."""
    return (numpy_helper.from_array(np.array(value, order="C"), name) for name, value in constants.items())


def bias_name(weight: str) -> str:
    """Name of the bias that belongs to weights of this name."""
    return weight.removesuffix(".weight") + ".bias"


def _without_casts(nodes: Iterable[onnx.NodeProto], constants: Constants) -> list[onnx.NodeProto]:
    kept = []
    for node in nodes:
        if node.op_type == "Cast" and node.input[0] in constants:
            kind = onnx.helper.tensor_dtype_to_np_dtype(next(a.i for a in node.attribute if a.name == "to"))
            constants[node.output[0]] = constants[node.input[0]].astype(kind)
        else:
            kept.append(node)
    return kept


def _fold_into(
    conv: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]], constants: Constants, given: set[str]
) -> set[str]:
    # Follows the chain of Mul and Add by one constant a channel; the convolution takes over the last one's output.
    weight = constants[conv.input[1]].astype(np.float64)
    bias = constants[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros(len(weight))
    spread = (-1,) + (1,) * (weight.ndim - 1)
    gone = set()
    while conv.output[0] not in given and len(users[conv.output[0]]) == 1:
        (after,) = users[conv.output[0]]
        others = [name for name in after.input if name != conv.output[0]]
        if after.op_type not in AFFINE or len(others) != 1 or not _one_a_channel(constants.get(others[0]), len(weight)):
            break
        value = constants[others[0]].astype(np.float64).reshape(-1)
        if after.op_type == "Mul":
            weight, bias = weight * value.reshape(spread), bias * value
        else:
            bias = bias + value
        conv.output[0] = after.output[0]
        gone.add(after.output[0])
    name = bias_name(conv.input[1])
    constants[conv.input[1]], constants[name] = weight.astype(np.float32), bias.astype(np.float32)
    del conv.input[2:]
    conv.input.append(name)
    return gone


def _one_a_channel(value: np.ndarray | None, channels: int) -> bool:
    # [C,1,1] and [1,C,1,1] run along the channels; [C] would run along the picture's rows.
    return value is not None and value.size == channels and value.shape[-3:] == (channels, 1, 1)


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], constants: Constants) -> None:
    used = Counter(name for node in nodes for name in node.input)
    kept = {name: value for name, value in constants.items() if used[name]}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initialisers(kept))
