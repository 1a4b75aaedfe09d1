"""What counts as the same network: a pixel at the mask threshold may move its score, nothing else may."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparseinst.network.head import score
from sparseinst_export.verify import FP16, SCORE_TOLERANCE, ExportError, aligned, compare, smooth_pictures

THRESHOLD = 0.45
ROUNDING = 1e-6  # two float32 engines apart, on one probability


def outputs(probabilities: np.ndarray) -> list[np.ndarray]:
    """The contract's outputs of one picture, scored by the network's own head; probabilities [N,m,m]."""
    n = len(probabilities)
    logits = {
        "pred_logits": torch.full((1, n, 2), 2.0, dtype=torch.float64),
        "pred_scores": torch.full((1, n, 1), 3.0, dtype=torch.float64),
        "pred_masks": torch.from_numpy(probabilities).double().logit()[None],
    }
    scores, labels, found = score(logits, THRESHOLD)
    return [scores.numpy(), labels.int().numpy(), (found * 255).round().to(torch.uint8).numpy()]


def blobs(inside: float, fence: int, size: int = 16) -> np.ndarray:
    """One mask [1,m,m]: half of it `inside`, the rest nearly 0, and `fence` pixels just above the threshold."""
    mask = np.full((1, size, size), 0.01)
    mask[:, : size // 2] = inside
    mask[0, -1, :fence] = THRESHOLD + ROUNDING
    return mask


@pytest.mark.parametrize("fence", [1, 3, 16])
@pytest.mark.parametrize("inside", [0.5, 0.9, 0.999])
def test_a_pixel_that_crosses_the_threshold_passes(inside, fence):
    before = blobs(inside, fence)
    after = np.where(np.abs(before - THRESHOLD) < 2 * ROUNDING, THRESHOLD - ROUNDING, before)
    difference = compare(outputs(before), outputs(after), THRESHOLD)
    assert difference.score > SCORE_TOLERANCE, "the jump must be worth a rule"
    assert difference.holds, str(difference)


def test_a_mask_of_fence_pixels_alone_may_vanish():
    before = np.full((1, 8, 8), 0.01)
    before[0, 0, :3] = THRESHOLD + ROUNDING
    difference = compare(outputs(before), outputs(before - 2 * ROUNDING), THRESHOLD)
    assert difference.score > 0.3
    assert difference.holds


@pytest.mark.parametrize("error", [1e-3, -1e-3])
def test_a_score_error_without_fence_pixels_fails(error):
    """Also where another instance of the picture has fence pixels to spare."""
    expected = outputs(np.concatenate([blobs(0.9, 0), blobs(0.9, 16)]))
    assert compare(expected, expected, THRESHOLD).holds
    got = [expected[0].copy(), *expected[1:]]
    got[0][0, 0] += error
    difference = compare(expected, got, THRESHOLD)
    assert difference.score == pytest.approx(1e-3, rel=1e-3)
    assert not difference.holds
    assert "beyond what pixels at the mask threshold move" in str(difference)


def test_fence_pixels_excuse_no_more_than_they_move():
    expected = outputs(blobs(0.9, 1))
    got = [expected[0] + 0.01, *expected[1:]]
    assert not compare(expected, got, THRESHOLD).holds


def test_two_steps_of_a_mask_fail():
    expected = outputs(blobs(0.9, 0))
    got = [*expected[:2], expected[2].copy()]
    got[2][0, 0, 0, 0] += 2
    assert not compare(expected, got, THRESHOLD).holds


def test_not_a_number_never_passes():
    """A comparison with NaN is false whichever way it is asked."""
    expected = outputs(np.concatenate([blobs(0.9, 0), blobs(0.9, 2)]))
    broken = [np.full_like(expected[0], np.nan), *expected[1:]]
    assert compare(expected, expected, THRESHOLD).holds
    assert not compare(expected, broken, THRESHOLD).holds
    assert not compare(broken, expected, THRESHOLD).holds
    assert not compare(broken, broken, THRESHOLD).holds


def test_other_shapes_are_refused_in_words():
    expected = outputs(blobs(0.9, 0))
    with pytest.raises(ExportError, match=r"labels came as int64 \(1, 1\); wanted int32 \(1, 1\)"):
        compare(expected, [expected[0], expected[1].astype(np.int64), expected[2]], THRESHOLD)


def test_smooth_pictures_are_the_same_for_the_same_seed():
    pictures = smooth_pictures(2, (64, 64), seed=3)
    assert (pictures.shape, pictures.dtype) == ((2, 64, 64, 3), np.uint8)
    assert np.array_equal(pictures, smooth_pictures(2, (64, 64), seed=3))
    assert not np.array_equal(pictures, smooth_pictures(2, (64, 64), seed=4))


def test_half_precision_is_held_to_its_own_tolerance():
    expected = outputs(np.concatenate([blobs(0.9, 0)] * 20))
    got = [expected[0] * (1 + FP16.score / 2), expected[1].copy(), expected[2].copy()]
    got[1][0, 0] = 1  # one of 20
    got[2][0, 0, 0] = got[2][0, 0, 0] - FP16.mask_steps
    assert compare(expected, got, THRESHOLD, FP16).holds
    assert not compare(expected, got, THRESHOLD).holds
    for output, wrong in enumerate((got[0] * 1.1, got[1] + 1, got[2] - 1)):
        beyond = [*got[:output], wrong, *got[output + 1 :]]
        assert not compare(expected, beyond, THRESHOLD, FP16).holds


def test_a_pixel_may_cross_the_threshold_by_more_than_a_step_in_half_precision():
    before, after = blobs(0.9, 8), blobs(0.9, 8)
    before[0, -1, :5], after[0, -1, :5] = THRESHOLD + 0.01, THRESHOLD - 0.01
    difference = compare(outputs(before), outputs(after), THRESHOLD, FP16)
    assert difference.score > FP16.score, "the jump must be worth a rule"
    assert difference.holds, str(difference)


def test_the_best_are_found_among_all_whatever_the_order_of_equal_scores():
    rng = np.random.default_rng(1)
    scores = np.array([[0.0, 0.9, 0.0, 0.5, 0.5, 0.0]], np.float32)
    labels, masks = np.array([[0, 1, 2, 3, 4, 5]], np.int32), rng.integers(0, 256, (1, 6, 4, 4), np.uint8)
    for order in ([1, 3, 4, 0], [1, 4, 3, 5], [1, 4, 3, 2]):
        got = [part[:, order] for part in (scores, labels, masks)]
        difference = compare(aligned([scores, labels, masks], got), got, 0.45)
        assert difference.holds, order
        assert difference.score == 0


@pytest.mark.parametrize("order", [[3, 4, 0, 2], [1, 3, 0, 2], [1, 3, 3, 4]])
def test_leaving_out_one_of_the_best_or_repeating_one_is_seen(order):
    rng = np.random.default_rng(1)
    scores = np.array([[0.0, 0.9, 0.0, 0.5, 0.4, 0.0]], np.float32)
    labels, masks = np.array([[0, 1, 2, 3, 4, 5]], np.int32), rng.integers(0, 256, (1, 6, 4, 4), np.uint8)
    got = [part[:, order] for part in (scores, labels, masks)]
    assert not compare(aligned([scores, labels, masks], got), got, 0.45).holds
