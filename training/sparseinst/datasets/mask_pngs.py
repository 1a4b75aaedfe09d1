"""A folder of mask PNGs: a file for each instance, named `<picture stem>__<class>__<number>.png`.

    images/yard.jpg
    masks/yard__dog__1.png       0 is background, the one other value is the instance
    masks/yard__dog__2.png

Masks lie in `masks/` beside `images/`, or in the folder given, with the pictures in --images. Subfolders correspond:
images/a/yard.jpg has masks/a/yard__dog__1.png. Pictures without masks have no instances.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from sparseinst.data.coco import DataError
from sparseinst.datasets.source import (
    Drawn,
    Source,
    by_stem,
    list_pictures,
    read_classes,
    read_png,
    size_fault,
    stem_of,
)
from sparseinst_runtime.limits import PictureError


def open_mask_pngs(source: Path, images: Path | None, classes: Path | None, faults: list[str]) -> Source:
    """Open a folder of mask PNGs.

    Raises:
        DataError: no masks or no pictures.
    """
    folder = source / "masks" if (source / "masks").is_dir() else source
    images = images or source / "images"
    pictures = by_stem(list_pictures(images), images, faults)
    inside = images.resolve()
    files = [path for path in sorted(folder.rglob("*.png")) if not path.resolve().is_relative_to(inside)]
    if not files:
        raise DataError(f"{folder} holds no .png masks apart from the pictures; wanted <picture>__<class>__<n>.png")
    names = read_classes(classes) if classes else None
    found: dict[Path, list[tuple[int, str, Path]]] = {picture: [] for picture in pictures.values()}
    for path in files:
        try:
            stem, category, number = _parse(stem_of(path, folder))
            if stem not in pictures:
                raise ValueError(f"has no picture {images / stem}.jpg (.png, .webp); add it or remove the mask")
            if names is not None and category not in names:
                raise ValueError(f"class {category!r} is none of the {len(names)} classes; rename it or add the class")
        except ValueError as error:
            faults.append(f"{path}: {error}")
            continue
        found[pictures[stem]].append((number, category, path))
    return Source(images, names, list(found), partial(_read, found))


def _parse(stem: str) -> tuple[str, str, int]:
    """Picture, class and number of a mask's name; the picture's own name may hold `__`."""
    parts = stem.rsplit("__", 2)
    if len(parts) != 3 or not parts[0] or not parts[1] or not parts[2].isdecimal():
        raise ValueError("its name is not <picture stem>__<class>__<number>.png; rename it")
    return parts[0], parts[1], int(parts[2])


def _read(
    found: dict[Path, list[tuple[int, str, Path]]], picture: Path, size: tuple[int, int], faults: list[str]
) -> list[Drawn]:
    drawn = []
    for _, category, path in sorted(found[picture]):
        try:
            values = read_png(path)
        except PictureError as error:
            faults.append(f"{path}: {error}")
            continue
        values = values if values.ndim == 2 else values.max(axis=2)
        levels = np.unique(values)
        if wrong := size_fault(values, size):
            faults.append(f"{path}: {wrong}")
        elif len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
            faults.append(f"{path}: has {len(levels)} values; wanted 0 and one other; threshold it, or split instances")
        else:
            drawn.append(Drawn(category, (values > 0).astype(np.uint8), str(path)))
    return drawn
