"""The figures as pictures: throughput against latency, sizes of batches, and where the time goes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # no display; before pyplot is imported
import matplotlib.pyplot as plt

from sparseinst_client.benchmark.levels import IN_FLIGHT, RATE, Level
from sparseinst_client.benchmark.server import ENSEMBLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
PERCENTILES = {"p50_ms": "median", "p99_ms": "99th percentile"}
MARKERS = "osD^vX"


def draw(levels: Sequence[Level], formats: Sequence[str] = FORMATS) -> dict[str, bytes]:
    """The pictures that the levels have data for, by file name: throughput_latency, batch_sizes, stages.

    Args:
        levels: of one run.
        formats: endings of matplotlib's formats.
    """
    pictures = {
        "throughput_latency": _throughput_latency(levels),
        "batch_sizes": _batch_sizes(levels),
        "stages": _stages(levels),
    }
    files = {}
    for name, figure in pictures.items():
        if figure is None:
            continue
        for ending in formats:
            file = io.BytesIO()
            # Without a date the same levels give the same file.
            figure.savefig(file, format=ending, dpi=120, metadata={"Date": None} if ending == "svg" else None)
            files[f"{name}.{ending}"] = file.getvalue()
        plt.close(figure)
    return files


def _new(width: float = 7, height: float = 4.2) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _throughput_latency(levels: Sequence[Level]) -> Figure | None:
    """A curve for each scenario and percentile; latency is logarithmic, since it knows no limit near the capacity."""
    shown = [level for level in levels if level.latency]
    if not shown:
        return None
    figure, axes = _new()
    scenarios = list(dict.fromkeys(level.scenario for level in shown))
    for index, scenario in enumerate(scenarios):
        points = sorted((level for level in shown if level.scenario == scenario), key=lambda level: level.load)
        who = f"{scenario} ({points[0].generator})"
        for percentile, style in zip(PERCENTILES, (":", "-"), strict=True):
            axes.plot(
                [level.pictures_per_s for level in points],
                [level.latency[percentile] for level in points],
                style + MARKERS[index % len(MARKERS)],
                color=f"C{index}",
                markersize=4,
                label=f"{who}, {PERCENTILES[percentile]}",
            )
    axes.set(xlabel="pictures answered per second", ylabel="latency, ms", yscale="log", xlim=(0, None))
    axes.legend(fontsize="x-small")
    return figure


def _batch_sizes(levels: Sequence[Level]) -> Figure | None:
    """How large the network's batches were, in each level that has figures of its own."""
    network = f"{ENSEMBLE}_network"
    shown = [level for level in levels if network in level.stages and level.stages[network].batches]
    if not shown:
        return None
    shown = _representative(shown)
    figure, axes = _new()
    sizes = sorted({size for level in shown for size in level.stages[network].batches})
    width = 0.8 / len(shown)
    for index, level in enumerate(shown):
        batches = level.stages[network].batches
        total = sum(batches.values())
        axes.bar(
            [sizes.index(size) + (index - (len(shown) - 1) / 2) * width for size in batches],
            [100 * count / total for count in batches.values()],
            width,
            label=_name(level),
        )
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set(xlabel="pictures in a batch of the network", ylabel="% of batches")
    axes.legend(fontsize="x-small")
    return figure


def _stages(levels: Sequence[Level]) -> Figure | None:
    """Queue and compute of every model, stacked, in each level."""
    shown = _representative([level for level in levels if level.stages])
    names = sorted({name for level in shown for name in level.stages if name != ENSEMBLE})
    if not names:
        return None
    figure, axes = _new(height=1.5 + 0.35 * len(shown))
    left = [0.0] * len(shown)
    for index, name in enumerate(names):
        for part, colour_strength in (("queue", 0.4), ("compute", 1.0)):
            values = [
                getattr(level.stages[name], part) / level.stages[name].requests if name in level.stages else 0.0
                for level in shown
            ]
            label = f"{name.removeprefix(f'{ENSEMBLE}_')}, {part}"
            axes.barh(range(len(shown)), values, left=left, color=f"C{index}", alpha=colour_strength, label=label)
            left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(shown)), [_name(level) for level in shown])
    axes.invert_yaxis()
    axes.set(xlabel="mean time of a request, ms (Triton's own counters)")
    axes.legend(fontsize="x-small")
    return figure


def _representative(levels: Sequence[Level]) -> list[Level]:
    """Of each search the highest rate that held, else its lowest; of everything else every level."""
    chosen = []
    for scenario in dict.fromkeys(level.scenario for level in levels):
        own = [level for level in levels if level.scenario == scenario]
        if own[0].holds is not None:
            held = [level for level in own if level.holds]
            own = [max(held, key=lambda level: level.load)] if held else [min(own, key=lambda level: level.load)]
        chosen += own
    return chosen


def _name(level: Level) -> str:
    unit = "/s" if level.unit == RATE else " in flight"
    assert level.unit in {IN_FLIGHT, RATE}
    return f"{level.scenario}, {level.load:.4g}{unit}"
