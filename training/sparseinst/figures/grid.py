"""Results over many pictures, beside the ground truth where there is one.

Colours tell instances apart, so that two animals of one class do not look like one. With ground truth, a prediction
has the colour of the instance that it covers (IoU of at least 0.5, best scores first, whatever the class); one that
covers none is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sparseinst.figures import drawing
from sparseinst.figures.drawing import INK, NOBODY, PALETTE, Colour, Picture

_GAP = 8  # pixels between pictures
_INNER = 3  # pixels between a ground truth and its prediction
_HEADER = 26  # pixels of the column titles
IOU = 0.5


@dataclass(frozen=True, eq=False)
class Shapes:
    """Instances of one picture, ready to be drawn.

    Attributes:
        masks: bool [K,H,W], best first.
        words: K texts: class, and score where it is a prediction.
    """

    masks: NDArray[np.bool_]
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture of a grid: uint8 RGB [H,W,3], what was found in it, and what is there."""

    picture: Picture
    found: Shapes
    truth: Shapes | None = None


def results_grid(scenes: Sequence[Scene], *, columns: int = 4, tile: int = 320) -> Picture:
    """Draw the grid: rows of pictures in their own shapes, all rows of one width.

    Args:
        scenes: at least one; either all of them have a ground truth or none.
        columns: pictures in a row; a picture with its ground truth counts as one.
        tile: mean width of a tile in pixels; a picture with ground truth has two.

    Returns:
        uint8 RGB; its width is that of `columns` tiles (or pairs), or of all where there are fewer, and the gaps.
    """
    columns = min(columns, len(scenes))
    sides = 2 if scenes[0].truth else 1
    width = columns * sides * tile + (columns - 1) * _GAP
    aspects = [sides * scene.picture.shape[1] / scene.picture.shape[0] for scene in scenes]
    rows = drawing.justified(aspects, columns, width, _GAP)
    header = _HEADER if sides == 2 else 0
    height = header + sum(row[0][2] + _GAP for row in rows) - _GAP
    figure = drawing.blank(width, height)
    draw = ImageDraw.Draw(figure)
    bold, face = drawing.font(14, bold=True), drawing.font(max(11, round(tile / 24)))
    waiting, top = iter(scenes), header
    for row in rows:
        for x, wide, high in row:
            scene = next(waiting)
            size = ((wide - _INNER * (sides - 1)) // sides, high)
            for left, (title, shapes, colours) in zip((x, x + wide - size[0]), _sides(scene), strict=False):
                figure.paste(_tile(scene.picture, shapes, colours, size=size, face=face), (left, top))
                if header and top == header:
                    draw.text((left, header / 2 - 2), title, INK, bold, anchor="lm")
        top += row[0][2] + _GAP
    return np.asarray(figure)


def _sides(scene: Scene) -> list[tuple[str, Shapes, list[Colour]]]:
    """What stands side by side for a picture: title, instances and their colours."""
    truth, found = partners(scene)
    right = ("found", scene.found, found)
    return [right] if scene.truth is None else [("ground truth", scene.truth, truth), right]


def partners(scene: Scene) -> tuple[list[Colour], list[Colour]]:
    """Colours of the ground truth's instances and of those found; without a ground truth, of the latter alone."""
    if scene.truth is None:
        return [], [PALETTE[i % len(PALETTE)] for i in range(len(scene.found.masks))]
    truth = [PALETTE[i % len(PALETTE)] for i in range(len(scene.truth.masks))]
    free = set(range(len(truth)))
    found: list[Colour] = []
    for mask in scene.found.masks:
        overlaps = {i: _iou(mask, scene.truth.masks[i]) for i in sorted(free)}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] < IOU:
            found.append(NOBODY)
        else:
            free.remove(best)
            found.append(truth[best])
    return truth, found


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def _tile(
    picture: Picture,
    shapes: Shapes,
    colours: Sequence[Colour],
    *,
    size: tuple[int, int],
    face: ImageFont.FreeTypeFont,
) -> Image.Image:
    """A picture with its instances at a size (width, height)."""
    tile = Image.fromarray(drawing.painted(drawing.resized(picture, *size), list(shapes.masks), colours))
    draw = ImageDraw.Draw(tile)
    taken: list[drawing.Box] = []
    for mask, words, colour in zip(shapes.masks, shapes.words, colours, strict=True):
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        if len(rows):
            x = columns[0] * size[0] / picture.shape[1]
            above = rows[0] * size[1] / picture.shape[0] - 1.6 * face.size
            taken.append(drawing.chip(draw, words, (x, above), colour, face=face, taken=taken, size=size))
    return tile
