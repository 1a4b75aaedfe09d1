"""The worst disagreement as one picture: the same instance as both engines see it, and where the two masks differ.

Everything is cut to the instance, so that a rim of a few pixels can be seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from sparseinst_runtime.rle import decode_rle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sparseinst_export.agreement import Pair, Seen

SIDE = 480  # pixels of a panel
STRIP = 34  # pixels of a line of text
RINGED = 24  # places that differ: as many are ringed, more can be seen without
RING = 14  # pixels of a panel, radius; what is larger than the ring is not ringed
MARGIN = 0.15  # of the instance's longer side, around it
# RGB of Okabe and Ito's palette, which people who see fewer colours can tell apart.
BLUE, RED = (0, 114, 178), (213, 94, 0)
WHITE, INK, GREY = (255, 255, 255), (32, 32, 32), (128, 128, 128)


def draw_pair(
    picture: np.ndarray, pair: Pair, sides: tuple[str, str], classes: Sequence[str], file_name: str
) -> np.ndarray:
    """Three panels: expected (blue), got (red), and on a pale picture what only one of them has, in its colour.

    Args:
        picture: RGB uint8 [H,W,3].
        pair: an instance of this picture.
        sides: what to call the two engines: the expected one, then the other.
        classes: class names by label.
        file_name: of the picture, for the heading.

    Returns:
        RGB uint8, three panels of 480 pixels side by side under two lines of text.
    """
    height, width = picture.shape[:2]
    masks = [_mask(side, height, width) for side in (pair.expected, pair.got)]
    window = _window(masks[0] | masks[1])
    pale = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    pale = cv2.addWeighted(pale, 0.4, np.full_like(pale, 255), 0.6, 0)
    pale[masks[0] & ~masks[1]] = BLUE
    pale[masks[1] & ~masks[0]] = RED
    panels = [_tint(picture, masks[0], BLUE), _tint(picture, masks[1], RED), pale]
    squares = [_panel(panel, window) for panel in panels]
    _ring(squares[2], masks[0] ^ masks[1], window)
    words = [f"{name}: {_words(side, classes)}" for name, side in zip(sides, (pair.expected, pair.got), strict=True)]
    pixels, either = int((masks[0] ^ masks[1]).sum()), int((masks[0] | masks[1]).sum())
    words.append(f"differ: {pixels} of {either} px")
    captions = zip(words, (BLUE, RED, INK), strict=True)
    columns = [
        np.vstack([_line(text, SIDE, colour), panel]) for (text, colour), panel in zip(captions, squares, strict=True)
    ]
    gap = np.full((SIDE + STRIP, 6, 3), 255, np.uint8)
    body = np.hstack([columns[0], gap, columns[1], gap, columns[2]])
    heading = f"{file_name} (picture {pair.image_id}), {width} x {height}: mask IoU {pair.iou:.4f}"
    return np.vstack([_line(heading, body.shape[1], INK), body])


def encode_png(picture: np.ndarray) -> bytes:
    """RGB uint8 [H,W,3] as a PNG file."""
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert written, "PNG takes any uint8 picture"
    return bytes(data.tobytes())


def _mask(side: Seen | None, height: int, width: int) -> np.ndarray:
    if side is None:
        return np.zeros((height, width), np.bool_)
    return np.asarray(decode_rle({"size": [height, width], "counts": side.rle}), np.bool_)


def _words(side: Seen | None, classes: Sequence[str]) -> str:
    return "nothing" if side is None else f"{classes[side.label]} {side.score:.4f}"


def _tint(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    tinted = picture.copy()
    tinted[mask] = (0.5 * tinted[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    rim = mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_)
    tinted[rim] = colour
    return tinted


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the instance with a margin, as square as the picture lets it be."""
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    side = round(max(rows[-1] - rows[0], columns[-1] - columns[0]) * (1 + 2 * MARGIN)) + 9
    slices = []
    for found, length in ((rows, mask.shape[0]), (columns, mask.shape[1])):
        used = min(side, length)
        start = min(max((int(found[0]) + int(found[-1]) + 1 - used) // 2, 0), length - used)
        slices.append(slice(start, start + used))
    return slices[0], slices[1]


def _panel(picture: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """The window of a picture in a grey square: pixels enlarged as they are, or shrunk by area."""
    part = np.ascontiguousarray(picture[window])
    scale, size, (left, top) = _placed(window)
    part = cv2.resize(part, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA)
    panel = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    panel[top : top + size[1], left : left + size[0]] = part
    return panel


def _placed(window: tuple[slice, slice]) -> tuple[float, tuple[int, int], tuple[int, int]]:
    """How a window lies in its panel: scale, (width, height), (left, top)."""
    rows, columns = (part.stop - part.start for part in window)
    scale = SIDE / max(rows, columns)
    size = (max(1, int(columns * scale)), max(1, int(rows * scale)))
    return scale, size, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)


def _ring(panel: np.ndarray, differs: np.ndarray, window: tuple[slice, slice]) -> None:
    """Circle few and small places, which nobody would find."""
    scale, _, (left, top) = _placed(window)
    part = np.ascontiguousarray(differs[window]).astype(np.uint8)
    count, _, boxes, centres = cv2.connectedComponentsWithStats(part, connectivity=8)
    if count - 1 > RINGED:
        return
    for box, (x, y) in zip(boxes[1:], centres[1:], strict=True):
        if max(box[2], box[3]) * scale < RING:
            at = (round(left + (x + 0.5) * scale), round(top + (y + 0.5) * scale))
            cv2.circle(panel, at, RING, INK, 1, cv2.LINE_AA)


def _line(text: str, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A line of text on white, smaller where it would not fit; what is not ASCII becomes '?', OpenCV has no more."""
    strip = np.full((STRIP, width, 3), WHITE, np.uint8)
    plain = text.encode("ascii", "replace").decode("ascii")
    (needed, _), _ = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    scale = 0.6 * min(1.0, (width - 16) / max(needed, 1))
    cv2.putText(strip, plain, (8, STRIP - 11), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return strip
