"""Pascal-VOC masks: two palette PNGs for each picture, whose values are indices, not colours.

    JPEGImages/a.jpg
    SegmentationObject/a.png     1, 2, 3, ... number the instances, 0 is background
    SegmentationClass/a.png      1..20 the class of each pixel, in the order of the class names

255 is void (outlines, and what nobody labelled) and belongs to no instance. Pictures without masks are left out, since
VOC segments a part of its pictures only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from sparseinst.data.coco import DataError
from sparseinst.datasets.source import Drawn, Source, by_stem, list_pictures, read_classes, read_png, size_fault
from sparseinst_runtime.limits import PictureError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID = 255
_AGREE = 0.9  # share of an instance's pixels that must be of one class; annotators' outlines differ by a pixel


def open_voc(source: Path, images: Path | None, classes: Path | None, faults: list[str]) -> Source:
    """Open a VOC folder with SegmentationObject, SegmentationClass and JPEGImages.

    Raises:
        DataError: one of the folders is missing, or there is no mask or no picture.
    """
    for name in ("SegmentationObject", "SegmentationClass"):
        if not (source / name).is_dir():
            raise DataError(f"{source} has no folder {name}; wanted VOC's layout; give the folder that holds it")
    names = read_classes(classes) if classes else CLASSES
    images = images or source / "JPEGImages"
    pictures = by_stem(list_pictures(images), images, faults)
    masks = sorted((source / "SegmentationObject").glob("*.png"))
    if not masks:
        raise DataError(f"{source / 'SegmentationObject'} holds no .png; wanted one a picture")
    paired: dict[Path, tuple[Path, Path]] = {}
    for path in masks:
        partner = source / "SegmentationClass" / path.name
        if path.stem not in pictures:
            faults.append(f"{path}: has no picture {images / path.stem}.jpg (.png, .webp); add it or remove the masks")
        elif not partner.is_file():
            faults.append(f"{path}: has no {partner}; wanted the classes of its instances; add it or remove the mask")
        else:
            paired[pictures[path.stem]] = (path, partner)
    return Source(images, names, list(paired), partial(_read, paired, names))


def _read(
    paired: dict[Path, tuple[Path, Path]],
    names: tuple[str, ...],
    picture: Path,
    size: tuple[int, int],
    faults: list[str],
) -> list[Drawn]:
    maps = []
    for path in paired[picture]:
        try:
            indices = read_png(path)
        except PictureError as error:
            faults.append(f"{path}: {error}")
            return []
        if indices.ndim != 2:
            faults.append(f"{path}: holds colours; wanted palette indices; save it as palette or grey PNG")
            return []
        if wrong := size_fault(indices, size):
            faults.append(f"{path}: {wrong}")
            return []
        maps.append(indices)
    objects, classes = maps
    drawn = []
    for number in np.unique(objects).tolist():
        if number in (0, VOID):
            continue
        mask = objects == number
        origin = f"{paired[picture][0]} object {number}"
        kinds, counts = np.unique(classes[mask], return_counts=True)
        index, agree = int(kinds[counts.argmax()]), counts.max() / counts.sum()
        if agree < _AGREE:
            faults.append(f"{origin}: has pixels of classes {kinds.tolist()}; wanted one class; mend the class mask")
        elif not 1 <= index <= len(names):
            faults.append(f"{origin}: has class {index}; wanted 1 to {len(names)}; mend it, or list it by --classes")
        else:
            drawn.append(Drawn(names[index - 1], mask.astype(np.uint8), origin))
    return drawn
