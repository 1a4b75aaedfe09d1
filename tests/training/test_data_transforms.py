"""Augmentation moves picture and masks together, and its strengths mean what they say."""

from __future__ import annotations

import numpy as np
import pytest

from sparseinst.data import AugmentConfig, Sample, augment, mask_targets
from sparseinst.data.transforms import mosaic
from sparseinst_runtime.geometry import Letterbox

PAD = (124, 116, 104)
# No recolouring: pixels can be recognised after the geometry.
MOVED = AugmentConfig(brightness=0, contrast=0, saturation=0, hue=0, copy_paste=0)


def painted(seed: int, height: int = 90, width: int = 140, colour: int = 200) -> Sample:
    """Rectangles that do not touch, each painted in its own grey (`colour` + index) on black."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    masks = np.zeros((3, height, width), np.uint8)
    for k, mask in enumerate(masks):
        left = k * width // 3 + int(rng.integers(2, 8))
        top, bottom = int(rng.integers(2, height // 3)), int(rng.integers(height // 2, height - 2))
        mask[top:bottom, left : left + width // 4] = 1
        image[mask > 0] = colour + k
    return Sample(image, masks, np.array([0, 1, 2]), image_id=5)


def random_sample(seed: int, height: int, width: int) -> Sample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image, np.ones((1, height, width), np.uint8), np.array([0]), image_id=0)


@pytest.mark.parametrize("seed", range(20))
def test_masks_stay_on_their_pixels(seed):
    sample = augment(painted(seed), 96, MOVED, np.random.default_rng(seed), pad_colour=PAD)
    assert sample.image.shape == (96, 96, 3)
    assert sample.image.dtype == sample.masks.dtype == np.uint8
    assert sample.masks.shape == (len(sample.labels), 96, 96)
    for mask, label in zip(sample.masks, sample.labels, strict=True):
        shown = sample.image[..., 0] == 200 + label  # without the pixels that resizing blended with the black around
        assert mask[shown].mean() > 0.999
        assert shown.sum() > 0.7 * mask.sum()


@pytest.mark.parametrize("seed", range(20))
def test_pasted_instances_hide_what_lies_below(seed):
    below, above = painted(seed, colour=100), painted(seed + 100, colour=200)
    above = Sample(above.image, above.masks, above.labels + 10, above.image_id)
    sample = augment(below, 96, MOVED, np.random.default_rng(seed), pad_colour=PAD, pasted=above)
    assert sample.masks.sum(axis=0).max() <= 1
    pasted = sample.masks[sample.labels >= 10].any(axis=0)
    assert pasted.any()
    # Whatever lies in a pasted mask was cut from the other picture: its rectangles, or their edge blended with black.
    assert np.isin(sample.image[sample.labels.size and sample.masks[sample.labels < 10].any(axis=0)], 200).sum() == 0
    assert (sample.image[pasted][:, 0] >= 200).mean() > 0.7


def test_at_most_max_pasted_instances_arrive():
    config = AugmentConfig(max_pasted=2, scale=(1, 1), aspect=1)
    arrived = set()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        above = Sample(painted(1).image, painted(1).masks, np.array([10, 11, 12]), 0)
        sample = augment(painted(0), 96, config, rng, pad_colour=PAD, pasted=above)
        arrived.add(int((sample.labels >= 10).sum()))
    assert arrived == {1, 2}


def test_a_pasted_sample_without_instances_changes_nothing():
    empty = Sample(painted(1).image, painted(1).masks[:0], painted(1).labels[:0], 0)
    plain = augment(painted(0), 96, MOVED, np.random.default_rng(0), pad_colour=PAD)
    pasted = augment(painted(0), 96, MOVED, np.random.default_rng(0), pad_colour=PAD, pasted=empty)
    np.testing.assert_array_equal(plain.image, pasted.image)
    np.testing.assert_array_equal(plain.masks, pasted.masks)


def test_instances_that_are_covered_are_dropped():
    full = Sample(np.full((96, 96, 3), 9, np.uint8), np.ones((1, 96, 96), np.uint8), np.array([7]), 0)
    sample = augment(
        painted(0, 96, 96), 96, AugmentConfig.none(), np.random.default_rng(0), pad_colour=PAD, pasted=full
    )
    np.testing.assert_array_equal(sample.labels, [7])
    assert (sample.image == 9).all()


@pytest.mark.parametrize("min_visible", [0.0, 0.4, 0.9])
def test_instances_of_which_too_little_remains_are_dropped(min_visible):
    """One column of the square is covered at a time: the instance goes when its visible share falls short."""
    image = np.zeros((80, 80, 3), np.uint8)
    whole = Sample(image, np.ones((1, 80, 80), np.uint8), np.array([0]), 0)
    config = AugmentConfig(**(vars(AugmentConfig.none()) | {"min_visible": min_visible, "min_area": 0}))
    for covered in range(8, 80, 8):
        cover = np.zeros((1, 80, 80), np.uint8)
        cover[:, :, :covered] = 1
        pasted = Sample(image, cover, np.array([1]), 0)
        sample = augment(whole, 80, config, np.random.default_rng(0), pad_colour=PAD, pasted=pasted)
        assert (0 in sample.labels) == (1 - covered / 80 >= min_visible), covered


def test_the_visible_share_counts_what_the_crop_cut_off():
    """Scaled to four times its area, at most a quarter of a full-picture instance can be visible."""
    for min_visible, kept in ((0.24, 1), (0.27, 0)):
        config = AugmentConfig(**(vars(AugmentConfig.none()) | {"scale": (2, 2), "min_visible": min_visible}))
        sample = augment(random_sample(0, 80, 80), 80, config, np.random.default_rng(0), pad_colour=PAD)
        assert len(sample.labels) == kept


def test_instances_smaller_than_a_mask_pixel_are_dropped():
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, :3, :5] = 1
    masks[1, :4, :4] = 1
    sample = Sample(np.zeros((64, 64, 3), np.uint8), masks, np.array([0, 1]), 0)
    result = augment(sample, 64, AugmentConfig.none(), np.random.default_rng(0), pad_colour=PAD)
    np.testing.assert_array_equal(result.labels, [1])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (200, 131), (50, 97), (33, 400), (31, 20)])
def test_no_augmentation_is_the_letterbox_of_evaluation(height, width):
    sample = random_sample(0, height, width)
    result = augment(sample, 64, AugmentConfig.none(), np.random.default_rng(0), pad_colour=PAD)
    letterbox = Letterbox.fit(height, width, (64, 64))
    np.testing.assert_array_equal(result.image, letterbox.apply(sample.image, PAD))
    inside = np.zeros((64, 64), np.uint8)
    inside[: letterbox.scaled_height, : letterbox.scaled_width] = 1
    np.testing.assert_array_equal(result.masks[0], inside)


def test_padding_keeps_its_colour_when_the_picture_changes():
    config = AugmentConfig(scale=(0.5, 0.5), aspect=1)
    for seed in range(10):
        result = augment(random_sample(seed, 64, 64), 64, config, np.random.default_rng(seed), pad_colour=PAD)
        outside = result.image[result.masks[0] == 0]
        assert len(outside) == 64 * 64 - 32 * 32
        assert (outside == PAD).all()


def test_flip_is_a_mirror():
    sample = random_sample(0, 64, 64)
    config = AugmentConfig(**(vars(AugmentConfig.none()) | {"flip": 1.0}))
    result = augment(sample, 64, config, np.random.default_rng(0), pad_colour=PAD)
    np.testing.assert_array_equal(result.image, sample.image[:, ::-1])


def test_recolouring_keeps_grey_grey_and_changes_the_rest():
    grey = Sample(np.full((64, 64, 3), 90, np.uint8), np.ones((1, 64, 64), np.uint8), np.array([0]), 0)
    red = Sample(np.full((64, 64, 3), (160, 60, 60), np.uint8), grey.masks, grey.labels, 0)
    config = AugmentConfig(**(vars(AugmentConfig.none()) | {"brightness": 0.2, "saturation": 0.4, "hue": 20.0}))
    greys, reds = set(), set()
    for seed in range(20):
        pixel = augment(grey, 64, config, np.random.default_rng(seed), pad_colour=PAD).image[3, 3].astype(int)
        assert np.ptp(pixel) <= 1
        assert 90 * 0.8 - 1 <= pixel[0] <= 90 * 1.2 + 1
        greys.add(int(pixel[0]))
        reds.add(tuple(augment(red, 64, config, np.random.default_rng(seed), pad_colour=PAD).image[3, 3].tolist()))
    assert len(greys) > 5
    assert len({np.argmax(pixel) for pixel in reds}) == 1  # hue moves a little: red stays red
    assert len(reds) > 10


def test_samples_are_not_written_into():
    below, above = painted(0), painted(1)
    before = [array.copy() for sample in (below, above) for array in (sample.image, sample.masks, sample.labels)]
    for seed in range(10):
        augment(below, 96, AugmentConfig(), np.random.default_rng(seed), pad_colour=PAD, pasted=above)
    after = [array for sample in (below, above) for array in (sample.image, sample.masks, sample.labels)]
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)


@pytest.mark.parametrize("wrong", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"aspect": 0.5}, {"contrast": 1.0}])
def test_strengths_without_a_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted"):
        AugmentConfig(**wrong)


def test_a_mosaic_holds_four_samples_untouched_in_its_quarters():
    rng = np.random.default_rng(0)
    parts = [
        Sample(
            rng.integers(256, size=(8, 8, 3), dtype=np.uint8),
            rng.integers(2, size=(count, 8, 8), dtype=np.uint8),
            np.full(count, number, np.int64),
            number,
        )
        for number, count in enumerate((2, 0, 1, 3))
    ]
    whole = mosaic(parts)
    assert whole.image_id == 0
    assert whole.labels.tolist() == [0, 0, 2, 3, 3, 3]
    for number, (top, left) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
        quarter = (slice(top, top + 8), slice(left, left + 8))
        np.testing.assert_array_equal(whole.image[quarter], parts[number].image)
        mine = whole.masks[whole.labels == number]
        np.testing.assert_array_equal(mine[(slice(None), *quarter)], parts[number].masks)
        assert mine.sum() == parts[number].masks.sum()


@pytest.mark.parametrize("drop", [True, False])
def test_instances_that_the_mask_map_does_not_show_are_dropped_when_asked(drop):
    masks = np.zeros((5, 64, 64), np.uint8)
    masks[0, 10:40, 20:50] = 1
    masks[1, 7:9, :] = 1  # the last row of a block and the first of the next
    masks[2, :, 31:33] = 1
    masks[3, 7:10, :] = 1  # the same, a row further
    masks[4, 20::4, 20::4] = 1
    sample = Sample(np.zeros((64, 64, 3), np.uint8), masks, np.arange(5), 1)
    config = AugmentConfig(**(vars(AugmentConfig.none()) | {"drop_vanished": drop}))
    kept = augment(sample, 64, config, np.random.default_rng(0), pad_colour=PAD)
    assert kept.labels.tolist() == ([0, 3] if drop else [0, 1, 2, 3, 4])
    shown = mask_targets(kept.masks).any(axis=(1, 2))
    assert shown.all() if drop else shown.tolist() == [True, False, False, True, False]
