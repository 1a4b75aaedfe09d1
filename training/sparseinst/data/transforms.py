"""Augmentation: a sample of any size becomes a square training input, picture and masks moved together.

The part of the picture that stays is cut out first and then resized once, so the work is that of the target size.
Colours are changed before the padding is added: padding keeps the colour that it has in evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sparseinst.data.coco import Sample
from sparseinst_runtime.contract import STRIDE

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, RGB


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly samples are varied.

    Attributes:
        flip: probability of mirroring left and right.
        scale: range of the scale, relative to the one at which the picture just fits the square.
        aspect: largest stretch of width against height, >= 1.
        random_place: put pictures that do not fill the square anywhere in it, instead of in its upper left corner.
        brightness: largest relative change of brightness; likewise contrast and saturation, in [0, 1).
        contrast: see brightness.
        saturation: see brightness.
        hue: largest rotation of hue in degrees.
        copy_paste: probability of pasting instances of another picture.
        max_pasted: most instances pasted at once.
        mosaic: probability of putting four samples at half the size side by side: many instances in one picture teach
            the network to tell neighbours apart where most pictures show one.
        same_class: probability that a picture to paste from, or to put beside in a mosaic, shows a class of this one:
            neighbours that look alike are the hardest to tell apart.
        min_visible: instances of which a smaller share remains after cropping and pasting are dropped.
        min_area: instances that cover fewer pixels of the input are dropped; 16 is one pixel of the mask map.
        drop_vanished: drop instances of which nothing is left in the mask map, whatever their area: a strip on the
            border between two of its pixels, say. The published recipes keep them; see docs/training.md.
        sides: sides of the square in pixels, multiples of 32, of which one is drawn for each batch; empty leaves the
            one that the schedule names.
    """

    flip: float = 0.5
    scale: tuple[float, float] = (0.5, 1.5)
    aspect: float = 1.25
    random_place: bool = True
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    hue: float = 10.0
    copy_paste: float = 0.5
    max_pasted: int = 3
    mosaic: float = 0.0
    same_class: float = 0.0
    min_visible: float = 0.1
    min_area: int = 16
    drop_vanished: bool = True
    sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no augmentation can mean."""
        if not 0 < self.scale[0] <= self.scale[1] or self.aspect < 1:
            raise ValueError(
                f"scale {self.scale}, aspect {self.aspect}; wanted 0 < scale[0] <= scale[1] and aspect >= 1"
            )
        if not all(0 <= strength < 1 for strength in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("brightness, contrast and saturation are relative changes; wanted each in [0, 1)")
        if any(side <= 0 or side % STRIDE for side in self.sides):
            raise ValueError(f"sides of training pictures are {self.sides}; wanted positive multiples of {STRIDE}")

    @classmethod
    def none(cls) -> AugmentConfig:
        """No variation at all: every picture fitted into the upper left corner, as in evaluation."""
        return cls(
            flip=0, scale=(1, 1), aspect=1, random_place=False, brightness=0, contrast=0, saturation=0, hue=0,
            copy_paste=0,
        )  # fmt: skip


def augment(
    sample: Sample,
    size: int,
    config: AugmentConfig,
    rng: np.random.Generator,
    *,
    pad_colour: tuple[int, int, int],
    pasted: Sample | None = None,
) -> Sample:
    """Scale, stretch, crop or pad, flip and recolour a sample; then paste instances of another one over it.

    Args:
        sample: any size.
        size: side S of the square result.
        config: strengths.
        rng: source of all randomness.
        pad_colour: RGB 0..255 around pictures that do not fill the square.
        pasted: another sample, varied on its own, of which random instances are pasted (simple copy-paste,
            Ghiasi et al. 2021). Whether to paste is the caller's dice, so that it can spare reading the sample.

    Returns:
        Sample of [S, S]; instances of which too little remains are dropped, so it may hold none.
    """
    placed = _place(sample, size, config, rng, pad_colour)
    if pasted is not None:
        placed = _paste(placed, _place(pasted, size, config, rng, pad_colour), config, rng)
    result, kept = placed[0], _visible(placed, config)
    return Sample(result.image, result.masks[kept], result.labels[kept], result.image_id)


def mosaic(parts: Sequence[Sample]) -> Sample:
    """Four samples of [S/2, S/2] as the quarters of one of [S, S]; its image id is the first one's."""
    half = parts[0].image.shape[0]
    size = 2 * half
    image = np.empty((size, size, 3), np.uint8)
    masks = np.zeros((sum(len(part.masks) for part in parts), size, size), np.uint8)
    start = 0
    for part, (top, left) in zip(parts, ((0, 0), (0, half), (half, 0), (half, half)), strict=True):
        rows, columns = slice(top, top + half), slice(left, left + half)
        image[rows, columns] = part.image
        masks[start : start + len(part.masks), rows, columns] = part.masks
        start += len(part.masks)
    return Sample(image, masks, np.concatenate([part.labels for part in parts]), parts[0].image_id)


# A sample of [S, S], and the area that each instance would have if nothing were cut off, float64 [K].
_Placed = tuple[Sample, np.ndarray]


def _place(
    sample: Sample, size: int, config: AugmentConfig, rng: np.random.Generator, pad_colour: tuple[int, int, int]
) -> _Placed:
    """The sample scaled, stretched, cropped, recoloured, flipped and put into the square."""
    height, width = sample.image.shape[:2]
    scale = rng.uniform(*config.scale) * size / max(height, width)
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(config.aspect)) if config.aspect > 1 else 1.0
    rows, top = _window(height, scale / stretch, size, config, rng)
    columns, left = _window(width, scale * stretch, size, config, rng)
    flip = rng.random() < config.flip

    shape = (left[1] - left[0], top[1] - top[0])
    border = (top[0], size - top[1], left[0], size - left[1], cv2.BORDER_CONSTANT)
    image = _recolour(_resize(sample.image[rows, columns], shape), config, rng)
    image = cv2.copyMakeBorder(cv2.flip(image, 1) if flip else image, *border, value=pad_colour)
    masks = np.zeros((len(sample.masks), size, size), np.uint8)
    for mask, source in zip(masks, sample.masks, strict=True):
        # Resized as 0..255 and cut at one half: the border moves by less than half a pixel.
        part = cv2.resize(source[rows, columns] * np.uint8(255), shape, interpolation=cv2.INTER_LINEAR)
        part = cv2.threshold(part, 127, 1, cv2.THRESH_BINARY)[1]
        mask[top[0] : top[1], left[0] : left[1]] = cv2.flip(part, 1) if flip else part

    pixel = shape[0] * shape[1] / ((rows.stop - rows.start) * (columns.stop - columns.start))
    return Sample(image, masks, sample.labels, sample.image_id), _areas(sample.masks) * pixel


def _window(
    length: int, scale: float, size: int, config: AugmentConfig, rng: np.random.Generator
) -> tuple[slice, tuple[int, int]]:
    """Along one axis: the part of the source that stays, and where in 0..S it goes (start, stop)."""
    scaled = max(1, round(length * scale))
    if scaled <= size:
        start = int(rng.integers(0, size - scaled + 1)) if config.random_place else 0
        return slice(0, length), (start, start + scaled)
    part = min(length, max(1, round(size / scale)))
    start = int(rng.integers(0, length - part + 1))
    return slice(start, start + part), (0, size)


def _resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height); averaging when it shrinks, so that nothing aliases."""
    shrinks = shape[0] * shape[1] < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _recolour(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Hue, saturation, contrast and brightness as one affine map of RGB: a single pass over the pixels."""
    hue, saturation, contrast, brightness = rng.uniform(-1, 1, 4)
    angle = math.radians(config.hue * hue)
    # A blend with luma, then a rotation about the grey axis (Rodrigues): greys stay grey.
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    matrix = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3
    keep = 1 + config.saturation * saturation
    matrix = keep * matrix + (1 - keep) * np.tile(LUMA, (3, 1))
    gain, spread = 1 + config.brightness * brightness, 1 + config.contrast * contrast
    mean = LUMA @ np.array(cv2.mean(image)[:3])
    offset = np.full((3, 1), gain * (1 - spread) * mean)
    return cv2.transform(image, np.hstack([gain * spread * matrix, offset]))


def _paste(below: _Placed, above: _Placed, config: AugmentConfig, rng: np.random.Generator) -> _Placed:
    """Random instances of `above` drawn over `below`; what they cover is taken from the masks below."""
    (under, under_areas), (over, over_areas) = below, above
    candidates = np.flatnonzero(_visible(above, config))
    if candidates.size == 0:
        return below
    count = int(rng.integers(1, min(config.max_pasted, candidates.size) + 1))
    chosen = rng.choice(candidates, count, replace=False)
    covered = over.masks[chosen].max(axis=0)
    image = cv2.copyTo(over.image, covered, under.image)
    masks = np.concatenate([under.masks * (1 - covered), over.masks[chosen]])
    labels = np.concatenate([under.labels, over.labels[chosen]])
    return Sample(image, masks, labels, under.image_id), np.concatenate([under_areas, over_areas[chosen]])


def _visible(placed: _Placed, config: AugmentConfig) -> np.ndarray:
    """Which instances show enough of themselves to be learnt from, bool [K]."""
    sample, areas = placed
    visible: np.ndarray = _areas(sample.masks) >= np.maximum(config.min_area, config.min_visible * areas)
    return visible & _sampled(sample.masks) if config.drop_vanished else visible


def _sampled(masks: np.ndarray) -> np.ndarray:
    """Which masks have one of the pixels that `loader.mask_targets` reads, bool [K]: the inner 2x2 of 4x4."""
    read = [masks[:, row::4, column::4].any(axis=(1, 2)) for row in (1, 2) for column in (1, 2)]
    sampled: np.ndarray = np.any(read, axis=0)
    return sampled


def _areas(masks: np.ndarray) -> np.ndarray:
    return np.array([cv2.countNonZero(mask) for mask in masks], np.float64)
