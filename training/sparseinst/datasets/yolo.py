"""YOLO segmentation labels: a text file for each picture, a line for each instance, corners in 0..1 of the picture.

    labels/train/a.txt     0 0.68 0.48 0.67 0.49 0.68 0.51      class, then x y of each corner
    images/train/a.jpg

Labels lie in `labels/` beside `images/`, or in the same folder as the pictures. Pictures without a label file have no
instances. YOLO has no multi-part instances: a part that its exporter joined by a bridge stays joined.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from sparseinst.data.coco import DataError
from sparseinst.datasets.source import Drawn, Source, by_stem, list_pictures, read_classes, read_text, stem_of

# Exporters round at the border; what lies further out was not normalised at all.
_SLACK = 0.01


def open_yolo(source: Path, images: Path | None, classes: Path | None, faults: list[str]) -> Source:
    """Open a folder of YOLO-seg labels.

    Raises:
        DataError: no labels, no pictures or no class names.
    """
    labels = source / "labels" if (source / "labels").is_dir() else source
    files = {stem_of(path, labels): path for path in sorted(labels.rglob("*.txt")) if path.name != "classes.txt"}
    if not files:
        raise DataError(f"{source} holds no label files; wanted labels/*.txt; give the folder above labels/")
    names = read_classes(classes or _class_file(source))
    images = images or (source / "images" if (source / "images").is_dir() else source)
    pictures = by_stem(list_pictures(images), images, faults)
    for stem, path in files.items():
        if stem not in pictures:
            faults.append(f"{path}: has no picture {images / stem}.jpg (.png, .webp); add it or remove the labels")
    label_files = {picture: files.get(stem) for stem, picture in pictures.items()}
    return Source(images, names, list(pictures.values()), partial(_read, label_files, names))


def _class_file(source: Path) -> Path:
    candidates = [source / "data.yaml", source.parent / "data.yaml", source / "classes.txt"]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{source} has no class names; wanted data.yaml in it or above it; name the file with --classes")


def _read(
    label_files: dict[Path, Path | None],
    names: tuple[str, ...],
    picture: Path,
    size: tuple[int, int],
    faults: list[str],
) -> list[Drawn]:
    path = label_files[picture]
    height, width = size
    drawn = []
    for number, line in enumerate(read_text(path).splitlines() if path else [], start=1):
        if not line.strip():
            continue
        try:
            label, corners = _parse(line, len(names))
        except ValueError as error:
            faults.append(f"{path} line {number}: {error}")
            continue
        drawn.append(Drawn(names[label], [corners * (width, height)], f"{path} line {number}"))
    return drawn


def _parse(line: str, classes: int) -> tuple[int, np.ndarray]:
    """Class index and corners float64 [P, 2] in 0..1 of a line; ValueError with what is wrong."""
    first, *rest = line.split()
    if not first.isdecimal() or int(first) >= classes:
        raise ValueError(f"class {first!r} is none of 0 to {classes - 1}; mend the line or the class names")
    try:
        values = np.array(rest, np.float64)
    except ValueError as error:
        raise ValueError(f"{line.strip()[:40]!r} holds something else than numbers; mend or remove the line") from error
    if values.size == 4:
        raise ValueError("a box (4 numbers); wanted the corners of a polygon; export segmentation labels")
    if values.size < 6 or values.size % 2:
        raise ValueError(f"{values.size} coordinates; wanted x y of at least 3 corners; mend or remove the line")
    if not (np.isfinite(values).all() and values.min() >= -_SLACK and values.max() <= 1 + _SLACK):
        raise ValueError(f"coordinates from {values.min():g} to {values.max():g}; wanted 0 to 1; divide by the size")
    return int(first), values.reshape(-1, 2)
