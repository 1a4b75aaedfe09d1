"""From the network's uint8 mask maps to instances in the original picture: scores, boxes and COCO run lengths.

No mask is ever painted at full size: COCO's run lengths are counted down the columns, and are just the list of places
where the interpolated map crosses the threshold (see `crossings`). The result is that of resizing and thresholding
every pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sparseinst_runtime.crossings import Axis
from sparseinst_runtime.crossings import toggles as find_toggles
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
    scales = masks.shape[1] / letterbox.size[0], masks.shape[2] / letterbox.size[1]
    rows = Axis.of(letterbox.height, masks.shape[1], scales[0] * letterbox.scaled_height / letterbox.height)
    columns = Axis.of(letterbox.width, masks.shape[2], scales[1] * letterbox.scaled_width / letterbox.width)
    image_size = (letterbox.height, letterbox.width)

    best = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores > score_threshold)]
    most = len(best) if max_instances is None else max_instances
    kept: list[int] = []
    runs: list[dict[str, Any]] = []
    while len(best) and len(kept) < most:  # more than once only where a mask turns out empty
        batch, best = np.split(best, [most - len(kept)])
        maps = masks[batch, : rows.used, : columns.used]
        for place, toggles in find_toggles(maps, rows, columns, 255.0 * mask_threshold):
            kept.append(int(batch[place]))
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


def _counts(toggles: NDArray[np.int64], pixels: int) -> NDArray[np.uint32]:
    """COCO's uncompressed run lengths: background first, zero long where the first pixel is set."""
    counts = np.empty(len(toggles) + 1, np.uint32)
    counts[0], counts[-1] = toggles[0], pixels - toggles[-1]
    np.subtract(toggles[1:], toggles[:-1], out=counts[1:-1], casting="unsafe")
    return counts if counts[-1] else counts[:-1]


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
