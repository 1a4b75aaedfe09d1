"""TIDE: what kinds of error cost a model its mask AP, and how much each (Bolya et al., ECCV 2020, arXiv 2008.08115).

Every detection that is no true positive at IoU 0.5 has one kind of error; an instance that no mended detection would
find is missed. One kind is mended at a time, the rest left as it is: what AP50 gains is the weight of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sparseinst_runtime.coco import Annotations, index_annotations, judged_pictures, read_annotations

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU; the paper's t_f and t_b
MOST_INSTANCES = 100  # for each picture and class, the best ones: what COCO's evaluation looks at

KINDS = {
    "cls": "right place, wrong class",
    "loc": "right class, wrong place",
    "both": "wrong class and place",
    "dupe": "found before",
    "bkg": "nothing there",
    "miss": "not found",
}


@dataclass(frozen=True)
class Tide:
    """Errors at IoU 0.5; all gains are of AP50, in 0..1. They need not sum to 1 - ap50: one error can hide another.

    Attributes:
        ap50: COCO's mask AP at IoU 0.5.
        gain: for each of `KINDS`, what AP50 gains when all errors of that kind are mended.
        count: number of errors of each kind, whatever their score.
        not_found: number of instances that are not found, those that a mended detection would find included.
        false_positive: what AP50 gains without any false detection.
        false_negative: what AP50 gains if what is not found were not there to find; false detections stay.
    """

    ap50: float
    gain: dict[str, float]
    count: dict[str, int]
    not_found: int
    false_positive: float
    false_negative: float


@dataclass
class _Detection:
    """One detection: `kind` is a key of `KINDS`, or None when it is right; `aim` indexes the instance it may become."""

    score: float
    category_id: int
    kind: str | None = None
    aim: int | None = None


def tide(annotations: Annotations, results: list[dict[str, Any]], image_ids: Iterable[int] | None = None) -> Tide:
    """Judge results in COCO's format; detections that a crowd of their class excuses are left out, as COCO does.

    Args:
        annotations: COCO's instances JSON, read or as a path.
        results: with `segmentation` as run lengths; may be empty.
        image_ids: judge these pictures only; None judges all.

    Raises:
        OSError: the annotation file cannot be read.
        ValueError: it is not COCO's instances JSON, or results or `image_ids` name pictures that it does not know.
    """
    dataset = read_annotations(annotations)
    detections, truth, found = _judge(dataset, results, judged_pictures(dataset, results, image_ids))
    scores = np.array([detection.score for detection in detections], np.float64)
    classes = np.array([detection.category_id for detection in detections], np.int64)
    kinds = np.array([detection.kind or "" for detection in detections], "<U4")
    right = kinds == ""
    before = average_precision(scores, classes, right, truth)

    def gain(keep: Any, mended: dict[int, int], to_find: NDArray[np.int64]) -> float:
        """Of AP50, when only `keep` [D] stays, some detections become right (index: class) and `to_find` [G] counts."""
        new_classes, new_right = classes.copy(), right.copy()
        for index, category_id in mended.items():
            new_classes[index], new_right[index] = category_id, True
        return max(0.0, average_precision(scores[keep], new_classes[keep], new_right[keep], to_find) - before)

    # Several may aim at one instance, by a wrong class or a wrong place. Mended, the best is right, the others go.
    winner: dict[int, int] = {}
    for index in np.argsort(-scores, kind="stable").tolist():
        aim = detections[index].aim
        if aim is not None:
            winner.setdefault(aim, index)
    missed = ~found
    missed[list(winner)] = False
    gains = {}
    for kind in KINDS:
        mended = {index: int(truth[aim]) for aim, index in winner.items() if kinds[index] == kind}
        keep = kinds != kind
        keep[list(mended)] = True
        gains[kind] = gain(keep, mended, truth[~missed] if kind == "miss" else truth)
    return Tide(
        ap50=before,
        gain=gains,
        count={kind: int((missed if kind == "miss" else kinds == kind).sum()) for kind in KINDS},
        not_found=int((~found).sum()),
        false_positive=gain(right, {}, truth),
        false_negative=gain(np.ones(len(right), bool), {}, truth[found]),
    )


def average_precision(
    scores: NDArray[np.float64], classes: NDArray[np.int64], right: NDArray[np.bool_], truth: NDArray[np.int64]
) -> float:
    """COCO's AP at one IoU threshold: the mean over classes of the precision interpolated at 101 recalls.

    Args:
        scores: of D detections, float64 [D].
        classes: their category ids, int64 [D].
        right: whether they are true positives, bool [D].
        truth: category ids of the instances to find, int64 [G].

    Returns:
        In 0..1. Classes without an instance do not count; without any there is nothing to fail at, which gives 1.
    """
    best_first = np.argsort(-scores, kind="stable")
    classes, right = classes[best_first], right[best_first]
    values = []
    for category_id, instances in zip(*np.unique(truth, return_counts=True), strict=True):
        hits = np.cumsum(right[classes == category_id])
        precision = hits / np.arange(1, len(hits) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)  # 0 at recalls that are not reached
        values.append(envelope[np.searchsorted(hits / instances, np.linspace(0, 1, 101))].mean())
    return float(np.mean(values)) if values else 1.0


def _judge(
    dataset: dict[str, Any], results: list[dict[str, Any]], image_ids: list[int]
) -> tuple[list[_Detection], NDArray[np.int64], NDArray[np.bool_]]:
    """Match as COCO does, and say of each detection what is wrong; with the G instances' category ids and fate."""
    index = index_annotations(dataset, dataset["annotations"])
    results_of: dict[int, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    for result in results:
        if result["image_id"] in results_of:
            results_of[result["image_id"]].append(result)
    detections: list[_Detection] = []
    truth: list[int] = []
    found: list[bool] = []
    for image_id, rows in results_of.items():
        best = _best(rows)
        instances = [row for row in index.imgToAnns[image_id] if not row["iscrowd"]]
        crowds = [row for row in index.imgToAnns[image_id] if row["iscrowd"]]
        iou, same = _overlaps(index, best, instances)
        in_crowd, of_crowd = _overlaps(index, best, crowds)
        excused = (in_crowd * of_crowd).max(axis=1, initial=0) >= FOREGROUND
        taken = np.zeros(len(instances), bool)
        right = [_take(row * ~taken, taken) for row in iou * same]
        for row, result in enumerate(best):
            detection = _Detection(result["score"], result["category_id"])
            if not right[row]:
                if excused[row]:
                    continue
                detection.kind, target = _error(iou[row], same[row])
                detection.aim = None if target is None or taken[target] else len(truth) + target
            detections.append(detection)
        truth += [row["category_id"] for row in instances]
        found += taken.tolist()
    return detections, np.array(truth, np.int64), np.array(found, bool)


def _best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of one picture that count, best first."""
    kept, seen = [], dict.fromkeys((row["category_id"] for row in rows), 0)
    for row in sorted(rows, key=lambda row: -row["score"]):
        seen[row["category_id"]] += 1
        if seen[row["category_id"]] <= MOST_INSTANCES:
            kept.append(row)
    return kept


def _overlaps(
    index: Any, rows: list[dict[str, Any]], targets: list[dict[str, Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mask IoU, float64 [D,G], and whether the classes agree, bool [D,G]; for crowds, the share that lies within."""
    same = np.array([[row["category_id"] == target["category_id"] for target in targets] for row in rows], bool)
    same = same.reshape(len(rows), len(targets))
    if not same.size:
        return np.zeros(same.shape), same
    masks = [row["segmentation"] for row in rows]
    iou = coco_mask.iou(masks, [index.annToRLE(target) for target in targets], [t["iscrowd"] for t in targets])
    return np.asarray(iou), same


def _take(free: NDArray[np.float64], taken: NDArray[np.bool_]) -> bool:
    """Take the instance that fits best, if one fits; of equals the last, as pycocotools does."""
    if free.max(initial=0) < FOREGROUND:
        return False
    taken[len(free) - 1 - int(free[::-1].argmax())] = True
    return True


def _error(iou: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[str, int | None]:
    """The kind of error of a detection that is wrong, and the instance that mending it would give."""
    own, other = iou * same, iou * ~same
    if BACKGROUND <= own.max(initial=0) < FOREGROUND:
        return "loc", int(own.argmax())
    if other.max(initial=0) >= FOREGROUND:
        return "cls", int(other.argmax())
    if own.max(initial=0) >= FOREGROUND:
        return "dupe", None
    return ("bkg" if iou.max(initial=0) <= BACKGROUND else "both"), None
