"""Instances from a COCO JSON file: read once, checked as a whole, pictures and masks decoded when asked for.

A label is the position of a category in the order of category ids, so gaps in the ids do not matter.
Crowd annotations mark regions rather than instances and are left out.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sparseinst_runtime.contract import OBJECT
from sparseinst_runtime.decode import decode
from sparseinst_runtime.limits import PictureError, check_header
from sparseinst_runtime.rle import decode_rle

# No picture is near this size. pycocotools walks along a polygon's edges, and ends the process where memory does.
FAR = 100_000


class DataError(ValueError):
    """Annotations or pictures that cannot be trained on; the message names the file, what was got and wanted."""


@dataclass(frozen=True)
class Sample:
    """One picture with its instances.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        masks: uint8 [K, H, W] of 0 and 1; K may be 0.
        labels: int64 [K], index into the data set's classes.
        image_id: id of the picture in the COCO JSON.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    image_id: int


@dataclass(frozen=True)
class _Instance:
    label: int
    annotation_id: int
    # Polygons are kept as arrays: a tenth of the memory of lists, and forked workers do not copy them.
    shape: list[np.ndarray] | dict[str, Any]


@dataclass(frozen=True)
class _Picture:
    image_id: int
    path: Path
    height: int
    width: int
    instances: list[_Instance]


class CocoInstances:
    """Pictures and instances of one COCO JSON file.

    Args:
        annotations: COCO JSON with polygons, multi-part polygons or RLE masks (compressed or not).
        images: folder that the `file_name`s are relative to.
        keep_empty: keep pictures without instances (evaluation needs them, training has no use for them).
        cache: decode every picture now and hold it in memory: H * W * 3 bytes each, shared with forked workers.
        class_agnostic: take all categories for one class, `object` of category id 1.

    Attributes:
        classes: category names in order of category id; a label indexes them.
        category_ids: category ids, ascending.

    Raises:
        DataError: files missing, not COCO JSON, references to unknown images or categories, nothing to use, or more
            to cache than memory holds.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        keep_empty: bool,
        cache: bool = False,
        class_agnostic: bool = False,
    ) -> None:
        self._source = Path(annotations).name
        raw = _read(Path(annotations))
        categories = sorted(raw["categories"], key=lambda category: category["id"])
        self.category_ids: tuple[int, ...] = tuple(category["id"] for category in categories)
        self.classes: tuple[str, ...] = tuple(category["name"] for category in categories)
        if len(set(self.category_ids)) != len(self.category_ids):
            raise DataError(f"{self._source}: category ids repeat ({self.category_ids}); wanted one id per category")
        label_of = {category_id: label for label, category_id in enumerate(self.category_ids)}
        if class_agnostic:
            label_of = dict.fromkeys(self.category_ids, 0)
            self.category_ids, self.classes = (1,), (OBJECT,)
        pictures = self._collect(raw, Path(images), label_of)
        self._pictures = [picture for picture in pictures if keep_empty or picture.instances]
        if not self._pictures:
            wanted = "images" if keep_empty else "images with instances that are not crowds"
            raise DataError(f"{self._source}: none of {len(pictures)} images can be used; wanted {wanted}")
        missing = [picture.path for picture in self._pictures if not picture.path.is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self._pictures)} pictures of {self._source} are missing, "
                f"first {missing[0]}; check the images folder"
            )
        if cache:
            self._check_memory()
        self._cache = [self._decode(picture) for picture in self._pictures] if cache else None
        for image in self._cache or ():
            image.flags.writeable = False  # shared by everybody who asks

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """COCO image ids, in the order of the indices."""
        return tuple(picture.image_id for picture in self._pictures)

    @property
    def instance_count(self) -> int:
        """Number of instances over all pictures, crowds left out."""
        return sum(len(picture.instances) for picture in self._pictures)

    def labels(self, index: int) -> set[int]:
        """The classes that the picture shows."""
        return {instance.label for instance in self._pictures[index].instances}

    def image(self, index: int) -> np.ndarray:
        """The picture alone, uint8 [H, W, 3] RGB; read-only when it comes from the cache.

        Raises:
            DataError: unreadable, or of another size than the JSON says.
        """
        return self._decode(self._pictures[index]) if self._cache is None else self._cache[index]

    def file(self, index: int) -> bytes:
        """The picture as it lies on disk, encoded, as a client would send it.

        Raises:
            DataError: unreadable, or of another size than the JSON says.
        """
        picture = self._pictures[index]
        try:
            data = picture.path.read_bytes()
            size = check_header(data).display_size
        except (OSError, PictureError) as error:
            raise DataError(f"{picture.path}: {error}") from error
        self._check_size(picture, size)
        return data

    def sample(self, index: int) -> Sample:
        """The picture with its masks; instances whose shape covers no pixel are left out.

        Raises:
            DataError: a picture or an annotation that cannot be read.
        """
        picture = self._pictures[index]
        masks = np.zeros((len(picture.instances), picture.height, picture.width), np.uint8)
        for mask, instance in zip(masks, picture.instances, strict=True):
            mask[:] = self._rasterise(instance, picture)
        labels = np.array([instance.label for instance in picture.instances], np.int64)
        visible = masks.any(axis=(1, 2))
        if not visible.all():
            masks, labels = masks[visible], labels[visible]
        return Sample(self.image(index), masks, labels, picture.image_id)

    def _check_memory(self) -> None:
        wanted = sum(picture.height * picture.width * 3 for picture in self._pictures)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if wanted > 0.8 * memory:
            raise DataError(
                f"{self._source}: {len(self._pictures)} pictures take {wanted / 1e9:.1f} GB decoded, this machine has "
                f"{memory / 1e9:.1f} GB; decode them each time instead (--no-cache)"
            )

    def _collect(self, raw: dict[str, Any], images: Path, label_of: dict[int, int]) -> list[_Picture]:
        pictures = {
            image["id"]: _Picture(image["id"], images / image["file_name"], image["height"], image["width"], [])
            for image in raw["images"]
        }
        for number, annotation in enumerate(raw["annotations"]):
            name = f"{self._source}: annotation {annotation.get('id', number)}"
            picture = pictures.get(annotation["image_id"])
            if picture is None:
                raise DataError(f"{name} refers to image {annotation['image_id']}, which is not among the images")
            label = label_of.get(annotation["category_id"])
            if label is None:
                raise DataError(f"{name} refers to category {annotation['category_id']}; known: {(*label_of,)}")
            if annotation.get("iscrowd", 0):
                continue
            shape = _parse_shape(annotation.get("segmentation"), picture, name)
            if shape:
                picture.instances.append(_Instance(label, annotation.get("id", number), shape))
        return list(pictures.values())

    def _decode(self, picture: _Picture) -> np.ndarray:
        try:
            image: np.ndarray = decode(picture.path.read_bytes())
        except (OSError, PictureError) as error:
            raise DataError(f"{picture.path}: {error}") from error
        self._check_size(picture, image.shape[:2])
        return image

    def _check_size(self, picture: _Picture, size: tuple[int, ...]) -> None:
        if size != (picture.height, picture.width):
            raise DataError(
                f"{picture.path} is {size[1]}x{size[0]} pixels (EXIF orientation applied); "
                f"{self._source} says {picture.width}x{picture.height}"
            )

    def _rasterise(self, instance: _Instance, picture: _Picture) -> np.ndarray:
        try:
            if isinstance(instance.shape, dict):
                rle = instance.shape
            else:
                rle = coco_mask.merge(coco_mask.frPyObjects(instance.shape, picture.height, picture.width))
            mask: np.ndarray = decode_rle(rle)
            # Where the runs of a broken RLE end early, pycocotools leaves what happened to be in memory.
            readable = cv2.countNonZero(mask.T) == coco_mask.area(rle)
        except ValueError:
            readable = False
        if not readable:
            raise DataError(f"{self._source}: the mask of annotation {instance.annotation_id} is unreadable")
        return mask


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read annotations {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); wanted COCO annotations") from error
    for key, fields in _WANTED.items():
        rows = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path} has no list '{key}'; wanted COCO JSON with {', '.join(_WANTED)}")
        for row in rows:
            if not isinstance(row, dict) or not fields <= row.keys():
                raise DataError(f"{path}: an entry of '{key}' lacks one of {sorted(fields)}: {str(row)[:120]}")
    return raw


_WANTED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"image_id", "category_id"},
    "categories": {"id", "name"},
}


def _parse_shape(segmentation: object, picture: _Picture, name: str) -> list[np.ndarray] | dict[str, Any]:
    """Polygons as float64 arrays (x, y, x, y, ...), or a compressed RLE; empty when nothing is drawn."""
    if isinstance(segmentation, dict):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [picture.height, picture.width]:
            raise DataError(f"{name}: RLE of size {size}; wanted the image's [{picture.height}, {picture.width}]")
        if isinstance(counts, list):
            area = picture.height * picture.width
            if not all(isinstance(run, int) and run >= 0 for run in counts) or sum(counts) != area:
                raise DataError(f"{name}: RLE counts are no run lengths that sum to the image's {area} pixels")
            rle: dict[str, Any] = coco_mask.frPyObjects(segmentation, picture.height, picture.width)
            return rle
        if isinstance(counts, str):
            return {"size": size, "counts": counts.encode()}
        raise DataError(f"{name}: RLE counts are {type(counts).__name__}; wanted a list or a string")
    if not isinstance(segmentation, list):
        raise DataError(f"{name}: segmentation is {type(segmentation).__name__}; wanted polygons or an RLE")
    try:
        parts = [np.asarray(part, np.float64) for part in segmentation]
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: polygons hold something else than numbers") from error
    if any(part.ndim != 1 or part.size % 2 or not np.isfinite(part).all() for part in parts):
        raise DataError(f"{name}: wanted polygons as flat lists of finite x, y, x, y, ...")
    if any(np.abs(part).max(initial=0) > FAR for part in parts):
        raise DataError(
            f"{name}: a polygon has coordinates beyond {FAR:,}; `sparseinst check-dataset` lists the others"
        )
    # Fewer than three points enclose nothing, and pycocotools would take two points for a box.
    return [part for part in parts if part.size >= 6]
