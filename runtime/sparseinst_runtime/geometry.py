"""The letterbox: any picture into the network's frame, and coordinates there and back.

Coordinates are in pixel edges everywhere: a picture W columns wide spans 0..W, the centre of its first pixel is 0.5.
In this convention the way there and back is one factor for each axis, without offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in the frame: scaled to fit, in the upper left corner, padded right or at the bottom.

    Attributes:
        height: rows of the original picture.
        width: columns of the original picture.
        size: height and width of the frame, in pixels.
        scaled_height: rows of the picture inside the frame, at least 1.
        scaled_width: columns of the picture inside the frame, at least 1.
    """

    height: int
    width: int
    size: tuple[int, int]
    scaled_height: int
    scaled_width: int

    @classmethod
    def fit(cls, height: int, width: int, size: tuple[int, int]) -> Letterbox:
        """The letterbox of a picture: one side becomes that of the frame, the other keeps the aspect ratio and fits.

        The other side is rounded half up and at least 1, so the two axes can differ slightly in scale; the inverse
        goes by axis and stays exact.

        Args:
            height: rows of the picture.
            width: columns of the picture.
            size: height and width of the frame.

        Raises:
            ValueError: a side is less than 1.
        """
        if min(height, width, *size) < 1:
            raise ValueError(f"height {height}, width {width}, size {size}: wanted sides of at least 1 pixel")
        rows, columns = size
        # the axis that fills the frame, as a fraction: size / side
        fill, side = (rows, height) if rows * width <= columns * height else (columns, width)
        # int(x + 0.5) of length * fill / side, in integers
        scaled_height, scaled_width = (max(1, (2 * length * fill + side) // (2 * side)) for length in (height, width))
        return cls(height, width, size, scaled_height, scaled_width)

    def apply(self, image: NDArray[np.uint8], pad_colour: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Put a picture into the frame.

        Args:
            image: uint8 [height, width, 3].
            pad_colour: what the rest is painted with, in the channel order of the picture.

        Returns:
            uint8 [*size, 3]. Shrunk by area averages, which do not alias; enlarged bilinearly.

        Raises:
            ValueError: the picture has another shape or dtype.
        """
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise ValueError(f"image is {image.dtype} {image.shape}; wanted uint8 ({self.height}, {self.width}, 3)")
        return self.place(image, pad_colour)

    def place(self, image: NDArray[np.uint8], pad_colour: tuple[int, int, int]) -> NDArray[np.uint8]:
        """As `apply`, for a picture that was decoded at another scale: uint8 [any height, any width, 3]."""
        framed = np.empty((*self.size, 3), np.uint8)
        shrinks = self.scaled_height < image.shape[0] or self.scaled_width < image.shape[1]
        inside = framed[: self.scaled_height, : self.scaled_width]
        cv2.resize(  # into the frame, without a copy
            image,
            (self.scaled_width, self.scaled_height),
            dst=inside,
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        padding = np.empty((self.size[1], 3), np.uint8)  # a whole row: NumPy would spread the colour pixel by pixel
        padding[:] = pad_colour
        framed[self.scaled_height :] = padding
        framed[: self.scaled_height, self.scaled_width :] = padding[self.scaled_width :]
        return framed

    def to_input(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points of the original picture in the frame: float64 [..., 2] from [..., 2], x before y, pixel edges."""
        return _as_points(points) * (self.scaled_width / self.width, self.scaled_height / self.height)

    def to_picture(self, points: ArrayLike) -> NDArray[np.float64]:
        """Points of the frame in the original picture, the inverse of `to_input`; not clipped to the picture."""
        return _as_points(points) * (self.width / self.scaled_width, self.height / self.scaled_height)


def _as_points(points: ArrayLike) -> NDArray[Any]:
    array = np.asarray(points, np.float64)
    if array.ndim < 1 or array.shape[-1] != 2:
        raise ValueError(f"points have shape {array.shape}; wanted [..., 2], x before y")
    return array
