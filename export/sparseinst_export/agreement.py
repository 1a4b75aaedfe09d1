"""How far two engines agree on pictures: tensor by tensor where both are at hand, instance by instance always.

Figures are gathered picture by picture; of a mask nothing stays but one overlap, and the run lengths of the worst pair.
Shapes: B batch, N queries of the network, K instances of a picture, mh x mw mask maps.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from sparseinst_export.verify import compare
from sparseinst_runtime.coco import EVALUATION_THRESHOLD
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sparseinst_runtime.contract import Contract
    from sparseinst_runtime.geometry import Letterbox


@dataclass(frozen=True, eq=False)
class Answer:
    """What an engine finds in one picture, in the picture's frame, the best first.

    Attributes:
        instances: those above `EVALUATION_THRESHOLD` that have a pixel.
        queries: int32 [K], which of the network's N queries each came from; None where nobody says so, as a server.
    """

    instances: Instances
    queries: np.ndarray | None


def answer(outputs: Sequence[np.ndarray], box: Letterbox, contract: Contract) -> Answer:
    """The instances in an engine's outputs for one picture: scores [1,N], labels [1,N], masks [1,N,mh,mw].

    Raises:
        ValueError: scores that are not finite, labels without a class, shapes or dtypes that do not fit together.
    """
    scores, labels, masks = (output[0] for output in outputs)
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(contract.classes):
        raise ValueError(f"labels {labels.min()} to {labels.max()}; wanted 0 to {len(contract.classes) - 1}")
    # Numbered queries in place of labels: what comes back says which queries were kept, and in which order.
    numbers = np.arange(len(scores), dtype=np.int32)
    found = segment(
        scores, numbers, masks, box, score_threshold=EVALUATION_THRESHOLD, mask_threshold=contract.mask_threshold
    )
    queries = found.labels
    return Answer(Instances(found.scores, labels[queries], found.boxes, found.rles, found.image_size), queries)


def served_answers(
    results: Any, sizes: dict[int, tuple[int, int]], known: Collection[int], contract: Contract
) -> dict[int, Answer]:
    """The answers that stand in COCO's results, as `sparseinst-client evaluate` writes them.

    Args:
        results: the parsed JSON.
        sizes: (height, width) of each picture that is asked for, by image id.
        known: ids of all pictures of the annotations.
        contract: gives the label of a category id.

    Returns:
        One answer for each picture of `sizes`; without instances where the results have none for it.

    Raises:
        ValueError: not COCO results with compressed run lengths, a picture or category that nobody knows, or a mask of
            another size than its picture.
    """
    label_of = {category_id: label for label, category_id in enumerate(contract.category_ids)}
    rows: dict[int, list[tuple[float, int, list[float], bytes]]] = defaultdict(list)
    try:
        for row in results:
            image_id, category_id, mask = row["image_id"], row["category_id"], row["segmentation"]
            if image_id not in known or category_id not in label_of:
                raise ValueError(
                    f"the served results have picture {image_id} with category {category_id}, which the annotations or "
                    "the contract do not know; wanted results for these annotations from a server of these weights"
                )
            if image_id not in sizes:
                continue  # left out by a limit
            if tuple(mask["size"]) != sizes[image_id]:
                raise ValueError(
                    f"the served results have a mask of (height, width) {tuple(mask['size'])} in picture {image_id}, "
                    f"which has {sizes[image_id]}; wanted masks in the picture's own frame"
                )
            rows[image_id].append(
                (float(row["score"]), label_of[category_id], row["bbox"], mask["counts"].encode("ascii"))
            )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the served results are not COCO results with compressed run lengths ({type(error).__name__}: {error}); "
            "`sparseinst-client evaluate --out` writes such"
        ) from error
    return {image_id: _served(rows[image_id], size) for image_id, size in sizes.items()}


def _served(rows: list[tuple[float, int, list[float], bytes]], size: tuple[int, int]) -> Answer:
    rows = sorted(rows, key=lambda row: -row[0])
    boxes = np.array([row[2] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = np.array([row[0] for row in rows], np.float32), np.array([row[1] for row in rows], np.int32)
    return Answer(Instances(scores, labels, boxes, tuple(row[3] for row in rows), size), None)


def pairs(one: Answer, other: Answer) -> list[tuple[int | None, int | None]]:
    """Which instances are the same, as indices into both; each instance once, None beside one without a partner.

    By query where both know it. Otherwise one to one, so that overlap minus score distance is greatest in all, for
    masks that overlap at all; labels have no say, so that a wrong one is seen.
    """
    if one.queries is not None and other.queries is not None:
        where = {int(query): index for index, query in enumerate(other.queries)}
        paired: list[tuple[int, int]] = [
            (index, where[int(query)]) for index, query in enumerate(one.queries) if int(query) in where
        ]
    else:
        overlaps = overlap_matrix(one.instances, other.instances)
        distance = np.abs(one.instances.scores[:, None] - other.instances.scores[None])
        rows, columns = linear_sum_assignment(np.where(overlaps > 0, overlaps - distance, -1), maximize=True)
        paired = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if overlaps[i, j] > 0]
    firsts, seconds = {i for i, _ in paired}, {j for _, j in paired}
    alone = [(i, None) for i in range(len(one.instances)) if i not in firsts]
    return [*paired, *alone, *((None, j) for j in range(len(other.instances)) if j not in seconds)]


def overlap_matrix(one: Instances, other: Instances) -> np.ndarray:
    """IoU of every mask with every mask: float64 [K1,K2]."""
    if not len(one) or not len(other):
        return np.zeros((len(one), len(other)))
    first, second = (
        [{"size": list(side.image_size), "counts": counts} for counts in side.rles] for side in (one, other)
    )
    return np.asarray(coco_mask.iou(first, second, [0] * len(second)))


@dataclass
class TensorAgreement:
    """How far the network's raw outputs lie apart, over all queries of all pictures.

    Attributes:
        score_max: largest absolute difference of two scores.
        score_sum: sum of these differences over `values` scores.
        score_error: see `verify.Difference`: what no pixel at the mask threshold explains.
        values: number of scores.
        steps: int64 [256], how many mask values lie 0, 1, ... 255 steps of 1/255 apart.
    """

    score_max: float = 0.0
    score_sum: float = 0.0
    score_error: float = -np.inf
    values: int = 0
    steps: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, expected: Sequence[np.ndarray], got: Sequence[np.ndarray], mask_threshold: float) -> None:
        """Count in the outputs for a batch; ExportError where a shape or dtype differs."""
        difference = compare(expected, got, mask_threshold)
        # NumPy's maximum keeps what is not a number; Python's may lose it.
        self.score_max = float(np.maximum(self.score_max, difference.score))
        self.score_error = float(np.maximum(self.score_error, difference.score_error))
        self.score_sum += float(np.abs(got[0].astype(np.float64) - expected[0]).sum())
        self.values += expected[0].size
        steps = cv2.absdiff(expected[2].reshape(-1), got[2].reshape(-1))
        self.steps += np.bincount(steps.reshape(-1), minlength=256)

    def figures(self) -> dict[str, float]:
        """Ready for JSON; scores in 0..1, masks in steps of 1/255, shares in 0..1."""
        total = max(int(self.steps.sum()), 1)
        return {
            "score_max": self.score_max,
            "score_mean": self.score_sum / max(self.values, 1),
            "score_error": self.score_error,
            "mask_max": int(self.steps.nonzero()[0].max(initial=0)),
            "mask_mean": float((self.steps * np.arange(256)).sum() / total),
            "mask_share": float(self.steps[2:].sum() / total),
        }


@dataclass(frozen=True)
class Seen:
    """One side of a pair: label, score, and the mask's compressed run lengths."""

    label: int
    score: float
    rle: bytes


@dataclass(frozen=True)
class Pair:
    """An instance as two engines see it; None on the side that does not see it.

    Attributes:
        image_id: of the picture.
        expected: the side that counts as right.
        got: the other.
        iou: of the two masks in the picture's frame; 0 where one is missing.
    """

    image_id: int
    expected: Seen | None
    got: Seen | None
    iou: float

    @property
    def same_label(self) -> bool:
        """Whether both sides see it and call it the same."""
        return self.expected is not None and self.got is not None and self.expected.label == self.got.label

    @property
    def badness(self) -> float:
        """To order pairs by: 0 for equal masks, 1 for masks apart, and 1 more for another label."""
        return 1 - self.iou + (not self.same_label)


@dataclass
class InstanceAgreement:
    """How far two engines' instances agree, over those above the score threshold on either side.

    Attributes:
        overlaps: mask IoU of each; 0 for one without a partner.
        same_label: how many have the same label on both sides.
        one_sided: how many are above the score threshold on one side only.
        worst: the pair with the greatest `badness`.
    """

    overlaps: list[float] = field(default_factory=list)
    same_label: int = 0
    one_sided: int = 0
    worst: Pair | None = None

    def add(self, image_id: int, expected: Answer, got: Answer, score_threshold: float) -> None:
        """Count in the answers for a picture."""
        for i, j in pairs(expected, got):
            first, second = _seen(expected, i), _seen(got, j)
            above = [side is not None and side.score > score_threshold for side in (first, second)]
            if not any(above):
                continue
            iou = 0.0
            if first and second:
                size = list(expected.instances.image_size)
                masks = [{"size": size, "counts": side.rle} for side in (first, second)]
                iou = float(coco_mask.iou(masks[:1], masks[1:], [0])[0, 0])
            pair = Pair(image_id, first, second, iou)
            self.overlaps.append(iou)
            self.same_label += pair.same_label
            self.one_sided += not all(above)
            if self.worst is None or pair.badness > self.worst.badness:
                self.worst = pair

    def figures(self) -> dict[str, float | None]:
        """Ready for JSON; None without an instance to compare."""
        known = len(self.overlaps) > 0
        return {
            "instances": len(self.overlaps),
            "one_sided": self.one_sided,
            "label_agreement": self.same_label / len(self.overlaps) if known else None,
            "iou_min": min(self.overlaps) if known else None,
            "iou_p01": float(np.percentile(self.overlaps, 1)) if known else None,
            "iou_median": float(np.median(self.overlaps)) if known else None,
        }


def _seen(side: Answer, index: int | None) -> Seen | None:
    if index is None:
        return None
    found = side.instances
    return Seen(int(found.labels[index]), float(found.scores[index]), found.rles[index])
