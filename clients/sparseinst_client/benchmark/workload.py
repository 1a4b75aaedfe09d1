"""What is sent: many different pictures of mixed sizes, the same ones in every run.

A server that sees one picture again and again keeps it in every cache, decodes one size only and finds the same
instances each time. So each picture that is given also goes out as crops of itself at several sizes, freshly encoded.
"""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sparseinst_runtime.decode import decode

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
LONG_SIDES = (320, 640, 1280)
QUALITY = 90  # of the crops' JPEG


class WorkloadError(ValueError):
    """There is nothing to send, or a file that is no picture; the message says which."""


@dataclass(frozen=True)
class Sample:
    """One encoded picture.

    Attributes:
        data: the file's bytes.
        height, width: in pixels, as it is displayed.
    """

    data: bytes
    height: int
    width: int


def read_samples(paths: Sequence[Path], long_sides: Sequence[int] = LONG_SIDES, seed: int = 0) -> list[Sample]:
    """The pictures of the given files and of the folders' files, each with one crop of itself for every long side.

    Args:
        paths: picture files, or folders of them.
        long_sides: pixels of the crops' longer side, each at least 16; none for the files alone.
        seed: of the crops and of the order, which mixes sizes. The same seed gives the same bytes.

    Raises:
        WorkloadError: no picture is among the paths, or a file is no picture.
        OSError: a path cannot be read.
    """
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not files:
        raise WorkloadError(f"no pictures ({', '.join(sorted(SUFFIXES))}) among {', '.join(map(str, paths))}")
    chance = random.Random(seed)
    samples = []
    for file in files:
        data = file.read_bytes()
        try:
            pixels = decode(data)
        except ValueError as error:
            raise WorkloadError(f"{file}: {error}") from error
        samples.append(Sample(data, *pixels.shape[:2]))
        samples.extend(_crop(pixels, side, chance) for side in long_sides)
    chance.shuffle(samples)
    return samples


def _crop(pixels: np.ndarray, long_side: int, chance: random.Random) -> Sample:
    """A part of a picture, half to all of each side, scaled to the long side and encoded as JPEG."""
    full = pixels.shape[:2]
    size = [max(1, round(side * chance.uniform(0.5, 1))) for side in full]
    top, left = (chance.randint(0, side - part) for side, part in zip(full, size, strict=True))
    part = pixels[top : top + size[0], left : left + size[1]]
    scale = long_side / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(part, (width, height), interpolation=how)
    written, encoded = cv2.imencode(
        ".jpg", cv2.cvtColor(resized, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    assert written, "OpenCV always writes JPEG"
    return Sample(encoded.tobytes(), height, width)


def describe(samples: Sequence[Sample]) -> str:
    """Number, sizes and bytes of the pictures, in words."""
    by_area = sorted(samples, key=lambda sample: sample.height * sample.width)
    sizes = sorted(len(sample.data) for sample in samples)
    smallest, largest = by_area[0], by_area[-1]
    return (
        f"{len(samples)} different pictures, {smallest.width} x {smallest.height} to {largest.width} x {largest.height}"
        f" pixels, {sizes[0] / 1000:.0f} to {sizes[-1] / 1000:.0f} KB (median {sizes[len(sizes) // 2] / 1000:.0f})"
    )


def perf_analyzer_input(samples: Sequence[Sample], tensor: str = "image") -> str:
    """The pictures as the JSON that perf_analyzer's --input-data reads.

    It sends what it decodes from base64 as it is, so the four bytes of length that precede each string in Triton's
    BYTES tensors have to be in there: without them the server answers "incomplete string data".
    """
    framed = (struct.pack("<I", len(sample.data)) + sample.data for sample in samples)
    steps = [{tensor: {"b64": base64.b64encode(data).decode(), "shape": [1]}} for data in framed]
    return json.dumps({"data": steps})
