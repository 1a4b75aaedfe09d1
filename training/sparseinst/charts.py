"""Pictures of an evaluation as PNG: precision over recall, and what each kind of error costs.

Colours are of Okabe and Ito's palette, which people who see fewer colours can tell apart; lines differ in style too.
"""

from __future__ import annotations

import io
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparseinst.report import RECALLS, Report
from sparseinst.tide import Tide

BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#555555",
)
MOST_CLASSES = 12  # more lines than that nobody can follow
_DOTS_PER_INCH = 130


def precision_recall_chart(report: Report) -> bytes:
    """Precision over recall as PNG: the mean of the classes at three IoU thresholds; beside it each class, if few."""
    classes = [(column, row) for column, row in enumerate(report.classes) if row.ap is not None]
    panels = 2 if 1 < len(classes) <= MOST_CLASSES else 1
    figure = Figure(figsize=(5.2 * panels, 4.6), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    three = ((0.5, "IoU 0.50", BLUE, "-"), (0.75, "IoU 0.75", RED, "--"), (None, "IoU 0.50:0.95", GREEN, "-."))
    for iou, name, colour, style in three:
        curve = report.curve(iou)
        axes[0].plot(RECALLS, curve, style, color=colour, linewidth=2.4, label=f"{name}   AP {curve.mean():.3f}")
    _frame(axes[0], "All classes" if len(classes) > 1 else "Precision over recall")
    axes[0].set_ylabel("precision")
    if panels == 2:
        looks = zip(cycle((BLUE, RED, GREEN, ORANGE, PURPLE, SKY)), cycle(("-", "-", "-", "--", "--", "--", ":")))
        for (column, row), (colour, style) in zip(classes, looks, strict=False):
            curve = report.evaluation.precision[0, :, column]
            axes[1].plot(RECALLS, curve, style, color=colour, linewidth=1.5, label=f"{row.name}   {row.ap50:.3f}")
        _frame(axes[1], "Each class at IoU 0.50, with its AP50")
    return _png(figure)


def errors_chart(errors: Tide) -> bytes:
    """What AP50 would gain without one kind of error as PNG: a bar for each kind; apart, all false and all missing."""
    words = (
        "wrong class",
        "wrong place",
        "wrong both",
        "duplicate",
        "background",
        "missed",
        "all false",
        "all unfound",
    )
    gains = [*errors.gain.values(), errors.false_positive, errors.false_negative]
    names = [
        f"{name}\n{word}" for name, word in zip([*map(str.capitalize, errors.gain), "FP", "FN"], words, strict=True)
    ]
    places = [0, 1, 2, 3, 4, 5, 6.5, 7.5]  # the two sums apart from the six kinds
    figure = Figure(figsize=(8.4, 4.0), dpi=_DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    drawn = axes.bar(places, gains, width=0.7, color=[BLUE] * 6 + [ORANGE] * 2)
    axes.bar_label(drawn, [f"{gain:.3f}" for gain in gains], padding=3, color=GREY, fontsize=10)
    axes.set_xticks(places, names, fontsize=9)
    axes.set_ylim(0, max(0.01, 1.15 * max(gains)))
    axes.set_ylabel("gain of AP50 when mended", color=GREY)
    axes.set_title(f"What the errors cost; AP50 is {errors.ap50:.3f}", loc="left", fontsize=12)
    _quiet(axes)
    axes.tick_params(axis="x", length=0)
    return _png(figure)


def _frame(axes: Axes, title: str) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall")
    axes.set_title(title, loc="left", fontsize=12)
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9.5, handlelength=2.4)
    _quiet(axes)


def _quiet(axes: Axes) -> None:
    """What is not data steps back."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    """Drawn by Agg, without a window or a state that others share."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
