"""What a graph costs on paper, operator by operator: multiply-adds, and bytes of weights and activations moved.

Read from the ONNX file alone, for one batch size; nothing is computed. One multiply-add (MAC) is half of what FLOP
counters count, and products are what `sparseinst.cost` counts: convolutions and matrix products, attention's too.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto

from sparseinst_export.graph_parts import find_parts
from sparseinst_export.graph_products import PRODUCTS, kind_of, multiply_adds
from sparseinst_export.verify import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
VIEWS = {
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "DequantizeLinear",
}  # no engine moves bytes for these
SHAPES = {"Shape", "Size"}
# What engines work into the pass that made its input.
ELEMENTWISE = {
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "Pow",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Abs",
        "Exp",
        "Erf",
        "Tanh",
        "Round",
    ),
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu", "Cast", "QuantizeLinear"),
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Not", "Where"),
}


@dataclass(frozen=True)
class Traffic:
    """Bytes that are moved, with the width of floating-point values left open.

    Attributes:
        floats: values of a floating-point type, whichever the graph gives them.
        others: bytes of all else: uint8 pictures and masks, labels, int8 and fp8 tensors.
    """

    floats: int = 0
    others: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.floats + other.floats, self.others + other.others)

    def bytes(self, width: float) -> float:
        """Bytes where a floating-point value takes `width` of them."""
        return self.floats * width + self.others


@dataclass(frozen=True)
class Cost:
    """One operator, or several that an engine computes in one pass over memory.

    Attributes:
        name: of the first operator.
        kind: its operator, a convolution with its kernel: `Conv 3x3`, `Conv 3x3 depthwise`.
        part: see `graph_parts`.
        operators: names of all operators in it, those that move nothing left out.
        macs: multiply-adds of the batch.
        quantised: its product is one of int8 or fp8 values.
        weights: constants read.
        read: activations read.
        written: activations written.
    """

    name: str
    kind: str
    part: str
    operators: tuple[str, ...]
    macs: int
    quantised: bool
    weights: Traffic
    read: Traffic
    written: Traffic

    @property
    def activations(self) -> Traffic:
        """Activations read and written."""
        return self.read + self.written

    @property
    def moved(self) -> Traffic:
        """All that is moved."""
        return self.weights + self.activations


@dataclass(frozen=True)
class GraphCost:
    """A graph's costs for one batch size.

    Attributes:
        batch: pictures.
        operators: each one by itself, reading its inputs from memory and writing its outputs there.
        passes: the same with what follows a convolution value by value (norm, activation, sum) in the convolution's
            pass, as engines compute it.
        once: every weight, the pictures and the outputs, once: the least that any engine moves.
    """

    batch: int
    operators: tuple[Cost, ...]
    passes: tuple[Cost, ...]
    once: Traffic

    @property
    def macs(self) -> int:
        """Multiply-adds of the batch."""
        return sum(cost.macs for cost in self.operators)


@dataclass
class _Graph:
    """A graph with all shapes known, constants and views resolved."""

    nodes: list[onnx.NodeProto]
    shapes: dict[str, tuple[int, ...]]
    traffic: dict[str, Traffic]
    constant: set[str]
    root: dict[str, str] = field(default_factory=dict)  # a view's output -> the tensor whose bytes it is
    restored: set[str] = field(default_factory=set)  # outputs of DequantizeLinear

    def of(self, names: Iterable[str]) -> list[str]:
        """The tensors behind these names, each once, optional inputs that are not there left out."""
        return list(dict.fromkeys(self.root.get(name, name) for name in names if name))


def count(model: onnx.ModelProto, batch: int = 1) -> GraphCost:
    """Count a graph's costs.

    Args:
        model: any ONNX graph whose first dimension of inputs is the batch; parts are found in graphs of ours.
        batch: pictures in one pass.

    Raises:
        ExportError: a batch that is none or that the graph does not take, or shapes that cannot be inferred.
    """
    graph = _read(model, batch)
    working = [node for node in graph.nodes if node.output[0] not in graph.constant]
    parts = find_parts(working, model.graph)
    working = [node for node in working if node.op_type not in VIEWS]
    given = set(graph.of(value.name for value in model.graph.output))
    operators = tuple(_cost([node], graph, parts, set(node.output)) for node in working)
    passes = tuple(_cost(group, graph, parts, outside) for group, outside in _passes(working, graph, given))
    constants = {name for node in working for name in graph.of(node.input) if name in graph.constant}
    ends = {value.name for value in model.graph.input} | given
    once = sum((graph.traffic[name] for name in constants | ends if name in graph.traffic), Traffic())
    return GraphCost(batch, operators, passes, once)


def _passes(
    working: list[onnx.NodeProto], graph: _Graph, given: set[str]
) -> list[tuple[list[onnx.NodeProto], set[str]]]:
    """The operators of each pass, with the tensors that are wanted outside of it."""
    users: dict[str, int] = defaultdict(int)
    for node in working:
        for name in graph.of(node.input):
            users[name] += 1
    groups: list[list[onnx.NodeProto]] = []
    maker: dict[str, int] = {}  # tensor -> index of the pass that makes it
    for node in working:
        joins = [maker[n] for n in graph.of(node.input) if n in maker and users[n] == 1 and n not in given]
        if node.op_type in ELEMENTWISE and joins:
            place = max(joins)
            groups[place].append(node)
        else:
            place = len(groups)
            groups.append([node])
        maker |= dict.fromkeys(node.output, place)
    outside = [given & {name for node in group for name in node.output} for group in groups]
    for place, group in enumerate(groups):
        for name in {name for node in group for name in graph.of(node.input)}:
            if maker.get(name, place) != place:
                outside[maker[name]].add(name)
    return list(zip(groups, outside, strict=True))


def _read(model: onnx.ModelProto, batch: int) -> _Graph:
    if batch < 1:
        raise ExportError(f"batch is {batch}; wanted at least 1")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    constants = {tensor.name for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        if value.name in constants:
            continue
        first = value.type.tensor_type.shape.dim[0]
        if not first.dim_param and first.dim_value != batch:
            raise ExportError(f"the graph takes batches of {first.dim_value} and no other; got {batch}")
        first.dim_value = batch
    outputs = [value.name for value in fixed.graph.output]
    del fixed.graph.output[:]  # their batch is a name still; shapes are inferred for all alike
    del fixed.graph.value_info[:]
    for index, node in enumerate(fixed.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes, traffic = {}, {}
    for tensor in fixed.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        traffic[tensor.name] = _traffic(shapes[tensor.name], tensor.data_type)
    for value in (*fixed.graph.input, *inferred.value_info):
        kind = value.type.tensor_type
        shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
        traffic[value.name] = _traffic(shapes[value.name], kind.elem_type)
        if any(not dim.HasField("dim_value") for dim in kind.shape.dim):
            del shapes[value.name]
    graph = _Graph(list(fixed.graph.node), shapes, traffic, constants)
    for node in graph.nodes:
        _resolve(node, graph)
    if missing := [name for name in outputs if name not in shapes]:
        raise ExportError(f"the shape of {missing[0]} cannot be inferred for a batch of {batch}")
    return graph


def _resolve(node: onnx.NodeProto, graph: _Graph) -> None:
    # Shapes are known, so what is made of shapes and weights alone is a constant too, as engines fold it.
    inputs = [name for name in node.input if name]
    if node.op_type in SHAPES or all(name in graph.constant for name in inputs):
        graph.constant |= set(node.output)
    if node.op_type == "DequantizeLinear":
        graph.restored.add(node.output[0])
    if node.op_type in VIEWS or (node.op_type == "Cast" and inputs[0] in graph.constant):
        graph.root[node.output[0]] = graph.root.get(inputs[0], inputs[0])


def _cost(group: list[onnx.NodeProto], graph: _Graph, parts: dict[str, str], outside: set[str]) -> Cost:
    made = {name for node in group for name in node.output if name}
    inputs = [name for name in graph.of(n for node in group for n in node.input) if name not in made]
    unknown = [name for name in (*inputs, *made & outside) if name not in graph.traffic]
    if unknown or any(name not in graph.shapes for name in made):
        raise ExportError(f"{group[0].name} ({group[0].op_type}): the shapes of its tensors cannot be inferred")

    def total(names: Iterable[str]) -> Traffic:
        return sum((graph.traffic[name] for name in names), Traffic())

    head = next((node for node in group if node.op_type in PRODUCTS), group[0])
    return Cost(
        name=head.name,
        kind=kind_of(head, graph.shapes),
        part=parts[head.output[0]],
        operators=tuple(node.name for node in group),
        macs=sum(multiply_adds(node, graph.shapes) for node in group),
        quantised=head.op_type in PRODUCTS and all(name in graph.restored for name in head.input[:2]),
        weights=total(name for name in inputs if name in graph.constant),
        read=total(name for name in inputs if name not in graph.constant),
        written=total(made & outside),
    )


def _traffic(shape: tuple[int, ...], kind: int) -> Traffic:
    values = prod(shape)
    if kind in FLOATS:
        return Traffic(floats=values)
    if kind == TensorProto.INT64:  # shapes, axes and indices
        return Traffic()
    width = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize if kind else 0
    return Traffic(others=values * width)
