"""The average activation map of each query over many pictures: where each query looks by habit (figure 6)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sparseinst.figures import drawing
from sparseinst.figures.activations import FigureError, Observer, stretched
from sparseinst.figures.drawing import GREY, INK, Picture
from sparseinst.figures.instances import colour_bar
from sparseinst_runtime.geometry import Letterbox

_GAP = 8  # pixels between maps
_WORDS = 18  # pixels of the words under a map
_BAR = 26  # pixels of the strip with the colour bar


@dataclass(frozen=True, eq=False)
class Averages:
    """What every query did over a set of pictures.

    Attributes:
        maps: float32 [G,N,h,w] over the letterboxed square, the mean of each cell's weight over the pictures that cover
            it; NaN where no picture does. See `activations.weights`.
        coverage: float32 [h,w] in 0..1, the mean share of each cell that is picture and not padding.
        wins: int64 [N,K], how many instances of each class the query gave, above the score threshold.
        pictures: how many were looked at.
    """

    maps: NDArray[np.float32]
    coverage: NDArray[np.float32]
    wins: NDArray[np.int64]
    pictures: int

    @property
    def order(self) -> list[int]:
        """Queries by falling number of wins, those with equal numbers by index."""
        return np.argsort(-self.wins.sum(axis=1), kind="stable").tolist()

    def to_npz(self) -> bytes:
        """The arrays as the content of an .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, maps=self.maps, coverage=self.coverage, wins=self.wins, pictures=np.array(self.pictures)
        )
        return buffer.getvalue()

    def to_json(self, classes: Sequence[str]) -> str:
        """A line of numbers for each query, by falling number of wins; the maps themselves are in the .npz.

        `centre` is the centre of mass (x, y) of what the summed map has above its median, `peak` the cell where it is
        highest; both as shares of the square's side, 0 left and top, 1 right and bottom.
        """
        queries = []
        for query in self.order:
            counts = {classes[k]: int(n) for k, n in enumerate(self.wins[query]) if n}
            queries.append({"query": query, "wins": sum(counts.values()), "classes": counts, **self._place(query)})
        return json.dumps({"pictures": self.pictures, "queries": queries}, indent=1) + "\n"

    def _place(self, query: int) -> dict[str, Any]:
        summed = self.maps[:, query].sum(axis=0)
        height, width = summed.shape
        above = np.nan_to_num((summed - np.nanmedian(summed)).clip(min=0))
        y, x = np.unravel_index(np.nanargmax(summed), summed.shape)
        place: dict[str, Any] = {"peak": [round((x + 0.5) / width, 4), round((y + 0.5) / height, 4)], "centre": None}
        if above.sum() > 0:
            rows, columns = (np.indices(summed.shape) + 0.5) / np.array([height, width])[:, None, None]
            centre = [float((axis * above).sum() / above.sum()) for axis in (columns, rows)]
            place["centre"] = [round(value, 4) for value in centre]
        return place


def coverage(letterbox: Letterbox, height: int, width: int) -> NDArray[np.float32]:
    """The share of each of height x width cells of the letterboxed square that is picture: float32 in 0..1."""
    rows = (letterbox.scaled_height * height / letterbox.size[0] - np.arange(height)).clip(0, 1)
    columns = (letterbox.scaled_width * width / letterbox.size[1] - np.arange(width)).clip(0, 1)
    return np.outer(rows, columns).astype(np.float32)


def average(observe: Observer, pictures: Iterable[NDArray[np.uint8]], classes: int) -> Averages:
    """Look at pictures one by one and average, in the network's own frame, the letterboxed square.

    That frame is the one in which a query knows places: the network sees coordinates over the whole square. Padding
    does not count: a cell that is picture for a part only counts for that part.

    Args:
        observe: see `observer`.
        pictures: uint8 RGB [H,W,3], of any sizes.
        classes: number of classes K.

    Raises:
        FigureError: no picture.
    """
    total: torch.Tensor | None = None
    count = 0
    for picture in pictures:
        count += 1
        seen = observe(picture)
        if total is None:
            total = torch.zeros(seen.maps.shape, dtype=torch.float64)
            covered = np.zeros(seen.maps.shape[2:])
            wins = np.zeros((seen.maps.shape[1], classes), np.int64)
        share = coverage(seen.letterbox, *seen.maps.shape[2:])
        total += seen.maps * torch.from_numpy(share)
        covered += share
        for found in seen.found:
            wins[found.query, found.label] += 1
    if total is None:
        raise FigureError("there is no picture to average over; wanted at least one")
    with np.errstate(invalid="ignore"):
        maps = (total.numpy() / covered).astype(np.float32)
    return Averages(maps, (covered / count).astype(np.float32), wins, count)


def average_figure(averages: Averages, classes: Sequence[str], *, columns: int = 10, tile: int = 112) -> Picture:
    """Draw one small map for each query, those that won most first; groups are summed.

    Each map is stretched from its lowest to its highest value. Cells that no picture covers are paper.

    Args:
        averages: to draw.
        classes: class names by label; under its map stands how many instances a query found, and of which class where
            it is one.
        columns: maps in a row.
        tile: longer side of a map in pixels.

    Returns:
        uint8 RGB: ceil(N / columns) rows of maps with a line of words each, a title above and a colour bar below.
    """
    queries = averages.order
    columns = min(columns, len(queries))
    rows = -(-len(queries) // columns)
    cells = averages.maps.shape[2:]
    high, wide = (max(1, round(tile * side / max(cells))) for side in cells)
    figure = drawing.blank(columns * (wide + _GAP) - _GAP, _BAR + rows * (high + _WORDS + _GAP) - _GAP + _BAR)
    draw = ImageDraw.Draw(figure)
    bold, light = drawing.font(11, bold=True), drawing.font(11)
    plural = "s" if averages.pictures > 1 else ""
    title = f"average activation over {averages.pictures} picture{plural}, queries by instances found"
    draw.text((0, _BAR / 2 - 2), drawing.fitting(title, figure.width, drawing.font(13)), INK, drawing.font(13), "lm")
    for number, query in enumerate(queries):
        x, y = number % columns * (wide + _GAP), _BAR + number // columns * (high + _WORDS + _GAP)
        figure.paste(Image.fromarray(_map(averages.maps[:, query].sum(axis=0), wide, high)), (x, y))
        wins = averages.wins[query]
        label = f"{query}"
        draw.text((x, y + high + 9), label, INK, bold, anchor="lm")
        if wins.any():
            words = f"{wins.sum()} {classes[int(wins.argmax())] if (wins > 0).sum() == 1 else 'found'}"
            room = wide - bold.getlength(label) - 6
            draw.text((x + wide, y + high + 9), drawing.fitting(words, room, light), GREY, light, anchor="rm")
    colour_bar(figure, (0, figure.height - 14), figure.width)
    return drawing.framed(figure)


def _map(values: NDArray[np.float32], wide: int, high: int) -> Picture:
    known = ~np.isnan(values)
    filled = np.where(known, stretched(values), 0).astype(np.float32)
    # Clipped: bicubic interpolation overshoots.
    smooth = np.asarray(Image.fromarray(filled).resize((wide, high), Image.Resampling.BICUBIC)).clip(0, 1)
    shown = np.asarray(Image.fromarray(known).resize((wide, high), Image.Resampling.NEAREST))
    return np.where(shown[..., None], drawing.heat_colours(smooth), np.uint8(235))
