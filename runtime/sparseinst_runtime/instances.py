"""The instances of one picture, as server, client and evaluation hand them on, and as other tools want them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from sparseinst_runtime import exchange, outlines, sketch
from sparseinst_runtime.rle import decode_rle

Index: TypeAlias = "int | slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]"


@dataclass(frozen=True, eq=False)
class Instances:
    """K instances of one picture, in its original frame; whatever makes them sorts them by score, highest first.

    Masks stay run lengths until they are asked for. Nothing here changes an object: what selects gives a new one, whose
    arrays may be views of the old one's. Objects can be pickled.

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

    def __getitem__(self, index: Index) -> Instances:
        """Some of the instances, chosen as NumPy chooses: by a number, a slice, numbers, or a bool for each.

        Raises:
            IndexError: there is no such instance, or not one bool for each.
        """
        chosen = np.atleast_1d(np.arange(len(self))[index if isinstance(index, slice) else _as_index(index)])
        return Instances(
            self.scores[chosen],
            self.labels[chosen],
            self.boxes[chosen],
            tuple(self.rles[number] for number in chosen.tolist()),
            self.image_size,
        )

    def __iter__(self) -> Iterator[Instances]:
        """One after the other, as Instances of one."""
        return (self[index] for index in range(len(self)))

    @property
    def areas(self) -> NDArray[np.int64]:
        """int64 [K], pixels of each mask, counted on the run lengths."""
        areas = coco_mask.area([self._rle(counts) for counts in self.rles]) if self.rles else []
        return np.array(areas, np.int64)

    def filter(
        self,
        *,
        min_score: float | None = None,
        labels: int | Collection[int] | None = None,
        min_area: float | None = None,
        max_area: float | None = None,
    ) -> Instances:
        """Those instances that meet every condition, in their order.

        Args:
            min_score: score at least this, in 0..1.
            labels: of these labels.
            min_area: at least so many pixels.
            max_area: at most so many pixels.
        """
        keep = np.ones(len(self), np.bool_)
        if min_score is not None:
            keep &= self.scores >= min_score
        if labels is not None:
            keep &= np.isin(self.labels, [labels] if isinstance(labels, (int, np.integer)) else list(labels))
        if min_area is not None:
            keep &= self.areas >= min_area
        if max_area is not None:
            keep &= self.areas <= max_area
        return self[keep]

    def mask(self, index: int) -> NDArray[np.bool_]:
        """One mask, decoded: bool [H, W]."""
        return np.ascontiguousarray(decode_rle(self._rle(self.rles[index])), np.bool_)

    def masks(self) -> NDArray[np.bool_]:
        """All masks, decoded: bool [K, H, W]. K full-size masks: for many instances go one by one with `mask`."""
        masks = np.empty((len(self), *self.image_size), np.bool_)
        for index in range(len(self)):
            masks[index] = self.mask(index)
        return masks

    def polygons(self, index: int, tolerance: float = 0.0) -> list[NDArray[np.float32]]:
        """The outline of one mask: a polygon for each of its parts, which together cover it.

        Args:
            index: of the instance.
            tolerance: how far polygons may pass by the outline, in pixels; 0 keeps every corner of every pixel.

        Returns:
            float32 [P, 2] each, x and y in pixel edges, largest part first. Holes are joined to the outline around them
            by a bridge of no width. A mask without pixels has none.

        Raises:
            ValueError: the tolerance is negative or not finite.
        """
        x1, y1, x2, y2 = self._box(index)
        parts = outlines.outlines(self.mask(index)[y1:y2, x1:x2], tolerance)
        return [part + np.array([x1, y1], np.float32) for part in parts]

    def crop(
        self, image: NDArray[np.uint8], index: int, *, background: int | Sequence[int] | None = None
    ) -> NDArray[np.uint8]:
        """The part of the picture in the box of one instance, as a copy.

        Args:
            image: uint8 [H, W] or [H, W, C], the picture that the instances belong to.
            index: of the instance.
            background: what takes the place of pixels outside of the mask, a value or one for each channel; None leaves
                them as they are.

        Returns:
            uint8 [h, w] or [h, w, C].

        Raises:
            ValueError: the picture has another size.
        """
        if image.shape[:2] != tuple(self.image_size):
            got, wanted = "{}x{}".format(*image.shape[:2]), "{}x{}".format(*self.image_size)
            raise ValueError(f"the picture has {got} pixels; wanted {wanted}, the size the instances are in")
        x1, y1, x2, y2 = self._box(index)
        part: NDArray[np.uint8] = image[y1:y2, x1:x2].copy()
        if background is not None:
            part[~self.mask(index)[y1:y2, x1:x2]] = background
        return part

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

    def to_labelme(
        self, picture: str, classes: Sequence[str], *, tolerance: float = exchange.TOLERANCE
    ) -> dict[str, Any]:
        """The content of a LabelMe file, ready for JSON; scores go to `description`, parts share a `group_id`.

        Args:
            picture: the picture's file, seen from the JSON's folder.
            classes: class names by label, `Contract.classes`.
            tolerance: see `polygons`.

        Raises:
            ValueError: a label has no name, or the tolerance is negative.
        """
        return exchange.to_labelme(self, picture, classes, tolerance)

    def to_yolo(self, *, tolerance: float = exchange.TOLERANCE) -> str:
        """The text of a YOLO segmentation file: a line of label and corners (x y in 0..1 of the picture) each.

        A line is one polygon: parts of one mask are joined by bridges of no width.

        Args:
            tolerance: see `polygons`.

        Raises:
            ValueError: the tolerance is negative.
        """
        return exchange.to_yolo(self, tolerance)

    def to_supervision(self, classes: Sequence[str] | None = None) -> Any:  # supervision is optional
        """`supervision.Detections` with boxes, decoded masks, scores, labels and, given classes, `class_name`.

        Raises:
            ModuleNotFoundError: supervision is not installed.
            ValueError: a label has no name.
        """
        return exchange.to_supervision(self, classes)

    def to_fiftyone(self, classes: Sequence[str]) -> Any:  # fiftyone is optional
        """`fiftyone.Detections` with class names, relative boxes, the masks inside them, and scores.

        Raises:
            ModuleNotFoundError: fiftyone is not installed.
            ValueError: a label has no name.
        """
        return exchange.to_fiftyone(self, classes)

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the masks, each in a colour of its own."""
        return sketch.png(self)

    def _box(self, index: int) -> list[int]:
        """The box in whole pixels; masks of foreign replies may reach beyond theirs, so it is taken from the mask."""
        x, y, width, height = coco_mask.toBbox(self._rle(self.rles[index])).astype(int).tolist()
        return [x, y, x + width, y + height]

    def _rle(self, counts: bytes) -> dict[str, Any]:
        return {"size": list(self.image_size), "counts": counts}


def _as_index(index: Any) -> NDArray[Any]:
    """An index as NumPy takes it; an empty list chooses nothing, and is no list of floats."""
    array = np.asarray(index)
    return array.astype(np.intp) if array.size == 0 and array.dtype != np.bool_ else array
