"""Encoded pictures to RGB pixels, the same for training, evaluation, server and clients.

Pillow decodes. OpenCV is as fast (both use libjpeg-turbo) but returns a cut-off JPEG as a picture that is partly grey,
without a word; Pillow raises, also where the data ends in the middle of a progressive scan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparseinst_runtime.limits import Limits, PictureError, open_picture

# EXIF 2.32, tag 0x0112: what turns the stored picture upright. Pillow rotates counter-clockwise.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Decode a picture to RGB, upright.

    Greyscale, palette and CMYK become RGB; 16 bits a channel become their upper 8; alpha is dropped, as data sets of
    this field are read. Colour profiles are not applied. Of an animation the first frame is taken. The EXIF orientation
    is applied; `check_header(data).display_size` is the size that comes out.

    Args:
        data: the encoded picture: JPEG, PNG or WEBP.
        limits: what is taken; the defaults of `Limits` when None. They are checked before any pixel is decoded.

    Returns:
        uint8 [H, W, 3], RGB on 0..255, contiguous and read-only (the pixels stay where Pillow wrote them).

    Raises:
        PictureError: the picture is not taken by the limits, is cut off or corrupt.
    """
    picture, header = open_picture(data, limits)
    try:
        image = _to_rgb(picture)
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make the decoders raise a dozen kinds of errors; all mean the same
        raise PictureError(f"the {header.format} picture is cut off or corrupt; send the whole file") from error
    if header.orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[header.orientation])
    return np.asarray(image)


def _to_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    if picture.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion clips at 255 in place of scaling
        wide: NDArray[Any] = np.asarray(picture)
        return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    picture.info.pop("transparency", None)  # convert() warns of a transparent palette, that we drop anyway
    return picture.convert("RGB")
