"""Turns to figures: medians, spreads and ratios round by round, as Markdown, JSON and bars."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from matplotlib.figure import Figure

from peers.worker import Turn
from sparseinst.charts import BLUE, GREY


@dataclass(frozen=True)
class Row:
    """A contender's figures.

    Attributes:
        name: of the contender.
        ours: whether it is a part of this project.
        latency: median milliseconds of a picture.
        latency_p90: 90th percentile.
        rate: pictures a second, median over rounds.
        rate_spread: lowest and highest of the rounds.
        processor: milliseconds of processor time a picture, median over rounds; of client and server together.
        ratio: rate over that of the reference in the same round, median over rounds.
        ratio_spread: lowest and highest of the rounds.
        processor_ratio: processor time of the reference over its own, median over rounds.
        instances: mean of a picture.
        run_bytes: mean bytes of all run lengths of a picture.
        agreement: mean IoU of the reference's masks with the nearest of its own; None for other weights.
    """

    name: str
    ours: bool
    latency: float
    latency_p90: float
    rate: float
    rate_spread: tuple[float, float]
    processor: float
    ratio: float
    ratio_spread: tuple[float, float]
    processor_ratio: float
    instances: float
    run_bytes: float
    agreement: float | None


def summarise(turns: dict[str, list[Turn]], reference: str, ours: set[str], agreement: dict[str, float]) -> list[Row]:
    """A row for each contender.

    Args:
        turns: of each contender, one for each round, all of the same rounds.
        reference: name of the contender that ratios are taken to.
        ours: names of those that are part of this project.
        agreement: of those that run the same weights, see `Row`.
    """
    base = turns[reference]
    rows = []
    for name, own in turns.items():
        seconds = [1e3 * value for turn in own for value in turn.seconds]
        rates = [len(turn.seconds) / turn.wall for turn in own]
        ratios = [rate / (len(other.seconds) / other.wall) for rate, other in zip(rates, base, strict=True)]
        processor = [1e3 * turn.processor / len(turn.seconds) for turn in own]
        saved = [
            1e3 * other.processor / len(other.seconds) / max(mine, 1e-9)
            for mine, other in zip(processor, base, strict=True)
        ]
        rows.append(
            Row(
                name=name,
                ours=name in ours,
                latency=statistics.median(seconds),
                latency_p90=statistics.quantiles(seconds, n=10)[-1] if len(seconds) > 1 else seconds[0],
                rate=statistics.median(rates),
                rate_spread=(min(rates), max(rates)),
                processor=statistics.median(processor),
                ratio=statistics.median(ratios),
                ratio_spread=(min(ratios), max(ratios)),
                processor_ratio=statistics.median(saved),
                instances=statistics.fmean(value for turn in own for value in turn.instances),
                run_bytes=statistics.fmean(value for turn in own for value in turn.run_bytes),
                agreement=agreement.get(name),
            )
        )
    return rows


def table(rows: Sequence[Row], reference: str) -> str:
    """The rows as Markdown; ratios above 1 are faster than the reference."""
    lines = [
        "| contender | ms, median | p90 | pictures/s | rounds | against "
        f"{reference} | rounds | processor ms | against | instances | KB of runs | IoU |",
        "|---|" + "---:|" * 11,
    ]
    for row in rows:
        agreement = "" if row.agreement is None else f"{row.agreement:.3f}"
        lines.append(
            f"| {row.name} | {row.latency:.1f} | {row.latency_p90:.1f} | {row.rate:.2f} "
            f"| {row.rate_spread[0]:.2f}-{row.rate_spread[1]:.2f} | {row.ratio:.2f} "
            f"| {row.ratio_spread[0]:.2f}-{row.ratio_spread[1]:.2f} | {row.processor:.1f} | {row.processor_ratio:.2f} "
            f"| {row.instances:.1f} | {row.run_bytes / 1e3:.1f} | {agreement} |"
        )
    return "\n".join(lines)


def figures(rows: Sequence[Row]) -> list[dict[str, object]]:
    """The rows for JSON."""
    return [asdict(row) for row in rows]


def bars(panels: Mapping[str, Sequence[Row]]) -> bytes:
    """Pictures a second as PNG: a panel for each model, a bar for each contender with the spread of its rounds."""
    figure = Figure(figsize=(8.6, 0.9 + sum(0.34 * len(rows) + 0.8 for rows in panels.values())), dpi=130)
    figure.set_layout_engine("constrained")
    heights = [len(rows) for rows in panels.values()]
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        rates = [row.rate for row in rows]
        errors = [
            [row.rate - row.rate_spread[0] for row in rows],
            [row.rate_spread[1] - row.rate for row in rows],
        ]
        names = [row.name for row in rows]
        colours = [BLUE if row.ours else GREY for row in rows]
        axis.barh(names, rates, xerr=errors, color=colours, error_kw={"elinewidth": 1, "ecolor": "#222222"})
        for place, row in enumerate(rows):
            axis.text(row.rate_spread[1], place, f"  {row.rate:.2f}", va="center", fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(title, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("pictures/s; lines: slowest and fastest round")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()
