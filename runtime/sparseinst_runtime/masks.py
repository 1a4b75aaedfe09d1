"""From the network's uint8 mask maps to instances in the original picture: scores, boxes and COCO run lengths.

No mask is ever painted at full size. Between two rows of a map, bilinear interpolation is linear, so a column of the
picture crosses the threshold at most once there, at a place that can be solved for; COCO's run lengths are counted down
the columns and are just the list of these crossings. The work grows with the instance's part of the map, (map rows) x
(picture columns), and not with the picture's area; the result is that of resizing and thresholding every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances


def segment(
    scores: NDArray[np.float32],
    labels: NDArray[np.int32],
    masks: NDArray[np.uint8],
    letterbox: Letterbox,
    *,
    score_threshold: float,
    mask_threshold: float,
    max_instances: int | None = None,
) -> Instances:
    """Turn the network's outputs for one picture into instances in the picture's own frame.

    The map spans the whole padded frame; it is interpolated bilinearly, as torch does with align_corners=False, at the
    centre of every pixel of the original picture, and a pixel belongs to the instance where the probability exceeds
    `mask_threshold`.

    Args:
        scores: float32 [N].
        labels: int32 [N].
        masks: uint8 [N, mh, mw], round(255 * probability).
        letterbox: how the picture lay in the network's input.
        score_threshold: instances at or below it are dropped, in [0, 1].
        mask_threshold: in (0, 1).
        max_instances: how many of the best are kept, at least 1; None keeps all.

    Returns:
        Instances by descending score, equal scores in the network's order; those with an empty mask are dropped.

    Raises:
        ValueError: shapes or dtypes that do not fit together, scores that are not finite, thresholds out of range.
    """
    _check_outputs(scores, labels, masks, letterbox)
    _check_options(score_threshold, mask_threshold, max_instances)
    threshold = 255.0 * mask_threshold
    scales = masks.shape[1] / letterbox.size[0], masks.shape[2] / letterbox.size[1]
    rows = _Axis.of(letterbox.height, masks.shape[1], scales[0] * letterbox.scaled_height / letterbox.height)
    columns = _Axis.of(letterbox.width, masks.shape[2], scales[1] * letterbox.scaled_width / letterbox.width)
    image_size = (letterbox.height, letterbox.width)

    kept: list[int] = []
    runs: list[dict[str, Any]] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= score_threshold or len(kept) == max_instances:
            break
        toggles = _toggles(masks[index, : rows.used, : columns.used], rows, columns, threshold)
        if len(toggles):
            kept.append(int(index))
            runs.append({"size": image_size, "counts": _counts(toggles, letterbox.height * letterbox.width)})

    rles = coco_mask.frPyObjects(runs, *image_size) if runs else []
    boxes = coco_mask.toBbox(rles) if rles else np.zeros((0, 4))
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        scores=scores[kept],
        labels=labels[kept],
        boxes=boxes.astype(np.float32),
        rles=tuple(rle["counts"] for rle in rles),
        image_size=image_size,
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of the picture against the same axis of the map, whose pixels are called nodes here.

    Attributes:
        scale: nodes per pixel.
        used: how many nodes the picture touches; those behind lie in the padding.
        lower: int [length], the node at or before each pixel's centre.
        fraction: float32 [length, 1], weight of the node after it.
        first: int [used + 1], first pixel of each gap between nodes: gap g lies between the nodes g - 1 and g.
        last: int [used + 1], the pixel behind each gap's last. The gaps before the first node and behind the last are
            empty and lie on the picture's edge, because pixels out there take the value of the outermost node.
    """

    scale: float
    used: int
    lower: NDArray[np.intp]
    fraction: NDArray[np.float32]
    first: NDArray[np.intp]
    last: NDArray[np.intp]

    @classmethod
    def of(cls, length: int, nodes: int, scale: float) -> _Axis:
        position = (np.arange(length) + 0.5) * scale - 0.5
        used = min(nodes, int(position[-1]) + 2)
        clamped = position.clip(0, used - 1)
        lower = np.minimum(clamped.astype(np.intp), max(used - 2, 0))
        starts = np.searchsorted(position, np.arange(used))
        return cls(
            scale=scale,
            used=used,
            lower=lower,
            fraction=(clamped - lower).astype(np.float32)[:, None],
            first=np.concatenate(([0], starts[:-1], [length])),
            last=np.concatenate(([0], starts[1:], [length])),
        )


def _toggles(probability: NDArray[np.uint8], rows: _Axis, columns: _Axis, threshold: float) -> NDArray[np.int64]:
    """Where the mask begins and ends in turn, counted down the columns of the picture: int64, even, strictly rising.

    `probability` is one map, cut to what the picture touches.
    """
    above = probability > int(threshold)  # of integers, the same as > threshold
    above_rows, above_columns = above.any(axis=1).nonzero()[0], above.any(axis=0).nonzero()[0]
    if not len(above_rows):
        return np.empty(0, np.int64)
    # An interpolated pixel is above only with a node above next to it: one node more on each side is all there is.
    top, bottom = max(above_rows[0] - 1, 0), min(above_rows[-1] + 2, rows.used)
    left, right = max(above_columns[0] - 1, 0), min(above_columns[-1] + 2, columns.used)
    x_begin = columns.first[left + 1] if left else 0
    x_end = columns.last[right - 1] if right < columns.used else len(columns.lower)

    nodes = probability[top:bottom, left:right].T.astype(np.float32)
    steps = np.diff(nodes, axis=0, append=nodes[-1:])
    lower = columns.lower[x_begin:x_end] - left
    values = steps[lower] * columns.fraction[x_begin:x_end]
    values += nodes[lower]
    # Zeros around: outside is below the threshold, so that every run that begins also ends.
    values = np.pad(values, ((0, 0), (1, 1)))  # [picture columns, map rows + 2]
    inside = values > threshold
    x, gap = (inside[:, 1:] != inside[:, :-1]).nonzero()
    before, after = values[x, gap].astype(np.float64), values[x, gap + 1].astype(np.float64)
    node = top + gap - 1 + (threshold - before) / (after - before)
    crossing = (node + 0.5) / rows.scale - 0.5
    y = np.where(before > threshold, np.ceil(crossing), np.floor(crossing) + 1)
    y = y.astype(np.int64).clip(rows.first[top + gap], rows.last[top + gap])
    toggles, times = np.unique((x + x_begin) * len(rows.lower) + y, return_counts=True)
    odd: NDArray[np.bool_] = times % 2 == 1  # two at one place: a run, or a hole, without a pixel in it
    return toggles[odd]


def _counts(toggles: NDArray[np.int64], pixels: int) -> NDArray[np.uint32]:
    """COCO's uncompressed run lengths: background first, zero long where the first pixel is set."""
    counts = np.diff(toggles, prepend=0, append=pixels)
    return (counts if counts[-1] else counts[:-1]).astype(np.uint32)


def _check_outputs(scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any], letterbox: Letterbox) -> None:
    n = len(scores) if scores.ndim else 0
    if scores.shape != (n,) or scores.dtype != np.float32:
        raise ValueError(f"scores is {scores.dtype} {scores.shape}; wanted float32 [N]")
    if labels.shape != (n,) or labels.dtype != np.int32:
        raise ValueError(f"labels is {labels.dtype} {labels.shape}; wanted int32 ({n},), one for each score")
    height, width = letterbox.size
    fits = masks.ndim == 3 and masks.shape[1] * width == masks.shape[2] * height > 0
    if not fits or len(masks) != n or masks.dtype != np.uint8:
        raise ValueError(
            f"masks is {masks.dtype} {masks.shape}; wanted uint8 ({n}, rows, columns), a map for each score in the "
            f"proportions of the input, {height}x{width}"
        )
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {n} scores are not finite; the network is at fault")


def _check_options(score_threshold: float, mask_threshold: float, max_instances: int | None) -> None:
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"score_threshold is {score_threshold}; wanted a number in [0, 1]")
    if not 0 < mask_threshold < 1:
        raise ValueError(f"mask_threshold is {mask_threshold}; wanted a number in (0, 1)")
    if max_instances is not None and max_instances < 1:
        raise ValueError(f"max_instances is {max_instances}; wanted at least 1, or None for all")
