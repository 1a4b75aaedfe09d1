"""The paper's ablations, tables 2 to 7: each row is a recipe with some switches set; all are trained and evaluated.

    sparseinst ablation --tables 2 4 --recipe r50_base --annotations train.json --images train/ \
        --val-annotations val.json --val-images val/ --out runs/ablation

A run that several tables share is trained once. What is finished is not repeated, what was killed is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from sparseinst.cost import multiply_adds, parameters
from sparseinst.network import SparseInst
from sparseinst.recipes import Recipe

TrainAndEvaluate = Callable[[Recipe, Path, int], dict[str, float]]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: what is written in its first column; `{channels}` stands for the width of the decoder.
        changes: `encoder.`, `decoder.` or `losses.` and a field -> its value, or a function from the recipe's value to
            it; all others are the recipe's.
    """

    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with the changes made."""
        network = recipe.network
        parts: dict[str, Any] = {"encoder": network.encoder, "decoder": network.decoder, "losses": recipe.losses}
        values: dict[str, dict[str, Any]] = {part: {} for part in parts}
        for key, value in self.changes.items():
            part, name = key.split(".")
            values[part][name] = value(getattr(parts[part], name)) if callable(value) else value
        made: dict[str, Any] = {part: replace(parts[part], **values[part]) for part in parts}
        network = replace(network, encoder=made["encoder"], decoder=made["decoder"])
        return replace(recipe, network=network, losses=made["losses"])


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        title: what is ablated.
        rows: from top to bottom.
    """

    title: str
    rows: tuple[Row, ...]


def _loss(dice: float, mask: float = 0.0, kind: str = "cross_entropy") -> dict[str, Any]:
    return {"losses.dice": dice, "losses.mask": mask, "losses.pixel_loss": kind}


def _half(width: int) -> int:
    return width // 2


TABLES: dict[int, Table] = {
    2: Table(
        "Instance context encoder",
        (
            Row("neither", {"encoder.pool_sizes": (), "encoder.fusion": False}),
            Row("pyramid pooling", {"encoder.fusion": False}),
            Row("fusion", {"encoder.pool_sizes": ()}),
            Row("pyramid pooling and fusion"),
        ),
    ),
    3: Table(
        "Decoder",
        (
            Row("2 convolutions of {channels} channels", {"decoder.depth": 2}),
            Row("4 convolutions of {channels} channels", {"decoder.depth": 4}),
            Row("6 convolutions of {channels} channels", {"decoder.depth": 6}),
            Row("4 convolutions of {channels} channels", {"decoder.depth": 4, "decoder.channels": _half}),
            Row("4 convolutions, without coordinates", {"decoder.depth": 4, "decoder.coordinates": False}),
            Row("4 convolutions, the last deformable", {"decoder.depth": 4, "decoder.deformable": True}),
        ),
    ),
    4: Table(
        "Instance activation maps",
        (
            Row("3x3, softmax", {"decoder.groups": 1, "decoder.iam_activation": "softmax"}),
            Row("1x1, sigmoid", {"decoder.groups": 1, "decoder.iam_kernel": 1}),
            Row("3x3, sigmoid", {"decoder.groups": 1}),
            Row("3x3, ReLU, 3x3, sigmoid", {"decoder.groups": 1, "decoder.iam_depth": 2}),
            Row("3x3, sigmoid, 2 groups", {"decoder.groups": 2}),
            Row("3x3, sigmoid, 4 groups", {"decoder.groups": 4}),
        ),
    ),
    5: Table(
        "Mask loss",
        (
            Row("dice x 2", _loss(2.0)),
            Row("dice x 2, focal x 5", _loss(2.0, 5.0, "focal")),
            Row("dice x 2, focal x 20", _loss(2.0, 20.0, "focal")),
            Row("dice x 2, cross-entropy x 1", _loss(2.0, 1.0)),
            Row("dice x 2, cross-entropy x 2", _loss(2.0, 2.0)),
            Row("dice x 2, cross-entropy x 5", _loss(2.0, 5.0)),
        ),
    ),
    6: Table(
        "IoU-aware objectness",
        (
            Row("none", {"losses.objectness": 0.0, "decoder.rescoring": False}),
            Row("cross-entropy, scores without it", {"decoder.rescoring": False}),
            Row("L1", {"losses.objectness_loss": "l1"}),
            Row("cross-entropy"),
        ),
    ),
    7: Table(
        "Activation maps against attention",
        (
            Row("cross-attention of queries, 4 heads", {"decoder.groups": 1, "decoder.gathering": "cross_attention"}),
            Row("instance activation maps", {"decoder.groups": 1}),
            Row("instance activation maps, 4 groups", {"decoder.groups": 4}),
        ),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What a row came to.

    Attributes:
        ap: mask AP of each seed's last weights, in [0, 1]; likewise `ap50`, `ap75`.
        parameters: of the network.
        macs: multiply-adds for one picture of the recipe's input size.
    """

    label: str
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    ap75: tuple[float, ...]
    parameters: int
    macs: int


def run_name(recipe: Recipe, base: Recipe) -> str:
    """Folder of a run: how the recipe differs from the base. Rescoring is left out: training does not see it."""
    differences = []
    for part in ("encoder", "decoder", "losses"):
        theirs, ours = ((r.losses if part == "losses" else getattr(r.network, part)) for r in (base, recipe))
        differences += [
            f"{part}.{name}={value}".replace(" ", "")
            for name, value in vars(ours).items()
            if value != getattr(theirs, name) and name != "rescoring"
        ]
    return ",".join(differences) or "base"


def run_table(
    table: Table, base: Recipe, out: Path, seeds: Sequence[int], train_and_evaluate: TrainAndEvaluate
) -> Iterator[Outcome]:
    """Train and evaluate row after row.

    Args:
        table: one of `TABLES`.
        base: recipe that the rows change.
        out: folder with a folder for each run.
        seeds: each row is run with each of them.
        train_and_evaluate: (recipe, folder, seed) -> the figures of `APSummary.as_dict`.

    Yields:
        A row's outcome, as soon as its runs are finished.
    """
    for row in table.rows:
        recipe = row.apply(base)
        model = SparseInst(recipe.network)
        folders = [(out / f"{run_name(recipe, base)}-seed{seed}", seed) for seed in seeds]
        figures = [train_and_evaluate(recipe, folder, seed) for folder, seed in folders]
        yield Outcome(
            label=row.label.format(channels=recipe.network.decoder.channels),
            ap=tuple(f["ap"] for f in figures),
            ap50=tuple(f["ap50"] for f in figures),
            ap75=tuple(f["ap75"] for f in figures),
            parameters=sum(parameters(model).values()),
            macs=sum(multiply_adds(model, recipe.input_size, recipe.input_size).values()),
        )


def markdown(number: int, outcomes: Sequence[Outcome]) -> str:
    """A table as Markdown; AP in percent, with its range where there are several seeds."""
    lines = [
        f"## Table {number}: {TABLES[number].title}",
        "",
        "| | AP | AP50 | AP75 | M parameters | GMACs |",
        "|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        figures = " | ".join(_percent(values) for values in (outcome.ap, outcome.ap50, outcome.ap75))
        cost = f"{outcome.parameters / 1e6:.2f} | {outcome.macs / 1e9:.2f}"
        lines.append(f"| {outcome.label} | {figures} | {cost} |")
    return "\n".join(lines) + "\n"


def _percent(values: Sequence[float]) -> str:
    shown = f"{100 * mean(values):.1f}"
    return shown if len(values) == 1 else f"{shown} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def to_json(outcomes: Mapping[int, Sequence[Outcome]]) -> str:
    """All tables' outcomes by their number."""
    return json.dumps({number: [vars(outcome) for outcome in rows] for number, rows in outcomes.items()}, indent=1)
