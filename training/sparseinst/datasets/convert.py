"""Annotations of other tools to COCO instance JSON; polygons stay polygons, masks become compressed RLE.

Areas and boxes come from the rasterised masks. Ids count from 1 in the order of file names and of the source's own
entries, so that equal sources give equal files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparseinst.data.coco import DataError
from sparseinst.datasets.labelme import open_labelme
from sparseinst.datasets.mask_pngs import open_mask_pngs
from sparseinst.datasets.source import Drawn, Source
from sparseinst.datasets.voc import open_voc
from sparseinst.datasets.yolo import open_yolo
from sparseinst_runtime.limits import PictureError, check_header

FORMATS: dict[str, Callable[[Path, Path | None, Path | None, list[str]], Source]] = {
    "yolo-seg": open_yolo,
    "labelme": open_labelme,
    "voc-masks": open_voc,
    "mask-pngs": open_mask_pngs,
}
_EXAMPLES = 5


@dataclass(frozen=True)
class Conversion:
    """What came out.

    Attributes:
        dataset: COCO instance JSON: info, images, annotations, categories.
        images: folder that its `file_name`s are relative to.
        faults: a sentence for each broken entry that was left out.
    """

    dataset: dict[str, Any]
    images: Path
    faults: tuple[str, ...]

    @property
    def instances_of_class(self) -> dict[str, int]:
        """Number of instances by class name, in order of category id, classes without any included."""
        counts = Counter(annotation["category_id"] for annotation in self.dataset["annotations"])
        return {category["name"]: counts[category["id"]] for category in self.dataset["categories"]}


def convert(
    kind: str,
    source: Path,
    images: Path | None = None,
    classes: Path | None = None,
    *,
    skip_broken: bool = False,
    track: Callable[[list[Path]], Iterable[Path]] = iter,
) -> Conversion:
    """Read a data set of another format.

    Args:
        kind: one of `FORMATS`.
        source: its folder.
        images: folder of the pictures, where they are not where the format has them.
        classes: text file with a class name a line, or a YOLO data.yaml. Their order gives the category ids from 1.
        skip_broken: leave broken entries out; otherwise one of them stops the conversion.
        track: wraps the list of pictures, to show progress.

    Raises:
        DataError: another layout than the format's, broken entries without `skip_broken`, or nothing left.
    """
    if kind not in FORMATS:
        raise DataError(f"format {kind!r} is not known; wanted {', '.join(FORMATS)}")
    if not source.is_dir():
        raise DataError(f"{source} is no folder; wanted the folder of the annotations")
    faults: list[str] = []
    opened = FORMATS[kind](source, images, classes, faults)
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, dict[str, Any]]] = []
    for picture in track(opened.pictures):
        try:
            height, width = check_header(picture.read_bytes()).display_size
        except (OSError, PictureError) as error:
            faults.append(f"{picture}: {error}")
            continue
        try:
            instances = opened.read(picture, (height, width), faults)
        except DataError as error:  # an annotation file that cannot be read as a whole
            faults.append(str(error))
            continue
        name = picture.relative_to(opened.images).as_posix()
        rows.append({"id": len(rows) + 1, "file_name": name, "width": width, "height": height})
        for instance in instances:
            try:
                drawn.append((instance.category, {"image_id": len(rows), **_annotation(instance, height, width)}))
            except ValueError as error:
                faults.append(f"{instance.origin}: {error}")
    if faults and not skip_broken:
        first = "".join(f"\n  {fault}" for fault in faults[:_EXAMPLES])
        raise DataError(
            f"{source}: {len(faults)} broken entries; wanted none: mend them, or leave them out by --skip-broken; "
            f"the first {min(len(faults), _EXAMPLES)}:{first}"
        )
    if not drawn:
        raise DataError(f"{source}: {len(rows)} pictures and no instance that can be used; wanted some; check --from")
    names = opened.classes or tuple(sorted({category for category, _ in drawn}))
    number = {name: index + 1 for index, name in enumerate(names)}
    dataset = {
        "info": {"description": f"converted from {kind} by sparseinst convert-dataset"},
        "images": rows,
        "annotations": [
            {"id": index + 1, "category_id": number[category], **annotation}
            for index, (category, annotation) in enumerate(drawn)
        ],
        "categories": [{"id": number[name], "name": name} for name in names],
    }
    return Conversion(dataset, opened.images, tuple(faults))


def _annotation(instance: Drawn, height: int, width: int) -> dict[str, Any]:
    """Segmentation, area and box of an instance; ValueError when nothing of it is in the picture."""
    segmentation: list[list[float]] | dict[str, Any]
    if isinstance(instance.shape, np.ndarray):
        rle = coco_mask.encode(np.asfortranarray(instance.shape))
        segmentation = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    else:
        clipped = (clip(polygon, height, width) for polygon in instance.shape)
        # A hundredth of a pixel: what people draw is not finer, and the file is a third of the size.
        segmentation = [np.round(polygon, 2).ravel().tolist() for polygon in clipped if len(polygon) >= 3]
        if not segmentation:
            raise ValueError(f"lies outside of the picture ({width} x {height}); redraw or remove it")
        rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    area = int(coco_mask.area(rle))
    if area == 0:
        raise ValueError("covers no pixel; redraw or remove it")
    return {"iscrowd": 0, "area": area, "bbox": coco_mask.toBbox(rle).tolist(), "segmentation": segmentation}


def clip(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon inside the picture, float64 [P, 2]; P may be 0. Sutherland and Hodgman (1974)."""
    for axis, bound, sign in ((0, 0.0, 1.0), (0, float(width), -1.0), (1, 0.0, 1.0), (1, float(height), -1.0)):
        if not len(polygon):
            break
        inside = sign * (polygon[:, axis] - bound)  # >= 0 on the picture's side of this edge
        corners = []
        for index, point in enumerate(polygon):
            before = index - 1
            if (inside[before] < 0) != (inside[index] < 0):
                share = inside[before] / (inside[before] - inside[index])
                crossing = polygon[before] + share * (point - polygon[before])
                crossing[axis] = bound  # exactly: the product may round to outside
                corners.append(crossing)
            if inside[index] >= 0:
                corners.append(point)
        polygon = np.array(corners).reshape(-1, 2)
    return polygon
