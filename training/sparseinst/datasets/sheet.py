"""A contact sheet: random pictures of a COCO data set with their masks, outlines and class names drawn in."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparseinst.data.coco import DataError
from sparseinst.datasets.findings import Findings
from sparseinst.datasets.raw import RawDataset, read_raw
from sparseinst.datasets.shapes import rasterise
from sparseinst_runtime.decode import decode
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.limits import PictureError
from sparseinst_runtime.rle import decode_rle

# Okabe and Ito (2008), RGB: told apart with any common colour blindness.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_GREY = (32, 32, 32)


def contact_sheet(
    annotations: Path, images: Path, *, pictures: int = 24, columns: int = 6, tile: int = 320, seed: int = 0
) -> np.ndarray:
    """Draw the sheet; equal arguments give equal pixels.

    Args:
        annotations: COCO instance JSON.
        images: folder of its pictures.
        pictures: how many at most, of those with annotations.
        columns: tiles side by side.
        tile: side of a tile in pixels.
        seed: of the choice.

    Returns:
        uint8 [rows * tile, columns * tile, 3], RGB. Pictures that cannot be read say so in their tile.

    Raises:
        DataError: no COCO JSON, or no picture in it has annotations.
    """
    raw = read_raw(annotations, Findings())
    annotated = [image for image in raw.images if raw.annotations_of(image["id"])]
    if not annotated:
        raise DataError(f"{annotations}: no image has annotations; wanted some to draw")
    chosen = random.Random(seed).sample(annotated, min(pictures, len(annotated)))
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    sheet = np.full((rows * tile, columns * tile, 3), _GREY, np.uint8)
    for index, image in enumerate(chosen):
        y, x = index // columns * tile, index % columns * tile
        sheet[y : y + tile, x : x + tile] = _tile(image, raw, images, tile)
    return sheet


def _tile(image: dict[str, Any], raw: RawDataset, images: Path, tile: int) -> np.ndarray:
    try:
        picture = decode((images / image["file_name"]).read_bytes())
    except (OSError, PictureError):
        scene = np.full((tile, tile, 3), _GREY, np.uint8)
        _write(scene, "cannot be read", (8, tile // 2))
    else:
        # Masks are in the frame of the JSON's size; drawn on another one they would not fit the array.
        frame = Letterbox.fit(image["height"], image["width"], (tile, tile))
        if picture.shape[:2] != (image["height"], image["width"]):
            shape = (image["width"], image["height"])
            picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        scene = frame.apply(picture, _GREY)
        _draw(scene, image, raw, frame)
    _write(scene, Path(image["file_name"]).name[:40], (6, tile - 8))
    return scene


def _draw(scene: np.ndarray, image: dict[str, Any], raw: RawDataset, frame: Letterbox) -> None:
    labels = []
    for index, annotation in enumerate(raw.annotations_of(image["id"])):
        rle = rasterise(annotation, image["height"], image["width"], "", Findings())
        if rle is None:
            continue
        size = (frame.scaled_width, frame.scaled_height)
        mask = cv2.resize(decode_rle(rle), size, interpolation=cv2.INTER_AREA)
        colour = _COLOURS[index % len(_COLOURS)]
        area = scene[: size[1], : size[0]]
        if not annotation.get("iscrowd", 0):  # crowds are outlined only
            area[mask > 0] = (0.6 * area[mask > 0] + 0.4 * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(area, outlines, -1, colour, 1, cv2.LINE_AA)
        name = raw.categories[annotation["category_id"]] + (" (crowd)" if annotation.get("iscrowd", 0) else "")
        if mask.any():
            x, y, _, _ = cv2.boundingRect(mask)
            labels.append((name, (x + 2, max(y + 12, 12)), colour))
    for name, at, colour in labels:  # above all masks
        _write(scene, name, at, colour)


def _write(scene: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int] = (255, 255, 255)) -> None:
    printable = text.encode("ascii", "replace").decode()  # OpenCV's own fonts have no more
    for thickness, ink in ((3, (0, 0, 0)), (1, colour)):  # a dark rim, to be read on any ground
        cv2.putText(scene, printable, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, thickness, cv2.LINE_AA)
