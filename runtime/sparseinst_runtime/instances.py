"""The instances of one picture, as server, client and evaluation hand them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparseinst_runtime.rle import decode_rle


@dataclass(frozen=True, eq=False)
class Instances:
    """K instances of one picture, in its original frame; whatever makes them sorts them by score, highest first.

    Attributes:
        scores: float32 [K], in 0..1.
        labels: int32 [K], index into the contract's classes.
        boxes: float32 [K, 4], the masks' tight boxes x1 y1 x2 y2 in pixel edges: x2 is the last column + 1.
        rles: K masks as COCO's compressed run-length counts, for the size `image_size`.
        image_size: (height, width) of the picture in pixels.
    """

    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    boxes: NDArray[np.float32]
    rles: tuple[bytes, ...]
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        """Hold the five against each other."""
        k = len(self.rles)
        if self.scores.shape != (k,) or self.labels.shape != (k,) or self.boxes.shape != (k, 4):
            raise ValueError(
                f"{k} masks, scores {self.scores.shape}, labels {self.labels.shape}, boxes {self.boxes.shape}; "
                f"wanted ({k},), ({k},), ({k}, 4)"
            )
        if not all(self.rles):  # a mask without pixels has counts too; pycocotools reads none as whatever is in memory
            raise ValueError(f"mask {self.rles.index(b'')} of {k} has no run lengths; wanted COCO's compressed counts")

    def __len__(self) -> int:
        return len(self.rles)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """One mask, decoded: bool [H, W]."""
        return np.ascontiguousarray(decode_rle(self._rle(self.rles[index])), np.bool_)

    def masks(self) -> NDArray[np.bool_]:
        """All masks, decoded: bool [K, H, W]. K full-size masks: for many instances go one by one with `mask`."""
        masks = np.empty((len(self), *self.image_size), np.bool_)
        for index in range(len(self)):
            masks[index] = self.mask(index)
        return masks

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The instances in COCO's results format, ready for JSON.

        Args:
            image_id: id of the picture in the data set.
            category_ids: COCO category id of each label, `Contract.category_ids`.

        Returns:
            K objects of image_id, category_id, score, bbox (x, y, width, height) and segmentation (size, counts).
        """
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "score": score,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": {"size": list(self.image_size), "counts": rle.decode("ascii")},
            }
            for score, label, (x1, y1, x2, y2), rle in zip(
                self.scores.tolist(), self.labels.tolist(), self.boxes.tolist(), self.rles, strict=True
            )
        ]

    def _rle(self, counts: bytes) -> dict[str, Any]:
        return {"size": list(self.image_size), "counts": counts}
