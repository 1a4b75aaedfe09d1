"""Sizing by the short side, and the augmentation of the published models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sparseinst.data import Sample, ShortSideConfig
from sparseinst.data.short_side import augment_short_side, short_side_size


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 640), 640, (640, 853)),  # 853.33: both limits meet
        ((640, 480), 640, (853, 640)),
        ((480, 640), 608, (608, 811)),  # 810.67 rounds up
        ((427, 640), 640, (569, 853)),  # the long side has its limit
        ((500, 500), 640, (640, 640)),
        ((10, 1000), 640, (9, 853)),  # 8.53
        ((1, 4000), 640, (1, 853)),  # never 0
    ],
)
def test_sizes_follow_the_published_rule(size, short_side, expected):
    assert short_side_size(*size, short_side) == expected


def sample(height: int = 60, width: int = 90) -> Sample:
    """A smooth picture; one mask in its upper left quarter, one of a single pixel."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / width, 255 * y / height, 0 * x + 128], -1).astype(np.uint8)
    masks = np.zeros((2, height, width), np.uint8)
    masks[0, : height // 2, : width // 2] = 1
    masks[1, -1, -1] = 1
    return Sample(image, masks, np.array([3, 5]), 7)


def test_without_crops_the_aspect_ratio_stays_and_picture_and_masks_move_together():
    config = ShortSideConfig(short_sides=(120, 180), long_side=250)
    sizes = Counter()
    for seed in range(40):
        result = augment_short_side(sample(), config, np.random.default_rng(seed))
        height, width = result.image.shape[:2]
        sizes[height, width] += 1
        assert result.labels.tolist() == [3, 5]
        mirrored = result.image[0, 0, 0] > result.image[0, -1, 0]
        mask = result.masks[0][:, ::-1] if mirrored else result.masks[0]
        assert mask[: height // 2 - 1, : width // 2 - 1].all()
        assert mask.sum() == pytest.approx(height * width / 4, rel=0.03)
    assert set(sizes) == {(120, 180), (167, 250)}  # 180 would make the long side 270
    assert min(sizes.values()) > 5


def test_a_crop_shows_a_part_and_drops_what_it_lost():
    config = ShortSideConfig(
        flip=0, short_sides=(64,), long_side=400, crop=1.0, crop_short_sides=(60,), crop_range=(20, 30)
    )
    labels = Counter()
    for seed in range(40):
        result = augment_short_side(sample(), config, np.random.default_rng(seed))
        assert min(result.image.shape[:2]) == 64
        spread = int(result.image[..., 0].max()) - int(result.image[..., 0].min())
        assert spread <= 255 * 30 / 90 + 2
        labels.update(result.labels.tolist())
        assert all(mask.any() for mask in result.masks)
    assert 10 < labels[3] < 40  # whoever sees the right lower part has lost it


def test_the_same_random_numbers_give_the_same_sample():
    config = ShortSideConfig(crop=0.5)
    one, other = (augment_short_side(sample(), config, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.masks, other.masks)
