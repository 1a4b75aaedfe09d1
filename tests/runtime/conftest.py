"""Pictures in every encoding, and the scenes with their ground truth."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCENES = Path(__file__).parents[2] / "assets" / "scenes"


@pytest.fixture(scope="session")
def scenes() -> dict:
    """The ground truth of assets/scenes, as COCO's instances JSON."""
    return json.loads((SCENES / "instances.json").read_text())


@pytest.fixture(scope="session")
def scene_bytes() -> bytes:
    """One encoded photograph-like picture, 640 x 480."""
    return (SCENES / "images" / "scene_00.jpg").read_bytes()


@pytest.fixture(scope="session")
def small() -> np.ndarray:
    """An RGB picture without any symmetry, 24 rows by 40 columns."""
    rows, columns = np.mgrid[:24, :40]
    return np.stack([rows * 10, columns * 6, (rows * columns) % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="session")
def encode():
    """`encode(image, format, orientation=None, **options) -> bytes`: an array or Pillow image as a file."""

    def to_bytes(image, format: str, orientation: int | None = None, **options) -> bytes:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        file = io.BytesIO()
        picture.save(file, format, **options)
        return file.getvalue()

    return to_bytes
