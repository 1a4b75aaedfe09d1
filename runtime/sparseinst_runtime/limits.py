"""What pictures are taken from strangers, judged by their header alone, before anything is decoded.

A header of a few bytes can announce gigabytes of pixels, so every limit is checked on what the header says.
Pillow parses the headers; its own guard against decompression bombs is passed by, because `Limits` decides here.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

Reason = Literal["empty", "format", "too_large", "broken", "value"]
REASONS: tuple[Reason, ...] = get_args(Reason)  # few and fixed: the server counts refusals by them


class PictureError(ValueError):
    """A picture that cannot be taken; the message is a sentence for whoever sent it, and never holds a path.

    Attributes:
        reason: the kind of refusal.
    """

    def __init__(self, message: str, reason: Reason = "broken") -> None:
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class Limits:
    """The largest picture that is taken.

    Attributes:
        max_bytes: size of the encoded picture in bytes.
        max_pixels: width times height, in pixels.
        max_side: width and height each, in pixels.
        max_scans: passes over the pixels in a JPEG. Progressive ones have about ten; each costs a pass over the whole
            picture for as little as fifty bytes, so that a file of one megabyte could keep a core busy for minutes. Of
            the largest pictures only 16 are taken.
        formats: the encodings taken, of JPEG, PNG and WEBP.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_scans: int = 100
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")

    def __post_init__(self) -> None:
        """Refuse limits that no picture could meet."""
        for field in ("max_bytes", "max_pixels", "max_side", "max_scans"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)!r}; wanted a positive integer")
        if not self.formats or not set(self.formats) <= _READERS.keys():
            raise ValueError(f"formats is {self.formats!r}; wanted one or more of {', '.join(_READERS)}")


@dataclass(frozen=True)
class Header:
    """What the header of a picture says.

    Attributes:
        format: JPEG, PNG or WEBP.
        width: columns as stored, before the EXIF orientation is applied.
        height: rows as stored, before the EXIF orientation is applied.
        orientation: EXIF orientation, 1..8; 1 (upright) where the header names none or a wrong one. In a PNG it counts
            only where it comes before the pixels.
    """

    format: str
    width: int
    height: int
    orientation: int = 1

    @property
    def display_size(self) -> tuple[int, int]:
        """(height, width) of the picture as people see it, and as `decode` gives it: orientations 5 to 8 swap them."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def check_header(data: bytes, limits: Limits | None = None) -> Header:
    """Read the header of an encoded picture and hold it against the limits, without decoding any pixel.

    Args:
        data: the encoded picture.
        limits: what is taken; the defaults of `Limits` when None.

    Raises:
        PictureError: no data, too many bytes, another format, a broken header, or too many pixels.
    """
    return open_picture(data, limits)[1]


def open_picture(data: bytes, limits: Limits | None = None) -> tuple[ImageFile.ImageFile, Header]:
    """As `check_header`, and the opened picture too, whose pixels are still encoded.

    Raises:
        PictureError: as `check_header`.
    """
    limits = limits or Limits()
    if not data:
        raise PictureError("the picture is empty (0 bytes); send the bytes of a picture file", "empty")
    if len(data) > limits.max_bytes:
        raise PictureError(
            f"the picture has {len(data):,} bytes; at most {limits.max_bytes:,} are taken; send a smaller file",
            "too_large",
        )
    name = _sniff(data)
    if name not in limits.formats:
        named = name or _other(data)
        start = f"data that starts with {bytes(data[:4]).hex(' ')} (hex)"
        got = f"{'an' if named == 'AVIF' else 'a'} {named} picture" if named else start
        sentence = f"got {got}; wanted {' or '.join(limits.formats)}; convert the picture to one of these"
        raise PictureError(sentence, "format")
    most = _PIECES + len(data) // _BYTES_A_PIECE
    scans, sizes = _walk_jpeg(data, most) if name == "JPEG" else (1, set())
    if name == "PNG":
        _walk_png(data, most)
    try:
        # The class itself, not Image.open: that one applies Pillow's global pixel limit, with a warning or an error.
        picture = _READERS[name](io.BytesIO(data))
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:  # Pillow >= 13 has this guard inside its WEBP reader too
        sentence = f"the {name} picture has far too many pixels; scale it down before sending"
        raise PictureError(sentence, "too_large") from error
    except Exception as error:  # hostile bytes make the parsers raise a dozen kinds of errors; all mean the same
        raise PictureError(f"the header of the {name} picture is broken or cut off; send the whole file") from error
    width, height = picture.size
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise PictureError(
            f"the picture is {width} x {height} pixels; at most {limits.max_side} a side and "
            f"{limits.max_pixels:,} in all are taken; scale it down before sending",
            "too_large",
        )
    most_scans = min(limits.max_scans, _PASSES * limits.max_pixels // max(width * height, 1))
    if scans > most_scans:
        raise PictureError(
            f"the JPEG has {scans} scans; at most {most_scans} are taken at its size; save it anew as baseline",
            "too_large",
        )
    if sizes - {picture.size}:  # a decoder might believe the other one
        raise PictureError("the JPEG names two sizes in its header; save it anew")
    return picture, Header(name, width, height, _orientation(picture))


# Their own readers, so that no other of Pillow's forty formats is ever tried on a stranger's bytes.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}


def _sniff(data: bytes) -> str:
    """The format by the file signature, or an empty string."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return ""


# What people also have, by the file signature: named in a refusal, for they know it by that name.
_OTHERS = {
    "GIF": re.compile(rb"GIF8[79]a"),
    "BMP": re.compile(rb"BM.{4}\x00{4}", re.DOTALL),
    "TIFF": re.compile(rb"II\*\x00|MM\x00\*"),
    "HEIC": re.compile(rb".{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL),  # ISO/IEC 23008-12, annex B: the brands
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
}


def _other(data: bytes) -> str:
    """The name of a format that is never taken, or an empty string."""
    return next((name for name, signature in _OTHERS.items() if signature.match(data)), "")


# Inside a scan 0xFF is followed by a stuffed zero or a restart number; anything else is a marker (ITU-T T.81, B.1.1).
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_FRAMES = {0xC0 + kind for kind in range(16)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 (table B.1)


# The largest picture may have so many scans; smaller ones have more, up to `max_scans`, for the same work in all.
_PASSES = 16

# A segment of a JPEG may be as short as four bytes, a chunk of a PNG as twelve, and each costs Pillow microseconds: a
# file of nothing else would keep a core busy for a minute. Encoders cut into kilobytes.
_PIECES = 1000
_BYTES_A_PIECE = 256


def _walk_jpeg(data: bytes, most: int) -> tuple[int, set[tuple[int, int]]]:
    """Scans of a JPEG and the (width, height) its frames announce, from marker to marker up to its end marker.

    Raises:
        PictureError: more than so many segments; a byte between two that come before the pixels counts as one, too.
    """
    scans, sizes, pieces, at = 0, set(), 0, 2
    while (marker := _MARKER.search(data, at)) and (kind := data[marker.end() - 1]) != 0xD9:
        begin = marker.end()
        pieces += 1 if scans else begin - 1 - at
        _check_pieces("JPEG", pieces, most)
        scans += kind == 0xDA
        if kind in _FRAMES:  # length, bits a sample, height, width (B.2.2)
            height, width = (int.from_bytes(data[begin + i : begin + i + 2], "big") for i in (3, 5))
            sizes.add((width, height))
        at = begin + int.from_bytes(data[begin : begin + 2], "big")
    return scans, sizes


def _walk_png(data: bytes, most: int) -> None:
    """Raise PictureError for a PNG of more than so many chunks, or of two colour profiles: each takes milliseconds."""
    pieces, profiles, at = 0, 0, 8
    while (kind := data[at + 4 : at + 8]) and kind != b"IEND":
        pieces += 1
        profiles += kind == b"iCCP"
        _check_pieces("PNG", pieces, most)
        if profiles > 1:
            raise PictureError("the PNG has two colour profiles; save it anew")
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _check_pieces(name: str, pieces: int, most: int) -> None:
    if pieces > most:
        raise PictureError(f"the {name} is cut into more than {most:,} pieces; save it anew", "too_large")


def _orientation(picture: ImageFile.ImageFile) -> int:
    """EXIF orientation of an opened picture, 1 where it says nothing that can be read."""
    try:
        # The base class's method: PngImageFile's own decodes the whole picture in search of EXIF behind the pixels.
        value = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # broken EXIF is common in the wild and no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
