"""The published way to size pictures, in training and in tests: by their short side, the long one bounded.

Results keep the picture's aspect ratio and are rectangles; whoever batches them pads them right and bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from sparseinst.data.coco import Sample

LONG_SIDE = 853  # pixels; what the published code trains and tests with (the paper says 864)


@dataclass(frozen=True)
class ShortSideConfig:
    """Augmentation of the published models: mirror, perhaps crop, resize to a random short side.

    Attributes:
        flip: probability of mirroring left and right.
        short_sides: lengths of the short side in pixels, one is drawn.
        long_side: the long side is at most this.
        crop: probability of cropping: resize to one of `crop_short_sides`, cut out a random window, then resize.
        crop_short_sides: lengths of the short side before the window is cut.
        crop_range: least and greatest side of the window in pixels, drawn for each axis; the picture's where smaller.
    """

    flip: float = 0.5
    short_sides: tuple[int, ...] = tuple(range(416, 641, 32))
    long_side: int = LONG_SIDE
    crop: float = 0.0
    crop_short_sides: tuple[int, ...] = (400, 500, 600)
    crop_range: tuple[int, int] = (384, 600)


def short_side_size(height: int, width: int, short_side: int, long_side: int | None = LONG_SIDE) -> tuple[int, int]:
    """(height, width) of a picture whose short side becomes `short_side`, or less where the long side has its limit.

    Sides are rounded half up, int(x + 0.5), and at least 1. `long_side` None sets no limit.
    """
    scale = short_side / min(height, width)
    new_height, new_width = (
        (float(short_side), scale * width) if height < width else (scale * height, float(short_side))
    )
    longest = max(new_height, new_width)
    if long_side is not None and longest > long_side:
        new_height, new_width = new_height * (long_side / longest), new_width * (long_side / longest)
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_picture(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Uint8 [H,W,3] -> uint8 [height,width,3] by Pillow's bilinear filter, which averages where it shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def augment_short_side(sample: Sample, config: ShortSideConfig, rng: np.random.Generator) -> Sample:
    """Vary a sample as the published models were trained; instances without a pixel left are dropped.

    Returns:
        A sample of the drawn size, not padded.
    """
    image, masks = sample.image, sample.masks
    if rng.random() < config.flip:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    if rng.random() < config.crop:
        size = short_side_size(image.shape[0], image.shape[1], int(rng.choice(config.crop_short_sides)), None)
        image, masks = _resized(image, masks, *size)
        rows, columns = (_window(length, config.crop_range, rng) for length in image.shape[:2])
        image, masks = image[rows, columns], masks[:, rows, columns]
    size = short_side_size(image.shape[0], image.shape[1], int(rng.choice(config.short_sides)), config.long_side)
    image, masks = _resized(image, masks, *size)
    kept = masks.any(axis=(1, 2))
    return Sample(image, masks[kept], sample.labels[kept], sample.image_id)


def _resized(image: np.ndarray, masks: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    resized = np.empty((len(masks), height, width), np.uint8)
    for mask, source in zip(resized, masks, strict=True):
        # Resized as 0..255 and cut at one half: the border moves by less than half a pixel.
        part = cv2.resize(source * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR)
        mask[:] = cv2.threshold(part, 127, 1, cv2.THRESH_BINARY)[1]
    return resize_picture(np.ascontiguousarray(image), height, width), resized


def _window(length: int, sides: tuple[int, int], rng: np.random.Generator) -> slice:
    side = int(rng.integers(min(length, sides[0]), min(length, sides[1]) + 1))
    start = int(rng.integers(0, length - side + 1))
    return slice(start, start + side)
