"""Overlays: the picture's size, the same every time, and visible where the instances are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparseinst_client.draw import overlay
from sparseinst_runtime.instances import Instances

CLASSES = ("bear", "deer", "sea turtle")


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def test_the_overlay_has_the_pictures_size_and_leaves_it_alone(picture, instances):
    before = picture.copy()
    painted = overlay(picture, instances, CLASSES)
    assert painted.shape == picture.shape
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(picture, before)


def test_the_overlay_is_the_same_every_time(picture, instances):
    np.testing.assert_array_equal(overlay(picture, instances, CLASSES), overlay(picture, instances, CLASSES))


def test_masks_are_painted_and_the_rest_is_not(instances):
    grey = np.full((1200, 1600, 3), 128, np.uint8)
    large = np.zeros((1200, 1600), np.uint8, order="F")
    large[600:1000, 200:900] = 1
    from pycocotools import mask as coco_mask

    one = Instances(
        scores=instances.scores[:1],
        labels=instances.labels[:1],
        boxes=np.array([[200, 600, 900, 1000]], np.float32),
        rles=(coco_mask.encode(large)["counts"],),
        image_size=(1200, 1600),
    )
    painted = overlay(grey, one, CLASSES)
    changed = (painted != grey).any(axis=2)
    assert changed[620:980, 220:880].all()
    assert not changed[:500].any()
    assert not changed[:, 1000:].any()
    red, green, blue = painted[800, 500].astype(int)
    assert red > green > blue  # the palette begins with orange: channels are in RGB order


def test_no_instances_leave_the_picture_as_it_was(picture, instances):
    none = Instances(instances.scores[:0], instances.labels[:0], instances.boxes[:0], (), instances.image_size)
    np.testing.assert_array_equal(overlay(picture, none, CLASSES), picture)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (16, 16)])
def test_tiny_pictures_can_be_painted(height, width):
    from pycocotools import mask as coco_mask

    counts = coco_mask.encode(np.ones((height, width), np.uint8, order="F"))["counts"]
    box = np.array([[0, 0, width, height]], np.float32)
    one = Instances(np.array([0.5], np.float32), np.array([0], np.int32), box, (counts,), (height, width))
    assert overlay(np.zeros((height, width, 3), np.uint8), one, CLASSES).shape == (height, width, 3)


def test_another_pictures_instances_are_refused(picture, instances):
    with pytest.raises(ValueError, match="120x159"):
        overlay(picture[:, :-1], instances, CLASSES)


def test_labels_without_a_name_are_refused(picture, instances):
    with pytest.raises(ValueError, match="label 2"):
        overlay(picture, replace(instances), CLASSES[:2])


def test_a_tracks_number_is_written_and_chooses_the_colour(instances):
    grey = np.full((120, 160, 3), 128, np.uint8)
    one, other = (overlay(grey, instances[[0]], CLASSES, np.array([number])) for number in (3, 4))
    assert (one != other).any()
    unnumbered = overlay(grey, instances[[0]], CLASSES, np.array([-1]))
    np.testing.assert_array_equal(unnumbered, overlay(grey, instances[[0]], CLASSES))
    again = overlay(grey, instances[[0]], CLASSES, np.array([3 + 7]))  # the palette has seven
    inside = (slice(50, 80), slice(20, 60))
    np.testing.assert_array_equal(again[inside], one[inside])
