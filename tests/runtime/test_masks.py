"""`segment` against the plain way: resize every map to the full picture, threshold every pixel, encode the mask."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sparseinst_runtime import crossings
from sparseinst_runtime.geometry import Letterbox
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.masks import segment


def resize(probability: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """A map [mh, mw] at the centre of every pixel of the picture, float64 [H, W]: bilinear, align_corners=False."""

    def taps(axis: int, length: int, scaled: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nodes = probability.shape[axis]
        in_frame = (np.arange(length) + 0.5) * (scaled / length)
        in_map = (in_frame * (nodes / letterbox.size[axis]) - 0.5).clip(0, nodes - 1)
        lower = np.floor(in_map).astype(int)
        return lower, np.minimum(lower + 1, nodes - 1), in_map - lower

    top, bottom, down = taps(0, letterbox.height, letterbox.scaled_height)
    left, right, along = taps(1, letterbox.width, letterbox.scaled_width)
    rows = probability[top] * (1 - down)[:, None] + probability[bottom] * down[:, None]
    return rows[:, left] * (1 - along) + rows[:, right] * along


def one(probability: np.ndarray, letterbox: Letterbox, mask_threshold: float = 0.45) -> Instances:
    scores, labels = np.array([0.9], np.float32), np.array([0], np.int32)
    return segment(scores, labels, probability[None], letterbox, score_threshold=0.5, mask_threshold=mask_threshold)


def the_mask(instances: Instances) -> np.ndarray:
    return instances.mask(0) if len(instances) else np.zeros(instances.image_size, bool)


@st.composite
def maps(draw) -> tuple[np.ndarray, Letterbox]:
    """Maps of all kinds in frames and pictures of all shapes: noise, sparse dots, waves, blobs, all full."""
    size = draw(st.tuples(*[st.sampled_from([32, 64, 96])] * 2))
    letterbox = Letterbox.fit(draw(st.integers(1, 90)), draw(st.integers(1, 90)), size)
    mh, mw = (side // 4 for side in size)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "dots", "waves", "blob", "full", "checks"]))
    rows, columns = np.mgrid[:mh, :mw]
    if kind == "noise":
        values = rng.integers(0, 256, (mh, mw))
    elif kind == "dots":
        values = np.where(rng.random((mh, mw)) < 0.05, 255, 0)
    elif kind == "waves":
        values = (rows * rng.integers(1, 40) + columns * rng.integers(1, 40)) % 256
    elif kind == "blob":
        distance = np.hypot(rows - rng.uniform(0, mh), columns - rng.uniform(0, mw))
        values = 255 / (1 + np.exp(distance - rng.uniform(0, mh / 2)))
    elif kind == "full":
        values = np.full((mh, mw), rng.integers(0, 256))
    else:
        values = (rows + columns) % 2 * 255
    return values.astype(np.uint8), letterbox


@given(maps(), st.sampled_from([0.001, 0.2, 0.45, 0.5, 0.8, 0.99]))
@settings(max_examples=400, deadline=None)
def test_masks_equal_those_of_resizing_every_pixel(map_and_box, mask_threshold):
    probability, letterbox = map_and_box
    instances = one(probability, letterbox, mask_threshold)
    plain = resize(probability.astype(np.float64), letterbox) / 255
    clear = abs(plain - mask_threshold) > 1e-5
    np.testing.assert_array_equal(the_mask(instances)[clear], (plain > mask_threshold)[clear])


@given(maps())
@settings(max_examples=200, deadline=None)
def test_run_lengths_and_boxes_are_those_pycocotools_gives_for_the_full_mask(map_and_box):
    instances = one(*map_and_box)
    mask = the_mask(instances)
    assert len(instances) == mask.any()
    if len(instances):
        assert instances.rles[0] == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        rows, columns = mask.nonzero()
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert instances.boxes[0].tolist() == tight


def test_resizing_follows_torch_without_aligned_corners():
    # torch.nn.functional.interpolate(tensor([0, 100]), size=4, mode="bilinear", align_corners=False): 0, 25, 75, 100
    probability = np.zeros((8, 8), np.uint8)
    probability[:, 1] = 100
    values = resize(probability.astype(np.float64), Letterbox.fit(16, 16, (32, 32)))[0, :4]
    np.testing.assert_allclose(values, [0, 25, 75, 75])
    assert the_mask(one(probability, Letterbox.fit(16, 16, (32, 32)), 0.2))[0, :5].tolist() == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_mask_over_the_whole_picture_is_one_run():
    instances = one(np.full((8, 8), 255, np.uint8), Letterbox.fit(20, 30, (32, 32)))
    assert instances.mask(0).all()
    assert instances.boxes.tolist() == [[0, 0, 30, 20]]


def test_columns_of_full_height_join_and_the_rest_of_the_box_stays_tight():
    probability = np.zeros((8, 8), np.uint8)
    probability[:, 2:4] = 255
    instances = one(probability, Letterbox.fit(32, 32, (32, 32)))
    mask = instances.mask(0)
    assert mask[:, 8:16].all()
    x1, y1, x2, y2 = instances.boxes[0].tolist()
    assert (y1, y2) == (0, 32)
    assert mask.sum() == (x2 - x1) * 32


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (2000, 1), (1, 16_384), (3, 700)])
def test_extreme_pictures_hold(height, width):
    letterbox = Letterbox.fit(height, width, (64, 64))
    probability = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    plain = resize(probability.astype(np.float64), letterbox) / 255
    clear = abs(plain - 0.45) > 1e-5
    np.testing.assert_array_equal(the_mask(one(probability, letterbox))[clear], (plain > 0.45)[clear])


def test_what_lies_in_the_padding_alone_is_dropped():
    probability = np.zeros((16, 16), np.uint8)
    probability[12:, :] = 255  # the picture takes the upper half of the square
    assert len(one(probability, Letterbox.fit(32, 64, (64, 64)))) == 0


def test_sorted_by_score_with_ties_in_order_and_low_or_empty_ones_dropped():
    scores = np.array([0.5, 0.9, 0.3, 0.9, 0.8, 0.31], np.float32)
    labels = np.arange(6, dtype=np.int32)
    masks = np.full((6, 8, 8), 255, np.uint8)
    masks[4] = 0
    letterbox = Letterbox.fit(32, 32, (32, 32))
    threshold = float(scores[2])
    every = segment(scores, labels, masks, letterbox, score_threshold=threshold, mask_threshold=0.45)
    assert every.labels.tolist() == [1, 3, 0, 5]  # at the threshold is not above it
    assert every.scores.tolist() == scores[[1, 3, 0, 5]].tolist()
    best = segment(scores, labels, masks, letterbox, score_threshold=0.0, mask_threshold=0.45, max_instances=3)
    assert best.labels.tolist() == [1, 3, 0]  # the empty one takes no place
    assert (best.scores.dtype, best.labels.dtype, best.boxes.dtype) == (np.float32, np.int32, np.float32)


def test_nothing_above_the_threshold_is_no_instances():
    letterbox = Letterbox.fit(48, 64, (64, 64))
    for n in (0, 3):
        outputs = np.zeros(n, np.float32), np.zeros(n, np.int32), np.zeros((n, 16, 16), np.uint8)
        instances = segment(*outputs, letterbox, score_threshold=0.0, mask_threshold=0.45)
        assert len(instances) == 0
        assert instances.boxes.shape == (0, 4)
        assert instances.image_size == (48, 64)


def test_batch_mates_do_not_change_an_instance():
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 256, (5, 16, 16)).astype(np.uint8)
    scores, labels = np.linspace(0.9, 0.6, 5).astype(np.float32), np.arange(5, dtype=np.int32)
    letterbox = Letterbox.fit(50, 37, (64, 64))
    together = segment(scores, labels, masks, letterbox, score_threshold=0.1, mask_threshold=0.45)
    for index in range(5):
        assert together.rles[index] == one(masks[index], letterbox).rles[0]


@pytest.mark.parametrize("group", [1, 500])
def test_how_instances_are_grouped_does_not_change_them(monkeypatch, group):
    rng = np.random.default_rng(2)
    masks = rng.integers(0, 256, (9, 16, 16)).astype(np.uint8)
    masks[[0, 4, 8]] = 0
    masks[[3, 5]] = 255  # runs that end with the picture, beside those that begin with it
    outputs = np.linspace(0.9, 0.6, 9).astype(np.float32), np.arange(9, dtype=np.int32), masks
    letterbox = Letterbox.fit(50, 37, (64, 64))
    together = segment(*outputs, letterbox, score_threshold=0.1, mask_threshold=0.45)
    assert together.labels.tolist() == [1, 2, 3, 5, 6, 7]
    monkeypatch.setattr(crossings, "GROUP", group)
    apart = segment(*outputs, letterbox, score_threshold=0.1, mask_threshold=0.45)
    assert apart.rles == together.rles
    assert apart.labels.tolist() == together.labels.tolist()


def test_no_full_size_mask_is_ever_made():
    letterbox = Letterbox.fit(4000, 6000, (640, 640))
    probability = np.zeros((160, 160), np.uint8)
    probability[40:44, 80:84] = 255
    tracemalloc.start()
    instances = one(probability, letterbox)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(instances) == 1
    assert peak < 4000 * 6000 / 20  # bytes; one full-size mask would be 24 million


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": np.zeros(3)}, r"scores is float64 \(3,\); wanted float32"),
        ({"scores": np.zeros((3, 1), np.float32)}, r"scores is float32 \(3, 1\)"),
        ({"scores": np.array([0.1, np.nan, 0.5], np.float32)}, "1 of 3 scores are not finite"),
        ({"scores": np.array([0.1, np.inf, np.nan], np.float32)}, "2 of 3 scores are not finite"),
        ({"labels": np.zeros(3, np.int64)}, "labels is int64"),
        ({"labels": np.zeros(2, np.int32)}, r"labels is int32 \(2,\); wanted int32 \(3,\)"),
        ({"masks": np.zeros((3, 8, 8), np.float32)}, "masks is float32"),
        ({"masks": np.zeros((2, 8, 8), np.uint8)}, r"wanted uint8 \(3, rows, columns\)"),
        ({"masks": np.zeros((3, 8, 9), np.uint8)}, r"masks is uint8 \(3, 8, 9\)"),
        ({"score_threshold": 1.1}, r"score_threshold is 1.1; wanted a number in \[0, 1\]"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"mask_threshold": 0.0}, r"mask_threshold is 0.0; wanted a number in \(0, 1\)"),
        ({"mask_threshold": float("nan")}, "mask_threshold is nan"),
        ({"max_instances": 0}, "max_instances is 0; wanted at least 1"),
    ],
)
def test_wrong_input_is_refused_in_words(change, words):
    arguments = {
        "scores": np.zeros(3, np.float32),
        "labels": np.zeros(3, np.int32),
        "masks": np.zeros((3, 8, 8), np.uint8),
        "letterbox": Letterbox.fit(10, 10, (32, 32)),
        "score_threshold": 0.3,
        "mask_threshold": 0.45,
    }
    with pytest.raises(ValueError, match=words):
        segment(**(arguments | change))
