"""Instances as a small picture by themselves, for notebooks; `sparseinst_client.draw` paints over the real picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sparseinst_runtime.instances import Instances

# Okabe and Ito, "Color Universal Design" (2008): orange, sky blue, bluish green, yellow, blue, vermilion, purple.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_GROUND = 236  # light grey
_LONG_SIDE = 480  # pixels


def sketch(instances: Instances) -> NDArray[np.uint8]:
    """Every mask in a colour of its own on a grey ground, small ones on top, outlined.

    Returns:
        RGB uint8 [h, w, 3] in the picture's proportions, 480 pixels on its longer side at most.
    """
    height, width = instances.image_size
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ground = np.full((size[1], size[0], 3), _GROUND, np.uint8)
    for index in np.argsort(-instances.areas, kind="stable").tolist():
        mask = cv2.resize(instances.mask(index).view(np.uint8), size, interpolation=cv2.INTER_AREA if scale < 1 else 0)
        colour = PALETTE[index % len(PALETTE)]
        ground[mask > 0] = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(ground, contours, -1, (255, 255, 255), 1)
    return ground


def png(instances: Instances) -> bytes:
    """The same as the bytes of a PNG file."""
    written, data = cv2.imencode(".png", sketch(instances)[..., ::-1])
    if not written:
        raise ValueError(f"a picture of {instances.image_size} pixels cannot be written as PNG")
    return data.tobytes()
