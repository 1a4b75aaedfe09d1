"""What a caller may hand over as a picture, turned into the bytes that travel."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from sparseinst_runtime.limits import PictureError, check_header

Picture: TypeAlias = "str | Path | bytes | np.ndarray"


def encoded(picture: Picture) -> bytes:
    """The encoded picture: files as they are, arrays as PNG, which loses nothing.

    Args:
        picture: path of a JPEG, PNG or WebP file; or the bytes of one; or RGB pixels uint8 [H,W,3].

    Raises:
        TypeError: another type, or an array of another dtype.
        ValueError: an array of another shape.
        OSError: the file cannot be read.
    """
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, (str, Path)):
        return Path(picture).read_bytes()
    if not isinstance(picture, np.ndarray):
        wanted = "wanted a path, the bytes of an encoded picture, or an RGB array uint8 [H,W,3]"
        raise TypeError(f"the picture is a {type(picture).__name__}; {wanted}")
    if picture.dtype != np.uint8:
        raise TypeError(f"the picture is an array of {picture.dtype}; wanted uint8 in 0..255")
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"the picture is an array of shape {list(picture.shape)}; wanted RGB pixels [H,W,3]")
    # Fast compression: the way to the server is usually short, and pixels that were an array need no archive.
    written, data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not written:
        raise ValueError(f"an array of shape {list(picture.shape)} cannot be written as PNG")
    return data.tobytes()


def display_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in pixels as a viewer shows it; None for a broken header: the server will say so."""
    try:
        return check_header(data).display_size
    except PictureError:
        return None
