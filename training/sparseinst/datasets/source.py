"""What the readers of the formats have in common: pictures of a folder, class lists, mask PNGs.

A reader never stops at a broken entry: it adds a sentence to `faults` and goes on, so that a user sees all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from sparseinst.data.coco import DataError
from sparseinst_runtime.limits import PictureError, open_picture

# Those that runtime decodes, and others that people have: these are refused with a sentence, not passed over.
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".avif"}


@dataclass(frozen=True)
class Drawn:
    """One instance as its source has it.

    Attributes:
        category: class name.
        shape: polygons, float64 [P, 2] each (x, y in pixels, pixel edges), or a mask, uint8 [H, W] of 0 and 1.
        origin: where it stands, for messages: file and line, shape or object number.
    """

    category: str
    shape: list[np.ndarray] | np.ndarray
    origin: str


@dataclass(frozen=True)
class Source:
    """An opened data set of another format.

    Attributes:
        images: folder that file names are relative to.
        classes: class names in order of category id, or None for the names that occur, sorted.
        pictures: the pictures, inside `images`, in the order of their names.
        read: (picture, (height, width), faults) -> its instances; called once for each picture.
    """

    images: Path
    classes: tuple[str, ...] | None
    pictures: list[Path]
    read: Callable[[Path, tuple[int, int], list[str]], list[Drawn]]


def list_pictures(folder: Path) -> list[Path]:
    """All picture files under a folder, by relative name.

    Raises:
        DataError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; wanted the folder of the pictures; name it with --images")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise DataError(f"{folder} holds no pictures; wanted JPEG, PNG or WEBP files; name their folder with --images")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def by_stem(pictures: list[Path], folder: Path, faults: list[str]) -> dict[str, Path]:
    """Pictures by relative path without suffix; a second picture of the same stem is a fault and left out."""
    found: dict[str, Path] = {}
    for path in pictures:
        stem = stem_of(path, folder)
        if stem in found:
            faults.append(
                f"{path}: has the stem of {found[stem].name}; wanted one picture a stem; rename or remove one"
            )
        else:
            found[stem] = path
    return found


def stem_of(path: Path, folder: Path) -> str:
    """The path relative to the folder, with slashes and without suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def read_text(path: Path) -> str:
    """A whole UTF-8 text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from error


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in order, from a text file (a name a line) or from `names` of a YOLO data.yaml (list or mapping).

    Raises:
        DataError: unreadable, no names, numbers that are not 0, 1, 2, ..., or a name twice.
    """
    text = read_text(path)
    if path.suffix.lower() in {".yaml", ".yml"}:
        names = _yaml_names(path, text)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} holds no class names; wanted one a line, or `names` in a YAML file")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{path} names {', '.join(twice)} more than once; wanted each class once; remove the surplus")
    return tuple(names)


def _yaml_names(path: Path, text: str) -> list[str]:
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path} is no YAML ({' '.join(str(error).split())}); mend it or give a text file") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise DataError(
                f"{path} numbers its names {sorted(names, key=str)}; wanted 0 to {len(names) - 1} without gaps"
            )
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list):
        raise DataError(f"{path} has no list or mapping `names`; wanted YOLO's data.yaml")
    return [str(name) for name in names]


def read_png(path: Path | bytes) -> np.ndarray:
    """The stored values of a mask PNG: palette indices, grey values or colours; uint8 or wider, [H, W] or [H, W, 3].

    Raises:
        PictureError: it is no PNG that can be read, or has an alpha channel.
    """
    try:
        picture, header = open_picture(path if isinstance(path, bytes) else path.read_bytes())
        if header.format != "PNG":
            raise PictureError(f"got a {header.format} picture; wanted a PNG, whose values are exact; save it as PNG")
        if picture.mode in {"LA", "PA", "RGBA"}:
            raise PictureError(
                f"got a mask with alpha (mode {picture.mode}); wanted plain values; save it without alpha"
            )
        return np.asarray(_loaded(picture))
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from error


def _loaded(picture: Image.Image) -> Image.Image:
    try:
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # broken PNGs make Pillow raise a dozen kinds of errors; all mean the same
        raise PictureError("the PNG is cut off or corrupt; write it anew") from error
    return picture


def size_fault(mask: np.ndarray, size: tuple[int, int]) -> str | None:
    """What is wrong with a mask's size for a picture of (height, width) as people see it; None when it fits."""
    height, width = size
    if mask.shape[:2] == (height, width):
        return None
    turned = mask.shape[:2] == (width, height)
    hint = "the picture is turned by its EXIF orientation: turn the mask too" if turned else "resize or redraw it"
    return f"the mask is {mask.shape[1]} x {mask.shape[0]}; wanted the picture's {width} x {height}; {hint}"
