from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseinst_runtime.geometry import Letterbox

sides = st.integers(1, 16_384)
sizes = st.integers(1, 40).map(lambda n: 32 * n)
PAD = (124, 116, 104)


frames = st.tuples(sizes, sizes)  # height, width


@given(sides, sides, frames)
def test_one_side_fills_the_frame_and_nothing_sticks_out(height, width, size):
    box = Letterbox.fit(height, width, size)
    assert box.scaled_height == size[0] or box.scaled_width == size[1]
    assert 1 <= box.scaled_height <= size[0]
    assert 1 <= box.scaled_width <= size[1]
    scale = min(size[0] / height, size[1] / width)
    assert box.scaled_height == max(1, int(height * scale + 0.5)) or abs(height * scale % 1 - 0.5) < 1e-6
    assert abs(box.scaled_width - width * scale) <= 0.5 or box.scaled_width == 1


@given(sides, sides, frames, st.lists(st.tuples(st.floats(-1e4, 2e4), st.floats(-1e4, 2e4)), max_size=5))
def test_points_there_and_back_are_the_same(height, width, size, points):
    box = Letterbox.fit(height, width, size)
    points = np.array(points, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(box.to_picture(box.to_input(points)), points, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(box.to_input(box.to_picture(points)), points, rtol=1e-12, atol=1e-9)


@given(sides, sides, frames)
def test_corners_of_the_picture_lie_on_the_corners_of_its_part_of_the_frame(height, width, size):
    box = Letterbox.fit(height, width, size)
    corners = box.to_input([[0, 0], [width, height]])
    np.testing.assert_allclose(corners, [[0, 0], [box.scaled_width, box.scaled_height]], rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(1, 16_384), (16_384, 1), (1, 1), (1, 2), (3, 1000)])
def test_extreme_aspect_ratios_fit(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    box = Letterbox.fit(height, width, (320, 320))
    square = box.apply(image, PAD)
    assert square.shape == (320, 320, 3)
    assert (square[: box.scaled_height, : box.scaled_width] == 200).all()
    padding = np.ones((320, 320), bool)
    padding[: box.scaled_height, : box.scaled_width] = False
    assert (square[padding] == PAD).all()


def test_picture_of_the_right_size_passes_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(Letterbox.fit(64, 64, (64, 64)).apply(image, PAD), image)


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 200  # every second column: point sampling would see one of the two
    square = Letterbox.fit(256, 256, (64, 64)).apply(stripes, PAD)
    assert (square == 100).all()


def test_what_lies_at_a_point_is_found_at_its_place_in_the_frame():
    image = np.zeros((300, 500, 3), np.uint8)
    image[120:130, 380:400] = 255  # centre x 390, y 125
    for size in ((160, 160), (320, 320), (960, 960), (320, 960), (640, 160)):
        box = Letterbox.fit(300, 500, size)
        light = box.apply(image, (0, 0, 0))[..., 0].astype(float)
        rows, columns = np.indices(light.shape) + 0.5
        centre = np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum()
        np.testing.assert_allclose(box.to_picture(centre), [390, 125], atol=0.5)


def test_wrong_input_is_refused_in_words():
    box = Letterbox.fit(4, 6, (32, 32))
    with pytest.raises(ValueError, match=r"float32 \(4, 6, 3\); wanted uint8 \(4, 6, 3\)"):
        box.apply(np.zeros((4, 6, 3), np.float32), PAD)
    with pytest.raises(ValueError, match=r"wanted uint8 \(4, 6, 3\)"):
        box.apply(np.zeros((6, 4, 3), np.uint8), PAD)
    with pytest.raises(ValueError, match=r"\[..., 2\], x before y"):
        box.to_picture([1, 2, 3])
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Letterbox.fit(0, 5, (32, 32))
