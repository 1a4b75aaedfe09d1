"""Where OpenVINO's time goes on a CPU, layer by layer, held against what the graph's passes need at least.

OpenVINO fuses in its own way and says which operators of the graph each of its layers holds; the passes of
`graph_cost` are found by these names. Its counters slow it down a little, so the whole is measured without them too.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseinst_export.cpu_peak import clock
from sparseinst_export.roofline import products, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sparseinst_export.graph_cost import Cost, GraphCost
    from sparseinst_export.roofline import Peak

UNBIASED = "/WithoutBiases"  # what OpenVINO adds to a convolution's name when it takes the bias apart
PRODUCTS = {"Convolution", "GroupConvolution", "MatMul", "FullyConnected", "DeformableConvolution"}
WARM_UP = 3


@dataclass(frozen=True)
class Layer:
    """A layer as the engine executes it.

    Attributes:
        name: the engine's.
        kind: the engine's, as `Convolution` or `Reorder`.
        operators: of the graph, those that it holds; none for what the engine added.
        seconds: median.
    """

    name: str
    kind: str
    operators: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class EngineTimes:
    """What was measured for one batch.

    Attributes:
        whole: median seconds of an inference, without counters; see `cpu_peak.clock`.
        layers: those that took time, in the order of execution, by the engine's counters.
        threads: that the engine ran on.
    """

    whole: float
    layers: tuple[Layer, ...]
    threads: int


@dataclass(frozen=True)
class Share:
    """How much of the roofline a part or a kind of layer reaches.

    Attributes:
        name: of the part or the kind.
        seconds: measured.
        least: what its passes need at least: products at the peak rate, or bytes at the bandwidth of the cache.
        compute: products alone at the peak rate.
        macs: multiply-adds.
    """

    name: str
    seconds: float
    least: float
    compute: float
    macs: int


def measure(graph: bytes, pictures: np.ndarray, threads: int, repeats: int, tick: Callable[[], None]) -> EngineTimes:
    """Run a graph in OpenVINO, in float32 (int8 where the graph says so) as it is served.

    Args:
        graph: the ONNX file's bytes.
        pictures: uint8 [B,H,W,3].
        threads: that the engine runs on.
        repeats: inferences that count, of each kind.
        tick: called after each of them.
    """
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape({model.inputs[0]: list(pictures.shape)})
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    plain = core.compile_model(model, "CPU", settings).create_infer_request()
    counting = core.compile_model(model, "CPU", settings | {"PERF_COUNT": "YES"})
    counted = counting.create_infer_request()
    taken: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, str] = {}
    whole = []
    now = clock(threads)
    for index in range(WARM_UP + repeats):  # in turn, so that a busy machine is busy for both
        start = now()
        plain.infer([pictures])
        end = now()
        counted.infer([pictures])
        if index < WARM_UP:
            continue
        whole.append(end - start)
        for one in counted.get_profiling_info():
            taken[one.node_name].append(one.real_time.total_seconds())
            kinds[one.node_name] = one.node_type
        tick()
    operators = {op.get_friendly_name(): _operators(op) for op in counting.get_runtime_model().get_ordered_ops()}
    layers = tuple(
        Layer(name, kinds[name], operators.get(name, ()), statistics.median(values))
        for name, values in taken.items()
        if any(values)
    )
    return EngineTimes(statistics.median(whole), layers, threads)


def _operators(op: Any) -> tuple[str, ...]:
    names = op.get_rt_info()["originalLayersNames"].astype(str)
    return tuple(dict.fromkeys(name.removesuffix(UNBIASED) for name in names.split(",") if name))


def shares(times: EngineTimes, cost: GraphCost, peak: Peak) -> tuple[list[Share], list[Share], list[Share]]:
    """Measured against least times by part, by kind of layer, and layer by layer, the largest loss first.

    What the engine adds (changes of layout) has no least time and counts to the part of the layer before it.
    """
    found = _passes_of(times.layers, cost.passes)
    by_part: dict[str, list[tuple[float, tuple[Cost, ...]]]] = defaultdict(list)
    by_kind: dict[str, list[tuple[float, tuple[Cost, ...]]]] = defaultdict(list)
    one_by_one = []
    part = cost.passes[0].part
    for layer, passes in zip(times.layers, found, strict=True):
        part = passes[0].part if passes else part
        kind = passes[0].kind if passes and layer.kind in PRODUCTS else layer.kind
        by_part[part].append((layer.seconds, passes))
        by_kind[kind].append((layer.seconds, passes))
        one_by_one.append(
            _share(f"{part}: {kind} {layer.name.removesuffix(UNBIASED)}", [(layer.seconds, passes)], peak)
        )
    one_by_one.sort(key=lambda share: share.least - share.seconds)
    kinds = sorted((_share(name, rows, peak) for name, rows in by_kind.items()), key=lambda share: -share.seconds)
    return [_share(name, rows, peak) for name, rows in by_part.items()], kinds, one_by_one


def _share(name: str, rows: Sequence[tuple[float, tuple[Cost, ...]]], peak: Peak) -> Share:
    passes = [cost for _, costs in rows for cost in costs]
    return Share(
        name=name,
        seconds=sum(taken for taken, _ in rows),
        least=seconds(passes, peak),
        compute=sum(products(cost, peak) for cost in passes),
        macs=sum(cost.macs for cost in passes),
    )


def _passes_of(layers: Sequence[Layer], passes: Sequence[Cost]) -> list[tuple[Cost, ...]]:
    # A pass that the engine computes in several layers belongs to the one with the product, else to the first.
    holder: dict[int, int] = {}
    pass_of = {name: index for index, cost in enumerate(passes) for name in cost.operators}
    found: list[list[int]] = [[] for _ in layers]
    for place, layer in sorted(enumerate(layers), key=lambda pair: (pair[1].kind not in PRODUCTS, pair[0])):
        for index in dict.fromkeys(pass_of[name] for name in layer.operators if name in pass_of):
            if holder.setdefault(index, place) == place:
                found[place].append(index)
    return [tuple(passes[index] for index in indices) for indices in found]
