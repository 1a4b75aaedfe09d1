"""The least time a graph can take on given hardware: multiply-adds over peak rate, bytes over bandwidth.

`floor`: all products at the peak rate, or every weight, picture and output moved once, whichever takes longer. Only
what multiplies less than the graph says, as Winograd's convolutions do, goes below it. `fused`: each pass takes the
longer of its products and its bytes; engines come near it where activations do not stay in a cache. `unfused`: the
same, operator by operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sparseinst_export.graph_cost import Cost, GraphCost

WIDTHS = {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1}  # bytes of a value
SHEETS = "https://www.nvidia.com/en-us/data-center/"


@dataclass(frozen=True)
class Peak:
    """What hardware can do at most.

    Attributes:
        name: of the hardware.
        precision: one of `WIDTHS`, that of floating-point values in the graph.
        operations: floating-point operations a second, two for a multiply-add; dense, without sparsity.
        bandwidth: of the memory, in bytes a second.
        quantised: operations a second of int8 or fp8 products; None where they run at `operations`.
        near: bandwidth of the cache that activations stay in, in bytes a second; None where that is unknown.
        source: where the figures are from.
    """

    name: str
    precision: str
    operations: float
    bandwidth: float
    quantised: float | None = None
    near: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Bound:
    """Least times of one batch, in seconds.

    Attributes:
        compute: all products at the peak rate.
        once: every weight, picture and output moved once.
        fused: pass by pass, the longer of its products and its bytes.
        unfused: operator by operator, likewise.
    """

    compute: float
    once: float
    fused: float
    unfused: float

    @property
    def floor(self) -> float:
        """What no engine goes below that computes the products as they stand."""
        return max(self.compute, self.once)


def _sheet(name: str, page: str, bandwidth: float, **tera: float) -> list[Peak]:
    # tera: dense operations a second by precision, in 1e12; bandwidth in GB/s.
    return [
        Peak(name, precision, rate * 1e12, bandwidth * 1e9, source=f"{SHEETS}{page}")
        for precision, rate in tera.items()
    ]


# NVIDIA's data sheets; those of L4 and Hopper print rates with sparsity, which are halved here.
GPUS = (
    *_sheet("T4", "tesla-t4/", 320, fp16=65, int8=130),
    *_sheet("L4", "l4/", 300, fp16=121, int8=242.5, fp8=242.5),
    *_sheet("A10", "products/a10-gpu/", 600, fp16=125, int8=250),
    *_sheet("H100 SXM", "h100/", 3350, fp16=989.5, int8=1979, fp8=1979),
    *_sheet("H200 SXM", "h200/", 4800, fp16=989.5, int8=1979, fp8=1979),
)


def bound(cost: GraphCost, peak: Peak) -> Bound:
    """The least times of a graph on given hardware.

    Args:
        cost: of the graph, for one batch.
        peak: the hardware; every floating-point value takes the width of its precision, whatever the graph gives it.
    """
    return Bound(
        compute=sum(products(one, peak) for one in cost.operators),
        once=cost.once.bytes(WIDTHS[peak.precision]) / peak.bandwidth,
        fused=seconds(cost.passes, peak),
        unfused=seconds(cost.operators, peak),
    )


def seconds(costs: Iterable[Cost], peak: Peak) -> float:
    """One after the other, each the longer of its products and its bytes; bytes at the cache's rate where known."""
    width, rate = WIDTHS[peak.precision], peak.near or peak.bandwidth
    return sum(max(products(cost, peak), cost.moved.bytes(width) / rate) for cost in costs)


def products(cost: Cost, peak: Peak) -> float:
    """Seconds of an operator's products at the peak rate."""
    rate = peak.quantised if cost.quantised and peak.quantised else peak.operations
    return 2 * cost.macs / rate


def intensity(costs: Iterable[Cost], precision: str) -> float:
    """Operations for each byte moved: below a machine's own ratio it is the memory that bounds."""
    costs = list(costs)
    moved = sum(cost.moved.bytes(WIDTHS[precision]) for cost in costs)
    return 2 * sum(cost.macs for cost in costs) / moved if moved else 0.0
