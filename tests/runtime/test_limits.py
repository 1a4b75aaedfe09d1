from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from sparseinst_runtime.limits import Header, Limits, PictureError, check_header


def png_header(width: int, height: int) -> bytes:
    """A PNG that is nothing but its header: signature and IHDR, and an empty IDAT."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def jpeg_header(encode, width: int, height: int) -> bytes:
    """A small JPEG whose frame header announces another size."""
    data = encode(np.zeros((8, 8, 3), np.uint8), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def webp_header(encode, width: int, height: int) -> bytes:
    """A small lossless WEBP whose header announces another size."""
    data = encode(np.zeros((8, 8, 3), np.uint8), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    (bits,) = struct.unpack("<I", data[21:25])
    bits = (bits & ~((1 << 28) - 1)) | (width - 1) | (height - 1) << 14
    return data[:21] + struct.pack("<I", bits) + data[25:]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_header_says_format_and_size(encode, small, format):
    assert check_header(encode(small, format)) == Header(format, width=40, height=24, orientation=1)


def test_display_size_swaps_for_the_four_orientations_that_lie_on_their_side():
    sizes = {o: Header("JPEG", width=40, height=24, orientation=o).display_size for o in range(1, 9)}
    assert {o for o, size in sizes.items() if size == (24, 40)} == {1, 2, 3, 4}
    assert {o for o, size in sizes.items() if size == (40, 24)} == {5, 6, 7, 8}


@pytest.mark.filterwarnings("error")  # Pillow's DecompressionBombWarning must not come either
@pytest.mark.parametrize("side", [40_000, 60_000])
def test_giant_header_is_refused_in_words_without_warnings(encode, side):
    for data in (png_header(side, side), jpeg_header(encode, side, side)):
        with pytest.raises(PictureError, match=f"{side} x {side} pixels; at most 16384"):
            check_header(data)


@pytest.mark.filterwarnings("error")
def test_giant_webp_is_refused_in_words(encode):
    with pytest.raises(PictureError, match="pixels; "):
        check_header(webp_header(encode, 16_383, 16_383))
    with pytest.raises(PictureError, match="10000 x 10000 pixels; at most"):
        check_header(webp_header(encode, 10_000, 10_000))


@pytest.mark.filterwarnings("error")
def test_our_limit_decides_and_not_pillows(encode):
    side = 20_000  # 400 million pixels: Pillow's own guard raises above 179 million
    generous = Limits(max_pixels=side * side, max_side=side)
    assert check_header(png_header(side, side), generous).display_size == (side, side)
    assert check_header(jpeg_header(encode, side, side), generous).display_size == (side, side)


def test_limits_are_inclusive(encode, small):
    data = encode(small, "PNG")
    exact = Limits(max_bytes=len(data), max_pixels=24 * 40, max_side=40)
    assert check_header(data, exact).width == 40
    for field, value, words in (
        ("max_bytes", len(data) - 1, f"has {len(data):,} bytes; at most"),
        ("max_pixels", 24 * 40 - 1, "40 x 24 pixels; at most"),
        ("max_side", 39, "40 x 24 pixels; at most 39 a side"),
    ):
        with pytest.raises(PictureError, match=words):
            check_header(data, Limits(**{field: value}))


def test_long_thin_picture_is_held_to_the_side():
    assert check_header(png_header(16_384, 1)).width == 16_384
    with pytest.raises(PictureError, match="16385 x 1 pixels"):
        check_header(png_header(16_385, 1))


def test_empty_bytes_and_other_data_are_refused_in_words(encode, small):
    for data, words in (
        (b"", r"empty \(0 bytes\)"),
        (b"hello, I am a text", "starts with 68 65 6c 6c"),
        (b"\x00", "wanted JPEG or PNG or WEBP"),
        (encode(small, "GIF"), "got a GIF picture; wanted JPEG or PNG or WEBP"),
        (encode(small, "BMP"), "got a BMP picture"),
        (encode(small, "TIFF"), "got a TIFF picture"),
        (b"\x00\x00\x00\x18ftypheic", "got a HEIC picture"),
        (b"\x00\x00\x00\x1cftypavif", "got an AVIF picture"),
        (b"BMW and Mini", "starts with 42 4d 57 20"),
        (b"\xff\xd8\xff", "header of the JPEG picture is broken"),
        (b"\x89PNG\r\n\x1a\n", "header of the PNG picture is broken"),
        (b"RIFF\x00\x00\x00\x00WEBP", "header of the WEBP picture is broken"),
        (png_header(0, 5), "header of the PNG picture is broken"),
    ):
        with pytest.raises(PictureError, match=words):
            check_header(data)


def test_jpeg_of_hundreds_of_scans_is_refused_in_words(encode, small):
    data = encode(small, "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xc4") : -2]  # its Huffman table and its scan
    assert check_header(data[:-2] + last_scan * 50 + data[-2:]).width == 40
    with pytest.raises(PictureError, match=r"has 5\d\d scans; at most 100"):
        check_header(data[:-2] + last_scan * 500 + data[-2:])


def test_the_larger_a_jpeg_the_fewer_scans_are_taken(encode, small):
    data = encode(small, "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xc4") : -2]
    forty = data[:-2] + last_scan * 30 + data[-2:]
    assert check_header(data, Limits(max_pixels=24 * 40)).width == 40  # as progressive as encoders make them
    assert check_header(forty, Limits(max_pixels=4 * 24 * 40)).width == 40
    with pytest.raises(PictureError, match=r"has \d\d scans; at most 16 are taken at its size"):
        check_header(forty, Limits(max_pixels=24 * 40))


def test_what_only_looks_like_scans_is_not_counted(encode, small):
    plain = encode(small, "JPEG")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 2000) + b"\xff\xda" * 1000
    assert (
        check_header(plain[:2] + comment + plain[2:] + b"\xff\xda" * 1000).width == 40
    )  # before and behind the picture


def test_formats_can_be_narrowed(encode, small):
    with pytest.raises(PictureError, match="got a WEBP picture; wanted JPEG or PNG"):
        check_header(encode(small, "WEBP"), Limits(formats=("JPEG", "PNG")))


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"max_side": -1}, {"formats": ()}, {"formats": ("GIF",)}])
def test_limits_that_no_picture_meets_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_the_header(encode, small, format, orientation):
    assert check_header(encode(small, format, orientation)).orientation == orientation


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientation_that_does_not_exist_counts_as_upright(encode, small, orientation):
    assert check_header(encode(small, "JPEG", orientation)).orientation == 1


def test_broken_exif_counts_as_upright(encode, small):
    assert check_header(encode(small, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")).orientation == 1


def test_no_pixel_is_decoded(encode, small, monkeypatch):
    decoded = []
    data = [encode(small, format, o) for format in ("JPEG", "PNG", "WEBP") for o in (6, None)]
    for cls in ("Image.Image", "ImageFile.ImageFile", "PngImagePlugin.PngImageFile", "WebPImagePlugin.WebPImageFile"):
        monkeypatch.setattr(f"PIL.{cls}.load", lambda self: decoded.append(type(self).__name__))
    assert [check_header(d).orientation for d in data] == [6, 1] * 3
    assert not decoded


def test_jpeg_that_announces_two_sizes_is_refused_in_words(encode, small):
    data = encode(small, "JPEG")
    at = data.index(b"\xff\xc0")  # its frame: marker, length, bits, height, width
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    huge = frame[:5] + (16_000).to_bytes(2, "big") * 2 + frame[9:]
    for first, second in ((huge, frame), (frame, huge)):
        with pytest.raises(PictureError, match=r"two sizes|16000 x 16000"):
            check_header(data[:at] + first + second + data[at + len(frame) :])


def png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_picture_cut_into_crumbs_is_refused_in_words(encode, small):
    """Thirty megabytes of them would keep a core busy for a minute, in the parsing of the header alone."""
    jpeg, png = encode(small, "JPEG"), encode(small, "PNG")
    crumbs = {
        "empty comments": jpeg[:2] + b"\xff\xfe\x00\x02" * 2000 + jpeg[2:],
        "empty comments between scans": jpeg[:-2] + b"\xff\xfe\x00\x02" * 2000 + jpeg[-2:],
        "filling": jpeg[:2] + b"\xff" * 2000 + jpeg[2:],
        "private chunks": png[:33] + png_chunk(b"prIv") * 2000 + png[33:],
        "empty pixels": png[:-12] + png_chunk(b"IDAT") * 2000 + png[-12:],
    }
    for name, data in crumbs.items():
        with pytest.raises(PictureError, match=r"cut into more than 1,0\d\d pieces"):
            pytest.fail(f"{name}: {check_header(data)}")


def test_a_second_colour_profile_is_refused_in_words(encode, small):
    png = encode(small, "PNG")
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"a" * 10_000))
    assert check_header(png[:33] + profile + png[33:]).width == 40
    with pytest.raises(PictureError, match="two colour profiles"):
        check_header(png[:33] + profile * 2 + png[33:])


def test_pictures_cut_as_encoders_cut_them_are_taken(encode, small):
    """A megabyte of metadata in segments and chunks of the usual sizes."""
    jpeg, png = encode(small, "JPEG"), encode(small, "PNG")
    segment = b"\xff\xe2" + struct.pack(">H", 65_000) + b"x" * 64_998
    assert check_header(jpeg[:2] + segment * 16 + jpeg[2:]).width == 40
    assert check_header(png[:33] + png_chunk(b"prIv", b"x" * 1024) * 1024 + png[33:]).width == 40
