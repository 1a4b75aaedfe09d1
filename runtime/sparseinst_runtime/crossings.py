"""Where a mask begins and ends in each column of the picture, out of the network's small map, without painting it.

The map's values are nodes; between two rows of nodes bilinear interpolation is linear down a column of the picture, so
it crosses the threshold at most once there, at a place that can be solved for. Only cells of four nodes on both sides
of the threshold can hold a crossing: the work grows with the length of the outlines and not with any area. All
instances go through together, since each step of NumPy costs as much for ten numbers as for a thousand.

Shapes: K instances, R x C nodes that the picture touches, H x W the picture in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Pairs of a cell and a picture column that are worked on together: about 10 MB of temporary arrays. Smaller groups cost
# more steps; without a bound, noise over whole maps would take gigabytes.
GROUP = 150_000


@dataclass(frozen=True)
class Axis:
    """One axis of the picture against the same axis of the map.

    Gap g lies between the nodes g - 1 and g; gap 0 lies before the first node and gap `used` behind the last, where
    pixels take the value of the outermost node.

    Attributes:
        length: of the picture, in pixels.
        scale: nodes per pixel.
        used: how many nodes the picture touches; those behind lie in the padding.
        position: float64 [length], the pixels' centres, counted in nodes.
        first: int [used + 2], first pixel of each gap, and `length`.
    """

    length: int
    scale: float
    used: int
    position: NDArray[np.float64]
    first: NDArray[np.intp]

    @classmethod
    def of(cls, length: int, nodes: int, scale: float) -> Axis:
        """The axis of a picture of `length` pixels, at `scale` nodes a pixel from the first node's edge on."""
        position = (np.arange(length, dtype=np.float64) + 0.5) * scale - 0.5
        used = min(nodes, int(position[-1]) + 2)
        first = np.concatenate(([0], np.searchsorted(position, np.arange(used)), [length]))
        return cls(length, scale, used, position, first)


@dataclass(frozen=True)
class _Cells:
    """The cells with a node on each side of the threshold, by instance, then column, then row; all arrays are [M].

    Attributes:
        place: of the upper left node in the padded maps.
        instance: whose map it is.
        column: gap of the picture's columns.
        row: gap of the picture's rows.
        width: how many columns of the picture run through it, at least 1.
    """

    place: NDArray[np.intp]
    instance: NDArray[np.intp]
    column: NDArray[np.intp]
    row: NDArray[np.intp]
    width: NDArray[np.intp]

    def part(self, begin: int, end: int) -> _Cells:
        part = slice(begin, end)
        return _Cells(self.place[part], self.instance[part], self.column[part], self.row[part], self.width[part])


def toggles(
    maps: NDArray[np.uint8], rows: Axis, columns: Axis, threshold: float
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Where the masks begin and end in turn, counted down the columns of the picture.

    Args:
        maps: uint8 [K, R, C].
        rows: the axis of the picture's rows.
        columns: the axis of the picture's columns.
        threshold: a pixel is inside where its interpolated value exceeds it, in 0..255.

    Yields:
        (instance, its toggles): int64, even in number, strictly rising, in 0..H * W. Empty masks are left out.
    """
    nodes = _nodes(maps)
    cells = _outline(nodes, rows, columns, threshold)
    ends = np.searchsorted(cells.instance, np.arange(len(maps)), side="right")
    work = np.concatenate(([0], cells.width.cumsum()))[ends]
    apart = _apart(rows, columns)
    group = 0
    while group < len(maps):
        done, begin = (work[group - 1], ends[group - 1]) if group else (0, 0)
        end = max(group + 1, int(np.searchsorted(work, done + GROUP, side="right")))
        found = _without_pairs(_crossings(nodes, cells.part(begin, ends[end - 1]), rows, columns, threshold))
        offsets = np.arange(group, end + 1) * apart
        places = np.searchsorted(found, offsets).tolist()
        for instance in range(group, end):
            mine = found[places[instance - group] : places[instance - group + 1]]
            if len(mine):
                yield instance, mine - offsets[instance - group]
        group = end


def _nodes(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The maps column by column, [K, C + 2, R + 1] and one more, flat.

    The outermost columns stand twice. Before each column and behind the last is a zero: outside is below the threshold,
    so that every run that begins also ends.
    """
    count, rows, columns = maps.shape
    nodes = np.zeros(count * (columns + 2) * (rows + 1) + 1, np.uint8)
    padded = nodes[:-1].reshape(count, columns + 2, rows + 1)
    padded[:, 1:-1, 1:] = maps.transpose(0, 2, 1)
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    return nodes


def _outline(nodes: NDArray[np.uint8], rows: Axis, columns: Axis, threshold: float) -> _Cells:
    stride = rows.used + 1
    above = (nodes > int(threshold)).view(np.uint8)  # of integers, the same as > threshold
    pairs = above[:-1] + above[1:]
    # Of four nodes, one to three are above. Behind an instance's last column comes the next instance's first: no pixel
    # lies between them.
    place = np.flatnonzero(pairs[:-stride] + pairs[stride:] - np.uint8(1) < 3)
    column = place // stride
    row = place - column * stride
    instance = column // (columns.used + 2)
    column -= instance * (columns.used + 2)
    width = np.append(np.diff(columns.first), 0)[column]
    cells = _Cells(place, instance, column, row, width)
    if width.all():
        return cells
    seen = width.nonzero()[0]
    return _Cells(place[seen], instance[seen], column[seen], row[seen], width[seen])


def _crossings(
    nodes: NDArray[np.uint8], cells: _Cells, rows: Axis, columns: Axis, threshold: float
) -> NDArray[np.int64]:
    """Crossings of some instances' cells: int64, rising; pixels down the columns, from instance * `_apart` on."""
    stride = rows.used + 1
    upper, lower = nodes[cells.place].astype(np.float32), nodes[cells.place + 1].astype(np.float32)
    upper_step, lower_step = nodes[cells.place + stride] - upper, nodes[cells.place + stride + 1] - lower

    # Stacks of cells in one column of one map, with the columns of the picture through each: first all cells along the
    # first column of the picture, then all along the second. Crossings come in the order of the run lengths.
    bottom = np.flatnonzero(np.diff(cells.place // stride, prepend=-1))
    height = np.diff(bottom, append=len(cells.place))
    width = cells.width[bottom]
    stack = np.repeat(np.arange(len(bottom)), width)
    x = np.arange(len(stack)) + (columns.first[cells.column[bottom]] - width.cumsum() + width)[stack]
    fraction = (columns.position[x] - (cells.column[bottom] - 1)[stack]).astype(np.float32)
    heights = height[stack]
    origin = cells.instance[bottom][stack] * _apart(rows, columns) + x * rows.length
    line = np.repeat(np.arange(len(stack)), heights)
    cell = np.arange(len(line)) + (bottom[stack] - heights.cumsum() + heights)[line]

    along = fraction[line]
    before, after = upper_step[cell], lower_step[cell]
    before *= along
    before += upper[cell]
    after *= along
    after += lower[cell]
    inside = before > threshold
    crossed = np.flatnonzero(inside != (after > threshold))

    row, leaves = cells.row[cell[crossed]], inside[crossed]
    start, stop = before[crossed].astype(np.float64), after[crossed].astype(np.float64)
    node = row - 1 + (threshold - start) / (stop - start)
    place = (node + 0.5) / rows.scale - 0.5
    y = np.where(leaves, np.ceil(place), np.floor(place) + 1).astype(np.int64)
    first, last = rows.first[:-1].copy(), rows.first[1:].copy()
    last[0], first[-1] = 0, rows.length  # outside the outermost nodes the value stays: what crosses, crosses the edge
    y = np.minimum(np.maximum(y, first[row]), last[row])
    places: NDArray[np.int64] = origin[line[crossed]] + y
    return places


def _apart(rows: Axis, columns: Axis) -> int:
    """What the places of one instance differ by from the next one's: more than there are pixels."""
    return rows.length * columns.length + 1


def _without_pairs(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two at one place are a run, or a hole, without a pixel in it: what stands there an odd number of times, once."""
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    if len(begins) == len(places):
        return places
    times = np.diff(begins, append=len(places))
    odd: NDArray[np.int64] = places[begins[times % 2 == 1]]
    return odd
