"""The outline of a mask as polygons whose union is the mask: what annotation tools draw with.

Corners lie on pixel edges, as boxes do, so that filling a polygon gives back the mask and not one that lacks its rim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_MANY = 20_000_000  # polygons times corners, where joining each to all before it takes a second
_SMALL = 0.02  # of a mask's side: tolerances end here, where a pixel more or less is much of the mask


def outlines(mask: NDArray[np.bool_], tolerance: float = 0.0) -> list[NDArray[np.float32]]:
    """One polygon for each part of a mask, the largest first.

    A hole is joined to the outline around it by a bridge of no width, so that the polygon alone says what is inside,
    by the even-odd rule and by the non-zero rule alike.

    Args:
        mask: bool [H, W].
        tolerance: how far a polygon may pass by the outline, in pixels; less for masks below 25 x 25 pixels. Every
            corner of every pixel is kept at 0.

    Returns:
        float32 [P, 2] each, x and y from the mask's upper left corner, P at least 3; none for a mask without pixels.

    Raises:
        ValueError: the tolerance is negative or not finite.
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance is {tolerance}; wanted a number of pixels, at least 0")
    height, width = mask.shape
    # Corners of pixels at even places, centres at odd ones: there OpenCV's contours, which run through the outermost
    # pixels and not around them, run along the edges.
    grid = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    grid[1::2, 1::2] = mask
    spread = cv2.dilate(grid, np.ones((3, 3), np.uint8))
    rings, tree = cv2.findContours(spread, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = min(tolerance, _SMALL * float(np.count_nonzero(mask)) ** 0.5)
    parts: list[NDArray[np.float32]] = []
    for number, ring in enumerate(rings):
        _, _, hole, parent = tree[0, number]
        if parent >= 0:
            continue
        holes = []
        while hole >= 0:
            holes.append(_simple(rings[hole], tolerance))
            hole = tree[0, hole][0]
        parts.append(bridged(_simple(ring, tolerance), holes))
    return sorted(parts, key=lambda part: -cv2.contourArea(part))


def bridged(first: NDArray[np.float32], others: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Several polygons as one: each is joined by a bridge of no width, and a short one, to those before it.

    Noise has tens of thousands of holes: they are all joined to the first, which takes one pass over its corners each.

    Args:
        first: float32 [P, 2].
        others: float32 [Q, 2] each.

    Returns:
        float32 [P + the sum of all Q + 2, 2].
    """
    if len(others) * (len(first) + sum(map(len, others))) <= _MANY:
        for other in others:
            here, way = _bridge(first, other, 3)
            first = np.concatenate([first[: here + 1], way, first[here + 1 :]])
        return first
    ways: dict[int, list[NDArray[np.float32]]] = {}
    for other in others:
        here, way = _bridge(first, other, 1)
        ways.setdefault(here, []).append(way)
    pieces, at = [], 0
    for here in sorted(ways):
        pieces += [first[at : here + 1], *ways[here]]
        at = here + 1
    return np.concatenate([*pieces, first[at:]])


def _bridge(first: NDArray[np.float32], other: NDArray[np.float32], turns: int) -> tuple[int, NDArray[np.float32]]:
    """The corner of the first where a bridge begins, and the way over it, around the other and back to that corner.

    Its ends are found in turns and not among all pairs, of which two long outlines have more than there is memory.
    """
    there = 0
    for _ in range(turns):
        here = _nearest(first, other[there])
        there = _nearest(other, first[here])
    turned = np.roll(other, -there, axis=0)
    return here, np.concatenate([turned, turned[:1], first[here : here + 1]])


def _nearest(corners: NDArray[np.float32], point: NDArray[np.float32]) -> int:
    return int(np.square(corners - point).sum(axis=1).argmin())


def _simple(ring: NDArray[Any], tolerance: float) -> NDArray[np.float32]:
    simple = cv2.approxPolyDP(ring, 2 * tolerance, closed=True) if tolerance else ring
    if len(simple) < 3:
        simple = ring
    return (simple[:, 0] / 2).astype(np.float32)
