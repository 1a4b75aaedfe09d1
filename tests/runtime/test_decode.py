from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from sparseinst_runtime.decode import decode, decode_letterboxed
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.limits import Limits, PictureError, check_header

PAD = (124, 116, 104)


def test_lossless_pictures_come_back_pixel_by_pixel(encode, small):
    for data in (encode(small, "PNG"), encode(small, "WEBP", lossless=True)):
        image = decode(data)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        np.testing.assert_array_equal(image, small)


def test_jpeg_comes_back_in_rgb_order(encode):
    red = decode(encode(np.full((16, 16, 3), (250, 10, 20), np.uint8), "JPEG"))
    np.testing.assert_allclose(red, np.broadcast_to([250, 10, 20], red.shape), atol=4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(encode, small, format, orientation):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(small, format, orientation, **options)
    image = decode(data)
    assert image.shape[:2] == check_header(data).display_size
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(image, np.asarray(upright))


def test_orientation_6_puts_the_stored_left_edge_on_top(encode):
    stored = np.zeros((4, 6, 3), np.uint8)
    stored[:, 0] = 255  # EXIF 2.32, value 6: row 0 is the visual right side, column 0 the visual top
    stored[0, 5] = 100
    image = decode(encode(stored, "PNG", 6))
    assert image.shape == (6, 4, 3)
    assert (image[0] == 255).all()
    assert (image[5, 3] == 100).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_refused_wherever_it_ends(scene_bytes, encode, progressive):
    data = encode(Image.open(io.BytesIO(scene_bytes)), "JPEG", progressive=progressive)
    assert decode(data).shape == (480, 640, 3)
    for share in (0.02, 0.3, 0.7, 0.97):
        with pytest.raises(PictureError, match=r"JPEG picture is (cut off or corrupt|broken or cut off)"):
            decode(data[: int(share * len(data))])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None)
def test_cut_off_pictures_come_whole_or_not_at_all(encode, small, format, share):
    data = encode(small, format)
    try:
        image = decode(data[: int(share * len(data))])
    except PictureError:
        return
    assert share > 0.85  # of a PNG the last bytes are checksums, without a pixel in them
    np.testing.assert_array_equal(image, decode(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_give_a_picture_of_the_announced_size_or_a_picture_error(encode, small, format, flips):
    data = bytearray(encode(small, format, 6))
    for place, value in flips:
        data[int(place * len(data))] = value
    try:
        image = decode(bytes(data), Limits(max_pixels=100_000))
    except PictureError:
        return
    assert image.shape == (*check_header(bytes(data)).display_size, 3)


def test_grey_palette_alpha_and_cmyk_become_rgb(encode, small):
    picture = Image.fromarray(small)
    grey = picture.convert("L")
    np.testing.assert_array_equal(decode(encode(grey, "PNG")), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    palette = picture.quantize(16)
    np.testing.assert_array_equal(decode(encode(palette, "PNG")), np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(decode(encode(palette, "PNG", transparency=b"\x00\x80")), palette.convert("RGB"))
    assert decode(encode(picture.convert("1"), "PNG")).shape == small.shape
    cmyk = decode(encode(picture.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - small).mean() < 12


def test_alpha_is_dropped_and_not_blended(encode, small):
    alpha = np.dstack([small, np.zeros(small.shape[:2], np.uint8)])
    np.testing.assert_array_equal(decode(encode(alpha, "PNG")), small)


def test_sixteen_bits_keep_their_upper_eight(encode):
    values = np.array([[0, 255, 256, 32768], [65535, 1000, 40000, 12345]], np.uint16)
    image = decode(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(image, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(encode, small, format):
    frames = [Image.fromarray(255 - small), Image.fromarray(small[::-1].copy())]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(small, format, save_all=True, append_images=frames, **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(decode(data), small)


def test_one_pixel_is_a_picture(encode):
    pixel = np.array([[[7, 80, 200]]], np.uint8)
    np.testing.assert_array_equal(decode(encode(pixel, "PNG")), pixel)


def test_limits_hold_before_decoding(encode, small):
    with pytest.raises(PictureError, match="40 x 24 pixels"):
        decode(encode(small, "PNG"), Limits(max_side=39))


def in_two_steps(data: bytes, size: tuple[int, int]) -> np.ndarray:
    image = decode(data)
    return Letterbox.fit(image.shape[0], image.shape[1], size).apply(image, PAD)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture without any symmetry and without sharp edges, with a little grain."""
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a + columns / b) * 90 + 128 for a, b in ((31, 47), (53, -29), (67, 23))]
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 1))
    return (np.stack(waves, axis=-1) + grain).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_in_the_frame_is_what_decoding_and_letterboxing_give(encode, small, format, orientation):
    data = encode(small, format, orientation)
    for size in ((32, 32), (96, 64), (32, 160)):
        pixels, letterbox = decode_letterboxed(data, size, PAD)
        assert (letterbox.height, letterbox.width) == check_header(data).display_size
        np.testing.assert_array_equal(pixels, in_two_steps(data, size))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(801, 1003), (1600, 400)])
def test_a_large_jpeg_comes_nearly_the_same_from_reduced_scale(encode, height, width, orientation):
    data = encode(smooth(height, width), "JPEG", orientation, quality=90)
    for size in ((64, 64), (128, 32)):
        pixels, letterbox = decode_letterboxed(data, size, PAD)
        assert (letterbox.height, letterbox.width) == check_header(data).display_size
        difference = np.abs(pixels.astype(int) - in_two_steps(data, size))
        assert 0 < difference.mean() < 1  # 0 would mean that it was decoded at full scale
        assert difference.max() < 16  # a sixth of a pixel of the frame, where the waves are steepest


def test_reduced_scale_leaves_things_where_they_are(encode):
    image = np.zeros((1205, 2501, 3), np.uint8)  # neither side is a multiple of 8
    image[900:1000, 2300:2400] = 255
    pixels, letterbox = decode_letterboxed(encode(image, "JPEG"), (64, 64), (0, 0, 0))
    light = pixels[..., 0].astype(float)
    rows, columns = np.indices(light.shape) + 0.5
    centre = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
    np.testing.assert_allclose(centre, letterbox.to_input([2350, 950]), atol=0.1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_large_grey_and_cmyk_pictures_fit_into_the_frame_too(encode, mode):
    picture = Image.fromarray(smooth(500, 700)).convert(mode)
    data = encode(picture, "JPEG", quality=95)
    pixels, _ = decode_letterboxed(data, (64, 64), PAD)
    assert np.abs(pixels.astype(int) - in_two_steps(data, (64, 64))).mean() < 1


def test_large_lossless_pictures_are_decoded_in_full(encode):
    data = encode(smooth(500, 700), "PNG")
    np.testing.assert_array_equal(decode_letterboxed(data, (64, 64), PAD)[0], in_two_steps(data, (64, 64)))


def test_a_large_cut_off_jpeg_is_refused(encode):
    data = encode(smooth(500, 700), "JPEG")
    for share in (0.3, 0.97):
        with pytest.raises(PictureError, match="cut off or corrupt"):
            decode_letterboxed(data[: int(share * len(data))], (64, 64), PAD)


def test_limits_hold_before_letterboxing(encode, small):
    with pytest.raises(PictureError, match="40 x 24 pixels"):
        decode_letterboxed(encode(small, "JPEG"), (64, 64), PAD, Limits(max_side=39))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_the_pixels_that_pillow_sees(encode, mode, subsampling, progressive):
    picture = Image.fromarray(smooth(45, 61)).convert(mode)
    data = encode(picture, "JPEG", subsampling=subsampling, progressive=progressive)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
