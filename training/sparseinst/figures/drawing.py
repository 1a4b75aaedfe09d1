"""What the figures are drawn with: heat-maps and masks over pictures, text, and rows of pictures of any shape.

Everything is uint8 RGB [H,W,3]. Equal arguments give equal pixels: the font and the colours come with matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture: TypeAlias = "NDArray[np.uint8]"
Colour: TypeAlias = "tuple[int, int, int]"
Box: TypeAlias = "tuple[float, float, float, float]"  # x1, y1, x2, y2 in pixels

# Okabe and Ito (2008), RGB: told apart with any common colour blindness.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
NOBODY: Colour = (190, 190, 190)  # an instance that is no one's partner
PAPER: Colour = (255, 255, 255)
GREY: Colour = (100, 100, 100)  # of words that matter less
INK: Colour = (30, 30, 30)
MARGIN = 10  # pixels
FORMATS = (".png", ".jpg", ".jpeg", ".webp")
_HEAT = mpl.colormaps["inferno"]  # perceptually uniform, and its lightness rises: it reads in grey too


def resized(picture: Picture, width: int, height: int) -> Picture:
    """The picture at another size, in pixels; area averages where it shrinks, bicubic where it grows."""
    shrinks = width * height < picture.shape[0] * picture.shape[1]
    scaled = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return np.asarray(scaled, np.uint8)


def heat_colours(values: NDArray[np.float32]) -> Picture:
    """Values in 0..1, [...] -> colours [...,3] from black over red to pale yellow."""
    return np.asarray(_HEAT(values)[..., :3] * 255 + 0.5, np.uint8)


def heated(picture: Picture, values: NDArray[np.float32]) -> Picture:
    """A heat-map over the picture in grey.

    Args:
        picture: [H,W,3].
        values: [H,W] in 0..1; the higher, the less of the picture shines through.
    """
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    share = 0.45 + 0.4 * values[..., None]
    return np.asarray(grey * (1 - share) + heat_colours(values) * share, np.uint8)


def painted(picture: Picture, masks: Sequence[NDArray[np.bool_]], colours: Sequence[Colour]) -> Picture:
    """Masks filled and outlined over the picture, the largest first so that it does not hide the others.

    Args:
        picture: [H,W,3].
        masks: bool, each over the whole picture but of any size: they are brought to the picture's.
        colours: one for each mask.
    """
    height, width = picture.shape[:2]
    fine = (2 * width, 2 * height)  # outlines are drawn at twice the size, and smooth when that is halved
    scene = cv2.resize(picture, fine, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    soft = [cv2.resize(mask.astype(np.float32), fine, interpolation=cv2.INTER_LINEAR) for mask in masks]
    outlines = []
    for index in sorted(range(len(soft)), key=lambda i: -float(soft[i].sum())):
        cover = 0.5 * soft[index][..., None]
        scene = scene * (1 - cover) + np.array(colours[index], np.float32) * cover
        edges, _ = cv2.findContours((soft[index] > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        outlines.append((edges, colours[index]))
    drawn = np.ascontiguousarray(scene, np.uint8)
    for edges, colour in outlines:
        cv2.drawContours(drawn, edges, -1, PAPER, 6, cv2.LINE_AA)  # a rim, to be seen on any ground
        cv2.drawContours(drawn, edges, -1, colour, 3, cv2.LINE_AA)
    return np.asarray(cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=32)
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which knows more than ASCII, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", name), size)


def fitting(text: str, width: float, face: ImageFont.FreeTypeFont) -> str:
    """The text, with an ellipsis for what of it is wider than `width` pixels."""
    if face.getlength(text) <= width:
        return text
    while text and face.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def chip(
    draw: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    colour: Colour,
    *,
    face: ImageFont.FreeTypeFont,
    taken: Sequence[Box],
    size: tuple[int, int],
) -> Box:
    """Text on a rounded patch of colour, moved into the tile and below the patches that are there.

    Args:
        draw: on the tile.
        text: class and score; cut where the tile is narrower.
        corner: (x, y) that the patch's upper left corner is wanted at, in pixels.
        colour: of the patch; the text is black or white, whichever is read more easily on it.
        face: see `font`.
        taken: the patches that are there.
        size: (width, height) of the tile.

    Returns:
        Where the patch is.
    """
    pad = max(2, round(face.size / 4))
    text = fitting(text, size[0] - 2 * pad, face)
    wide, high = face.getlength(text) + 2 * pad, face.size + 2 * pad
    x = max(0, min(corner[0], size[0] - wide))
    y = max(0, min(corner[1], size[1] - high))
    for box in sorted(taken, key=lambda box: box[1]):
        meets = x < box[2] and box[0] < x + wide and y < box[3] and box[1] < y + high
        if meets and box[3] + 1 + high <= size[1]:
            y = box[3] + 1
    draw.rounded_rectangle((x, y, x + wide, y + high), radius=pad, fill=colour)
    red, green, blue = colour
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 110
    draw.text((x + wide / 2, y + high / 2), text, fill=PAPER if dark else INK, font=face, anchor="mm")
    return x, y, x + wide, y + high


def justified(aspects: Sequence[float], columns: int, width: int, gap: int) -> list[list[tuple[int, int, int]]]:
    """Pictures in rows that all end at `width`, each picture in its own shape.

    Args:
        aspects: width / height of each picture.
        columns: how many in a row.
        width: of a row, in pixels.
        gap: between pictures, in pixels.

    Returns:
        For each row, (x, width, height) of its pictures in pixels; one height for a row. A last row that is not full
        gets the mean height of those above and ends earlier.
    """
    rows: list[list[tuple[int, int, int]]] = []
    for start in range(0, len(aspects), columns):
        part = aspects[start : start + columns]
        exact = (width - gap * (len(part) - 1)) / sum(part)
        if len(part) < columns and rows:
            exact = min(exact, sum(row[0][2] for row in rows) / len(rows))
        edges = [round(exact * sum(part[:i])) for i in range(len(part) + 1)]
        spots = [(edges[i] + gap * i, max(1, edges[i + 1] - edges[i]), max(1, round(exact))) for i in range(len(part))]
        rows.append(spots)
    return rows


def encode(figure: Picture, suffix: str) -> bytes:
    """The figure as a file's content; `suffix` is one of `FORMATS`."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88] if suffix.lower() in {".jpg", ".jpeg"} else []
    _, data = cv2.imencode(suffix, cv2.cvtColor(figure, cv2.COLOR_RGB2BGR), quality)
    return data.tobytes()


def blank(width: int, height: int) -> Image.Image:
    """An empty figure."""
    return Image.new("RGB", (width, height), PAPER)


def framed(figure: Image.Image) -> Picture:
    """The figure with an empty margin around it."""
    whole = blank(figure.width + 2 * MARGIN, figure.height + 2 * MARGIN)
    whole.paste(figure, (MARGIN, MARGIN))
    return np.asarray(whole)
