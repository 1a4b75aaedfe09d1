"""Which part of the network an operator of a graph belongs to, by the names of the weights that the export keeps.

Operators without weights follow from their neighbours: an activation belongs to the convolution before it, a
concatenation to what comes after, and scoring begins at the last probabilities, behind all products.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from sparseinst_export.graph_products import PRODUCTS
from sparseinst_export.layer_groups import PREFIX, group_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

PARTS = ("pictures", "backbone", "encoder", "decoder", "scoring")  # pictures: their normalisation
UNKNOWN = "graph"  # the only part of a graph that is not ours
HALF = f"{PREFIX}network."  # of the weights in a half-precision graph
PROBABILITIES = {"Sigmoid", "Softmax"}


def part_of(weight: str) -> str | None:
    """`model.encoder.fusion.weight` -> `encoder`; None for a name that is no weight of a part."""
    if weight.startswith(HALF):
        weight = PREFIX + weight.removeprefix(HALF)
    part = group_of(weight).partition(".")[0] if weight.startswith(PREFIX) and weight.count(".") > 1 else ""
    return part if part in PARTS else None


def find_parts(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> dict[str, str]:
    """The part of each operator.

    Args:
        nodes: those that compute something, in the order of computation.
        graph: what they are from.

    Returns:
        One of `PARTS` by the name of an operator's first output; `UNKNOWN` for all where no weight is named so.
    """
    named = {name: part for tensor in graph.initializer if (part := part_of(name := tensor.name))}
    if not named:
        return {node.output[0]: UNKNOWN for node in nodes}
    computed = {node.output[0] for node in nodes}
    for node in graph.node:  # casts and the like of weights
        if node.output[0] not in computed and node.input and node.input[0] in named:
            named[node.output[0]] = named[node.input[0]]
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in node.input:
            users[name].append(node)
    multiplied: set[str] = set()  # first outputs of operators that a product comes after
    for node in reversed(nodes):
        after = [user for name in node.output for user in users[name]]
        if any(user.op_type in PRODUCTS or user.output[0] in multiplied for user in after):
            multiplied.add(node.output[0])
    found: dict[str, str] = {}
    made: dict[str, str] = {}
    for node in nodes:
        own = [named[name] for name in node.input if name in named]
        before = [made[name] for name in node.input if name in made]
        part = max(own or before or [PARTS[0]], key=PARTS.index)
        if node.op_type in PROBABILITIES and node.output[0] not in multiplied and part == "decoder":
            part = "scoring"
        found[node.output[0]] = part
        made |= dict.fromkeys(node.output, part)
    for node in reversed(nodes):
        if node.op_type == "Concat" and (after := users[node.output[0]]):
            found[node.output[0]] = min((found[user.output[0]] for user in after), key=PARTS.index)
    return found
