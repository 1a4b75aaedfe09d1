"""Activation maps above the masks that came of them, for the best instances of one picture (figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sparseinst.figures import drawing
from sparseinst.figures.activations import FigureError, Found, Observation, stretched, to_picture
from sparseinst.figures.drawing import GREY, INK, MARGIN, PALETTE, Picture

_GAP = 10  # pixels between tiles
_STRIP = 24  # pixels of a strip for words


def activation_figure(
    picture: Picture,
    observation: Observation,
    classes: Sequence[str],
    *,
    instances: int = 4,
    groups: bool = False,
    tile: int = 360,
) -> Picture:
    """Draw the figure: a column for each instance, best first.

    Each map is stretched from its lowest to its highest value inside the picture, so brightness compares places within
    a map and never two maps.

    Args:
        picture: uint8 RGB [H,W,3], the observed one.
        observation: of the picture.
        classes: class names by label.
        instances: how many at most.
        groups: a row for each group of activation maps in place of their sum.
        tile: longer side of a tile, in pixels.

    Returns:
        uint8 RGB: K columns of tiles, below each other the map (or G maps) and the mask; see `figure_size`.

    Raises:
        FigureError: nothing was found.
    """
    shown = observation.found[:instances]
    if not shown:
        raise FigureError("the network found nothing in this picture; lower --score-threshold or take another one")
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    small = drawing.resized(picture, wide, high)
    maps = observation.maps[:, [found.query for found in shown]]  # [G,K,h,w]
    maps = maps if groups else maps.sum(dim=0, keepdim=True)
    rows = len(maps)
    names = [f"group {g + 1}" for g in range(rows)] if groups and rows > 1 else ["activation"]

    outer_width, outer_height = figure_size(len(shown), rows + 1, wide, high)
    figure = drawing.blank(outer_width - 2 * MARGIN, outer_height - 2 * MARGIN)
    draw = ImageDraw.Draw(figure)
    for k, found in enumerate(shown):
        x, colour = _STRIP + k * (wide + _GAP), PALETTE[k % len(PALETTE)]
        _heading(draw, (x, wide), classes[found.label], found, colour)
        for g in range(rows):
            values = stretched(to_picture(maps[g, k][None], observation.letterbox)[0])
            values = np.asarray(Image.fromarray(values).resize((wide, high), Image.Resampling.BILINEAR))
            figure.paste(Image.fromarray(drawing.heated(small, values)), (x, _STRIP + g * (high + _GAP)))
        mask = drawing.painted(small, [found.instance.mask(0)], [colour])
        figure.paste(Image.fromarray(mask), (x, _STRIP + rows * (high + _GAP)))
    for row, name in enumerate([*names, "mask"]):
        _sideways(figure, name, _STRIP + row * (high + _GAP), high)
    colour_bar(figure, (_STRIP, figure.height - _STRIP + 8), wide)
    return drawing.framed(figure)


def figure_size(columns: int, rows: int, tile_width: int, tile_height: int) -> tuple[int, int]:
    """(width, height) in pixels of a figure of so many tiles, with words and margin."""
    width = _STRIP + columns * (tile_width + _GAP) - _GAP
    return width + 2 * MARGIN, _STRIP + rows * (tile_height + _GAP) - _GAP + _STRIP + 2 * MARGIN


def _heading(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], name: str, found: Found, colour: drawing.Colour
) -> None:
    """Class, score and query above a column at (x, width); of a long class name only the beginning."""
    x, wide = place
    face, light = drawing.font(14, bold=True), drawing.font(12)
    score, query = f"  {found.score:.2f}", f"query {found.query}"
    draw.rounded_rectangle((x, 7, x + 10, 17), radius=2, fill=colour)
    room = wide - 16 - face.getlength(score)
    if room > light.getlength(query) + 40:
        draw.text((x + wide, 12), query, GREY, light, anchor="rm")
        room -= light.getlength(query) + 8
    draw.text((x + 16, 12), drawing.fitting(name, room, face) + score, INK, face, anchor="lm")


def _sideways(figure: Image.Image, text: str, top: int, high: int) -> None:
    strip = drawing.blank(high, _STRIP - _GAP)
    face = drawing.font(13)
    words = drawing.fitting(text, high, face)
    ImageDraw.Draw(strip).text((high / 2, strip.height / 2), words, GREY, face, anchor="mm")
    figure.paste(strip.rotate(90, expand=True), (0, top))


def colour_bar(figure: Image.Image, at: tuple[int, int], width: int) -> None:
    """The heat-map's colours from the lowest to the highest value, with words beside it, at most `width` wide."""
    x, y = at
    face, draw = drawing.font(11), ImageDraw.Draw(figure)
    low, high = "least", "most"
    bar = min(140, round(width - face.getlength(low + high) - 12))
    if bar < 20:
        return
    colours = drawing.heat_colours(np.linspace(0, 1, bar, dtype=np.float32))
    draw.text((x, y + 5), low, GREY, face, anchor="lm")
    x += round(face.getlength(low)) + 6
    figure.paste(Image.fromarray(np.repeat(colours[None], 10, axis=0)), (x, y))
    draw.text((x + bar + 6, y + 5), high, GREY, face, anchor="lm")
