"""LabelMe: a JSON for each picture with `shapes`; polygon, rectangle, circle and mask are read.

Shapes of one label and one `group_id` are parts of one instance. The picture is where `imagePath` says, seen from the
JSON; with --images, the file of that name in the folder. Pictures without a JSON are not annotated and left out.
LabelMe shows pictures upright, so its coordinates belong to the picture with its EXIF orientation applied.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparseinst.data.coco import FAR, DataError
from sparseinst.datasets.source import Drawn, Source, read_classes, read_png, read_text
from sparseinst_runtime.rle import decode_rle

_CHORD = 0.1  # how far the polygon of a circle may cut into it, in pixels


def open_labelme(source: Path, images: Path | None, classes: Path | None, faults: list[str]) -> Source:
    """Open a folder of LabelMe JSONs.

    Raises:
        DataError: no JSON in the folder, none with its picture, or unreadable class names.
    """
    files = sorted(source.rglob("*.json"), key=lambda path: path.relative_to(source).as_posix())
    if not files:
        raise DataError(f"{source} holds no .json files; wanted LabelMe's, one a picture; give their folder")
    root = (images or source).resolve()
    documents: dict[Path, tuple[Path, dict[str, Any]]] = {}
    for path in files:
        try:
            document = _load(path)
            picture = _picture_of(path, document, source, root, moved=images is not None)
        except DataError as error:
            faults.append(str(error))
            continue
        if picture in documents:
            faults.append(f"{path}: annotates {picture.name}, as {documents[picture][0].name} does; remove one of both")
        else:
            documents[picture] = (path, document)
    pictures = sorted(documents, key=lambda path: path.relative_to(root).as_posix())
    names = read_classes(classes) if classes else None
    return Source(root, names, pictures, partial(_read, documents, names))


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is not JSON ({error}); save it from LabelMe again") from error
    if not isinstance(document, dict) or not isinstance(document.get("shapes"), list):
        raise DataError(f"{path}: has no list `shapes`; wanted a LabelMe JSON; move other files elsewhere")
    if not isinstance(document.get("imagePath"), str):
        raise DataError(f"{path}: has no `imagePath`; wanted the picture's file name; save it from LabelMe again")
    return document


def _picture_of(path: Path, document: dict[str, Any], source: Path, root: Path, *, moved: bool) -> Path:
    named = Path(document["imagePath"].replace("\\", "/"))
    if moved:
        candidates = [root / path.parent.relative_to(source) / named.name, root / named.name]
    else:
        folder = path.parent.resolve()
        candidates = [Path(os.path.normpath(folder / named)), folder / named.name]
    for candidate in candidates:
        if candidate.is_file() and candidate.is_relative_to(root):
            return candidate
    raise DataError(f"{path}: its picture {named} is not under {root}; name the folder of the pictures with --images")


def _read(
    documents: dict[Path, tuple[Path, dict[str, Any]]],
    names: tuple[str, ...] | None,
    picture: Path,
    size: tuple[int, int],
    faults: list[str],
) -> list[Drawn]:
    path, document = documents[picture]
    height, width = size
    said = (document.get("imageWidth", width), document.get("imageHeight", height))
    if said != (width, height):
        faults.append(f"{path}: says {said[0]} x {said[1]}; {picture.name} is {width} x {height}; annotate it anew")
        return []
    parts: dict[tuple[str, object], list[np.ndarray]] = {}  # polygons [P, 2]; masks uint8 [H, W]
    origins: dict[tuple[str, object], str] = {}
    broken = set()
    for number, shape in enumerate(document["shapes"]):
        origin = f"{path} shape {number}"
        group = shape.get("group_id") if isinstance(shape, dict) else None
        key = (
            str(shape.get("label")) if isinstance(shape, dict) else "",
            ("alone", number) if group is None else str(group),
        )
        origins.setdefault(key, origin)
        try:
            parts.setdefault(key, []).append(_part(shape, names, height, width))
        except ValueError as error:  # PictureError too
            faults.append(f"{origin}: {error}")
            broken.add(key)  # an instance that lacks a part would be a wrong instance
    return [
        Drawn(key[0], _join(found, height, width), origins[key]) for key, found in parts.items() if key not in broken
    ]


def _part(shape: object, names: tuple[str, ...] | None, height: int, width: int) -> np.ndarray:
    """A polygon float64 [P, 2], or a mask uint8 [H, W]; ValueError with what is wrong."""
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("has no `label`; wanted a LabelMe shape; mend or remove it")
    if names is not None and shape["label"] not in names:
        raise ValueError(f"label {shape['label']!r} is none of the {len(names)} classes; rename it or add the class")
    try:
        points = np.array(shape.get("points"), np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("its points are no numbers; wanted [[x, y], ...]; mend or remove it") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"its points have shape {list(points.shape)}; wanted [[x, y], ...]; mend or remove it")
    if len(points) and np.abs(points).max() > FAR:
        raise ValueError(f"has a coordinate of {np.abs(points).max():g} pixels; redraw or remove it")
    kind = shape.get("shape_type") or "polygon"  # LabelMe before 3.3 knew polygons only
    wanted = {"polygon": "at least 3", "rectangle": "2", "circle": "2", "mask": "2"}
    if kind not in wanted:
        raise ValueError(f"is a {kind}, which has no area; wanted {', '.join(wanted)}; redraw or remove it")
    if (len(points) < 3) if kind == "polygon" else (len(points) != 2):
        raise ValueError(f"is a {kind} of {len(points)} points; wanted {wanted[kind]}; redraw or remove it")
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points
        return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)])
    if kind == "circle":
        return _circle(points)
    return _mask(shape.get("mask"), points, height, width) if kind == "mask" else points


def _circle(points: np.ndarray) -> np.ndarray:
    """Centre and a point on the rim to a polygon that cuts in by `_CHORD` pixels at most."""
    radius = float(np.hypot(*(points[1] - points[0])))
    if radius <= 0:
        raise ValueError("is a circle of radius 0; redraw or remove it")
    corners = max(8, math.ceil(math.pi / math.acos(max(1 - _CHORD / radius, 0))))
    angles = np.arange(corners) * (2 * math.pi / corners)
    circle: np.ndarray = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return circle


def _mask(encoded: object, points: np.ndarray, height: int, width: int) -> np.ndarray:
    """LabelMe's mask: a PNG in base64 whose upper left pixel is the first point."""
    try:
        png = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except binascii.Error as error:
        raise ValueError("its mask is no base64; redraw or remove it") from error
    values = read_png(png)
    patch = (values if values.ndim == 2 else values.max(axis=2)) > 0
    x, y = np.round(points.min(axis=0)).astype(int).tolist()
    if x < 0 or y < 0 or y + patch.shape[0] > height or x + patch.shape[1] > width:
        raise ValueError(f"its mask of {patch.shape[1]} x {patch.shape[0]} at {x}, {y} leaves the picture; redraw it")
    mask = np.zeros((height, width), np.uint8)
    mask[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
    return mask


def _join(parts: list[np.ndarray], height: int, width: int) -> list[np.ndarray] | np.ndarray:
    """Polygons stay polygons; where a part is a mask, the whole becomes one."""
    is_mask = [part.dtype == np.uint8 for part in parts]
    if not any(is_mask):
        return parts
    union = np.zeros((height, width), np.uint8)
    for part, drawn in zip(parts, is_mask, strict=True):
        union |= part if drawn else decode_rle(coco_mask.frPyObjects([part.ravel().tolist()], height, width)[0])
    return union
