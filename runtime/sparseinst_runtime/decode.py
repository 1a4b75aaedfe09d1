"""Encoded pictures to RGB pixels, the same for training, evaluation, server and clients.

Pillow reads the headers and decodes PNG, WEBP and unusual JPEGs. Usual JPEGs are decoded by OpenCV: the same library
(libjpeg-turbo) and the same pixels in half the time, since Pillow keeps four bytes a pixel and copies them twice.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.limits import Header, Limits, PictureError, open_picture

# A JPEG that is decoded at reduced scale stays this many times larger than the scaled picture, because its decoder cuts
# off high frequencies where the letterbox averages areas. A spare of 1 cost 0.011 to 0.024 AP; 3 moved it by 0.0015 at
# most (docs/performance.md).
SPARE = 3
_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
_FLIPS = {2: 1, 6: 1, 4: 0, 8: 0, 3: -1, 7: -1}  # EXIF orientation: OpenCV's code for left-right, up-down, both


def decode(data: bytes, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Decode a picture to RGB, upright.

    Greyscale, palette and CMYK become RGB; 16 bits a channel become their upper 8; alpha is dropped, as data sets of
    this field are read. Colour profiles are not applied. Of an animation the first frame is taken. The EXIF orientation
    is applied; `check_header(data).display_size` is the size that comes out.

    Args:
        data: the encoded picture: JPEG, PNG or WEBP.
        limits: what is taken; the defaults of `Limits` when None. They are checked before any pixel is decoded.

    Returns:
        uint8 [H, W, 3], RGB on 0..255, contiguous.

    Raises:
        PictureError: the picture is not taken by the limits, is cut off or corrupt.
    """
    picture, header = open_picture(data, limits)
    pixels = _decode_jpeg(data, picture, 1) if header.format == "JPEG" else None
    if pixels is None:
        return _upright(_decode_any(picture, header), header)
    return _upright(_swapped(pixels), header)


def decode_letterboxed(
    data: bytes, size: tuple[int, int], pad_colour: tuple[int, int, int], limits: Limits | None = None
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Decode a picture into the network's frame: what serving and evaluation do with a file.

    As `decode` and `Letterbox.apply`, but a JPEG of six times the scaled picture's sides or more is decoded at 1/2,
    1/4 or 1/8 of its size, never to less than three times the scaled picture. The pixels then differ by less than one
    step of 255 on average, and four fifths of the time for a picture of 12 megapixels are saved.

    Args:
        data: the encoded picture: JPEG, PNG or WEBP.
        size: height and width of the frame, in pixels.
        pad_colour: RGB 0..255, what the rest of the frame is painted with.
        limits: as for `decode`.

    Returns:
        uint8 RGB [*size, 3], and how the picture lies in there; the letterbox knows the picture's own size.

    Raises:
        PictureError: as `decode`.
    """
    picture, header = open_picture(data, limits)
    letterbox = Letterbox.fit(*header.display_size, size)
    pixels = None
    if header.format == "JPEG":
        pixels = _decode_jpeg(data, picture, _reduction(letterbox))
    if pixels is None:
        return letterbox.place(_upright(_decode_any(picture, header), header), pad_colour), letterbox
    red, green, blue = pad_colour
    framed = letterbox.place(_upright(pixels, header), (blue, green, red))
    return _swapped(framed), letterbox


def _reduction(letterbox: Letterbox) -> int:
    """8, 4, 2 or 1: the largest that leaves `SPARE` times the scaled picture."""
    sides = ((letterbox.height, letterbox.scaled_height), (letterbox.width, letterbox.scaled_width))
    return next((n for n in _REDUCED if all(length >= n * SPARE * scaled for length, scaled in sides)), 1)


def _decode_jpeg(data: bytes, picture: ImageFile.ImageFile, reduction: int) -> NDArray[np.uint8] | None:
    """Pixels of a grey or colour JPEG at 1/reduction of its size, BGR and as stored; None where Pillow has to decide.

    That is so for CMYK, and for what OpenCV cannot read to its end.
    """
    if picture.mode not in ("L", "RGB"):
        return None
    flags = _REDUCED.get(reduction, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # what Pillow then makes of it is said in words
        return None
    # The stub does not say that OpenCV gives None where it fails.
    if pixels is None or pixels.shape[:2] != tuple(-(-side // reduction) for side in picture.size[::-1]):
        return None
    # The last row or column may stand for a few pixels only. With the nearest whole number the far edge moves by at
    # most half a pixel here, and a sixth in the frame.
    height, width = (max(1, round(side / reduction)) for side in picture.size[::-1])
    return np.asarray(pixels[:height, :width], np.uint8)


def _decode_any(picture: ImageFile.ImageFile, header: Header) -> NDArray[np.uint8]:
    """Pixels of any picture, RGB and as stored, by Pillow, which raises wherever the data ends too early."""
    try:
        picture.load()
        if picture.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion clips at 255 in place of scaling
            wide: NDArray[Any] = np.asarray(picture)
            return np.asarray(Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB"))
        picture.info.pop("transparency", None)  # convert() warns of a transparent palette, that we drop anyway
        return np.asarray(picture.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make the decoders raise a dozen kinds of errors; all mean the same
        raise PictureError(f"the {header.format} picture is cut off or corrupt; send the whole file") from error


def _upright(pixels: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """What turns the stored picture upright by its EXIF orientation (EXIF 2.32, tag 0x0112)."""
    if header.orientation >= 5:  # rows and columns change places, then as for one of the others
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    if header.orientation in _FLIPS:
        pixels = np.asarray(cv2.flip(pixels, _FLIPS[header.orientation]), np.uint8)
    return np.ascontiguousarray(pixels)


def _swapped(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGR to RGB."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
