"""What an evaluation says: COCO's twelve numbers, the same for each class, the errors behind them, the curves.

Everything is computed once, by `assess`; tables for the terminal, JSON and Markdown are views of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from sparseinst.tide import KINDS, Tide, tide
from sparseinst_runtime.coco import (
    PYCOCOTOOLS,
    Annotations,
    Evaluator,
    MaskEvaluation,
    evaluate_masks,
    read_annotations,
)
from sparseinst_runtime.files import atomic_write

EVALUATORS = ("pycocotools", "faster-coco-eval")
RECALLS = np.linspace(0, 1, 101)  # where COCO looks at precision
_TITLES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small", "ap_medium": "AP medium"}
_TITLES |= {"ap_large": "AP large", "ar1": "AR1", "ar10": "AR10", "ar100": "AR100"}
_TITLES |= {"ar_small": "AR small", "ar_medium": "AR medium", "ar_large": "AR large"}


@dataclass(frozen=True)
class ClassScore:
    """One class; the four figures are in 0..1, or None without an instance to find.

    Attributes:
        name: of the class.
        category_id: in the annotations.
        instances: in the pictures that were judged, crowds left out.
        ap: mean over the IoU thresholds .50, .55, ... .95.
        ap50: at IoU 0.5.
        ap75: at IoU 0.75.
        ar100: the recall of at most 100 instances in each picture, mean over the same thresholds.
    """

    name: str
    category_id: int
    instances: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None


@dataclass(frozen=True, eq=False)
class Report:
    """An evaluation.

    Attributes:
        subject: what was evaluated, in words: weights, annotations, how pictures were resized.
        evaluation: COCO's figures and curves.
        classes: one for each category, by category id.
        errors: what cost AP50.
        pictures: number that was judged.
        results: number of instances that were judged.
    """

    subject: dict[str, str]
    evaluation: MaskEvaluation
    classes: tuple[ClassScore, ...]
    errors: Tide
    pictures: int
    results: int

    def curve(self, iou: float | None = None) -> NDArray[np.float64]:
        """Precision at `RECALLS`, float64 [101], the mean over the classes with instances; zeros without any.

        Args:
            iou: one of the thresholds .50, .55, ... .95; None is the mean over all of them.
        """
        precision = self.evaluation.precision
        judged = precision[0, 0] > -1
        if not judged.any():
            return np.zeros(len(RECALLS))
        rows = precision if iou is None else precision[[round((iou - 0.5) / 0.05)]]
        return np.asarray(rows[:, :, judged].mean(axis=(0, 2)))

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON; None where there was nothing of the kind to find."""
        curves = {"0.50": self.curve(0.5), "0.75": self.curve(0.75), "0.50:0.95": self.curve()}
        return {
            "subject": {**self.subject, "pictures": self.pictures, "results": self.results},
            "mask": {name: _known(value) for name, value in self.evaluation.summary.as_dict().items()},
            "classes": [asdict(row) for row in self.classes],
            "tide": asdict(self.errors),
            "curves": {
                "recall": RECALLS.round(2).tolist(),
                "precision": {name: curve.round(6).tolist() for name, curve in curves.items()},
            },
        }

    def class_table(self) -> Table:
        """For a rich console."""
        table = Table(title="Classes", title_justify="left")
        table.add_column("class")
        for name in ("instances", "AP", "AP50", "AP75", "AR100"):
            table.add_column(name, justify="right")
        for row in self.classes:
            figures = (row.ap, row.ap50, row.ap75, row.ar100)
            table.add_row(row.name.replace("[", "\\["), str(row.instances), *map(_figure, figures))
        return table

    def error_table(self) -> Table:
        """For a rich console."""
        title = f"Errors: what AP50 {self.errors.ap50:.3f} would gain without them"
        table = Table("error", "meaning", title=title, title_justify="left")
        table.add_column("errors", justify="right")
        table.add_column("dAP50", justify="right")
        for row in self._errors():
            table.add_row(*row, end_section=row[0] == "Miss")
        return table

    def markdown(self) -> str:
        """The figures as a page that shows `pr.png` and `errors.png` beside it."""
        twelve = self.evaluation.summary.as_dict()
        lines = ["# Evaluation", "", *(f"- {key}: {value}" for key, value in self.subject.items())]
        lines += [f"- {self.pictures} pictures, {self.results} results", "", "## Mask AP", ""]
        for names in (list(twelve)[:6], list(twelve)[6:]):
            lines += _rows([[_TITLES[name] for name in names], [_figure(_known(twelve[name])) for name in names]])
        lines += ["![Precision over recall](pr.png)", "", "## Classes", ""]
        lines += _rows(
            [["class", "instances", "AP", "AP50", "AP75", "AR100"]]
            + [
                [row.name.replace("|", "\\|"), str(row.instances)]
                + [_figure(value) for value in (row.ap, row.ap50, row.ap75, row.ar100)]
                for row in self.classes
            ]
        )
        lines += ["## Errors", "", "What AP50 gains when all errors of one kind are mended (TIDE).", ""]
        lines += _rows([["error", "meaning", "errors", "dAP50"], *map(list, self._errors())])
        return "\n".join([*lines, "![What the errors cost](errors.png)"]) + "\n"

    def _errors(self) -> list[tuple[str, str, str, str]]:
        """Rows of name, meaning, count and gain."""
        errors = self.errors
        rows = [
            (kind.capitalize(), meaning, str(errors.count[kind]), f"{errors.gain[kind]:.3f}")
            for kind, meaning in KINDS.items()
        ]
        false_positives = sum(count for kind, count in errors.count.items() if kind != "miss")
        rows.append(("FP", "all false detections", str(false_positives), f"{errors.false_positive:.3f}"))
        rows.append(("FN", "all that was not found", str(errors.not_found), f"{errors.false_negative:.3f}"))
        return rows


def evaluator(name: str) -> Evaluator:
    """One of `EVALUATORS`: the reference, or an implementation in C++ that gives the same figures sooner.

    Raises:
        ValueError: another name.
    """
    if name == "pycocotools":
        return PYCOCOTOOLS
    if name == "faster-coco-eval":
        import faster_coco_eval  # noqa: PLC0415 (only who asks for it needs it)

        evaluation = partial(faster_coco_eval.COCOeval_faster, print_function=print)
        return Evaluator(name, faster_coco_eval.COCO, evaluation)
    raise ValueError(f"evaluator is {name!r}; wanted one of {', '.join(EVALUATORS)}")


def assess(
    annotations: Annotations,
    results: list[dict[str, Any]],
    image_ids: Iterable[int] | None = None,
    *,
    evaluator: Evaluator = PYCOCOTOOLS,
    subject: dict[str, str] | None = None,
) -> Report:
    """Compute everything that a report says.

    Args:
        annotations: COCO's instances JSON, read or as a path.
        results: COCO's results format with `segmentation` as run lengths; may be empty.
        image_ids: judge these pictures only; None judges all of the annotations.
        evaluator: what computes COCO's figures.
        subject: what was evaluated, in words.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, or results or `image_ids` name pictures that it does not know.
    """
    dataset = read_annotations(annotations)
    judged = {image["id"] for image in dataset["images"]} if image_ids is None else set(image_ids)
    evaluation = evaluate_masks(dataset, results, judged, evaluator=evaluator)
    instances = Counter(
        row["category_id"] for row in dataset["annotations"] if row["image_id"] in judged and not row.get("iscrowd", 0)
    )
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    classes = []
    for column, category_id in enumerate(evaluation.category_ids):
        precision, recall = evaluation.precision[..., column], evaluation.recall[:, column]
        figures = (precision.mean(), precision[0].mean(), precision[5].mean(), recall.mean())
        count = instances[category_id]
        classes.append(ClassScore(names[category_id], category_id, count, *(_known(float(value)) for value in figures)))
    return Report(
        subject=dict(subject or {}),
        evaluation=evaluation,
        classes=tuple(classes),
        errors=tide(dataset, results, judged),
        pictures=len(judged),
        results=sum(result["image_id"] in judged for result in results),
    )


def write_report(report: Report, results: list[dict[str, Any]], folder: Path) -> None:
    """Write `results.json`, `report.json`, `report.md`, `pr.png` and `errors.png`; OSError where that fails."""
    from sparseinst.charts import errors_chart, precision_recall_chart  # noqa: PLC0415 (matplotlib: only for pictures)

    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "results.json", json.dumps(results))
    atomic_write(folder / "report.json", json.dumps(report.as_dict(), indent=1) + "\n")
    atomic_write(folder / "report.md", report.markdown())
    atomic_write(folder / "pr.png", precision_recall_chart(report))
    atomic_write(folder / "errors.png", errors_chart(report.errors))


def _known(value: float) -> float | None:
    """None for pycocotools' -1."""
    return None if value < 0 else value


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rows(rows: list[list[str]]) -> list[str]:
    """A Markdown table, the first row its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *body, ""]
