"""What counts as the same instance, and that every figure out of tolerance is named."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst_export.agreement import (
    Answer,
    InstanceAgreement,
    Pair,
    Seen,
    TensorAgreement,
    answer,
    pairs,
    served_answers,
)
from sparseinst_export.disagreement import draw_pair
from sparseinst_export.verification import PRECISIONS, Comparison, Tolerances, Verification
from sparseinst_runtime import Contract, Instances, Letterbox

CONTRACT = Contract(("ant", "bee", "fly"), (1, 4, 9), input_size=(64, 64), max_instances=4)
SIZE = (40, 60)


def found(*instances, queries=None) -> Answer:
    """An answer of (label, score, (top, bottom, left, right)) in a picture of `SIZE`."""
    masks = []
    for _, _, (top, bottom, left, right) in instances:
        mask = np.zeros(SIZE, np.uint8, order="F")
        mask[top:bottom, left:right] = 1
        masks.append(coco_mask.encode(mask)["counts"])
    labels, scores = [row[0] for row in instances], [row[1] for row in instances]
    boxes = np.zeros((len(instances), 4), np.float32)
    kept = Instances(np.array(scores, np.float32), np.array(labels, np.int32), boxes, tuple(masks), SIZE)
    return Answer(kept, None if queries is None else np.array(queries, np.int32))


def outputs(seed: int) -> list[np.ndarray]:
    """The contract's outputs of one picture, at random."""
    random = np.random.default_rng(seed)
    side = CONTRACT.mask_size[0]
    return [
        random.uniform(0.1, 0.9, (1, 4)).astype(np.float32),
        random.integers(0, 3, (1, 4), dtype=np.int32),
        random.integers(0, 256, (1, 4, side, side), dtype=np.uint8),
    ]


def agreement(expected: Answer, got: Answer, threshold: float = 0.3) -> InstanceAgreement:
    gathered = InstanceAgreement()
    gathered.add(7, expected, got, threshold)
    return gathered


ONE, SAME = (0, 0.9, (5, 25, 5, 25)), (1, 0.6, (5, 25, 5, 26))


def test_an_answer_knows_the_query_of_each_instance():
    scores, labels, masks = outputs(1)
    masks[0, 2] = 0  # without a pixel it is dropped
    got = answer((scores, labels, masks), Letterbox.fit(*SIZE, CONTRACT.input_size), CONTRACT)
    order = [query for query in np.argsort(-scores[0]) if query != 2]
    assert got.queries.tolist() == order
    assert got.instances.labels.tolist() == labels[0, order].tolist()
    assert np.array_equal(got.instances.scores, scores[0, order])


def test_queries_pair_whatever_masks_and_order_say():
    one = found(ONE, SAME, queries=[3, 1])
    other = found(SAME, (2, 0.2, (30, 35, 40, 50)), (0, 0.1, (0, 5, 0, 5)), queries=[1, 3, 0])
    assert sorted(pairs(one, other), key=str) == sorted([(0, 1), (1, 0), (None, 2)], key=str)


def test_without_queries_masks_pair_and_scores_part_twins():
    """Two queries may give one object nearly the same mask under two labels."""
    one, other = found(ONE, SAME), found((0, 0.61, (5, 25, 5, 25)), (1, 0.89, (5, 25, 5, 26)))
    assert sorted(pairs(one, other)) == [(0, 1), (1, 0)]
    apart = found((0, 0.9, (30, 40, 50, 60)))
    assert sorted(pairs(one, apart), key=str) == sorted([(0, None), (1, None), (None, 0)], key=str)
    assert pairs(found(), found(ONE)) == [(None, 0)]
    assert pairs(found(), found()) == []


def test_an_answer_agrees_with_itself():
    figures = agreement(found(ONE, SAME), found(ONE, SAME)).figures()
    expected = {"instances": 2, "one_sided": 0, "label_agreement": 1, "iou_min": 1, "iou_p01": 1, "iou_median": 1}
    assert figures == expected


def test_what_only_one_side_sees_counts_against_both():
    for expected, got in ((found(ONE), found()), (found(), found(ONE))):
        gathered = agreement(expected, got)
        assert gathered.figures()["label_agreement"] == gathered.figures()["iou_min"] == 0
        assert gathered.one_sided == 1
        assert None in (gathered.worst.expected, gathered.worst.got)


def test_a_score_that_crosses_the_threshold_is_no_other_instance():
    low, high = ((0, score, ONE[2]) for score in (0.299, 0.301))
    figures = agreement(found(high), found(low)).figures()
    assert (figures["instances"], figures["one_sided"], figures["label_agreement"], figures["iou_min"]) == (1, 1, 1, 1)
    assert agreement(found(low), found(low)).figures()["label_agreement"] is None


def test_the_worst_pair_is_another_label_before_another_outline():
    expected = found(ONE, (0, 0.8, (30, 40, 30, 50)), queries=[0, 1])
    got = found((0, 0.9, (5, 25, 5, 20)), (2, 0.8, (30, 40, 30, 50)), queries=[0, 1])
    gathered = agreement(expected, got)
    assert sorted(gathered.overlaps) == [0.75, 1.0]
    assert (gathered.worst.got.label, gathered.worst.iou) == (2, 1.0)


def test_tensor_figures_are_those_of_all_pictures_at_once():
    gathered = TensorAgreement()
    for seed in range(3):
        gathered.add(outputs(seed), outputs(seed + 10), CONTRACT.mask_threshold)
    one, other = ([np.concatenate(rows) for rows in zip(*map(outputs, seeds), strict=True)] for seeds in
                  (range(3), range(10, 13)))  # fmt: skip
    scores = np.abs(one[0] - other[0])
    steps = np.abs(one[2].astype(int) - other[2])
    figures = gathered.figures()
    assert figures["score_max"] == pytest.approx(scores.max())
    assert figures["score_mean"] == pytest.approx(scores.mean(), rel=1e-5)
    assert (figures["mask_max"], figures["mask_mean"]) == (steps.max(), pytest.approx(steps.mean()))
    assert figures["mask_share"] == pytest.approx((steps > 1).mean())


def test_not_a_number_stays_in_the_figures():
    gathered = TensorAgreement()
    broken = outputs(0)
    broken[0][0, 1] = np.nan
    gathered.add(outputs(0), broken, CONTRACT.mask_threshold)
    gathered.add(outputs(1), outputs(1), CONTRACT.mask_threshold)
    assert np.isnan(gathered.figures()["score_max"])
    comparison = Comparison("it", "PyTorch", gathered, agreement(found(ONE), found(ONE)), 0.5, 0.0, Tolerances())
    assert len(comparison.failures) == 1
    assert "scores differ by up to nan" in comparison.failures[0]


BEYOND = {
    "ap": "mask AP differs by -0.3000",
    "labels": "label agreement is 0.0000",
    "iou": "median mask IoU is 0.7500",
    "score": "scores differ by up to",
    "mask_share": "of the mask values differ by more than 1/255",
}


@pytest.mark.parametrize("name", BEYOND)
def test_each_tolerance_names_its_own_figure(name):
    tensors = TensorAgreement()
    tensors.add(outputs(0), outputs(1), CONTRACT.mask_threshold)
    instances = agreement(found(ONE, queries=[0]), found((1, 0.9, (5, 25, 5, 20)), queries=[0]))
    lax = {"ap": 1.0, "labels": 0.0, "iou": 0.0, "score": 1.0, "mask_share": 1.0}
    assert lax.keys() == {field.name for field in fields(Tolerances)} == BEYOND.keys()

    def failures(**allowed: float) -> list[str]:
        return Comparison("it", "PyTorch", tensors, instances, 0.2, -0.3, Tolerances(**allowed)).failures

    assert failures(**lax) == []
    (sentence,) = failures(**(lax | {name: getattr(PRECISIONS["fp16"], name)}))
    assert sentence.startswith("it against PyTorch: ")
    assert BEYOND[name] in sentence


def test_nothing_to_compare_does_not_hold():
    comparison = Comparison("it", "PyTorch", None, InstanceAgreement(), 0.0, 0.0, Tolerances())
    assert "no instance" in comparison.failures[0]
    empty = Verification(3, 0.0, (), {})
    assert any("no engine" in sentence for sentence in empty.failures)


def test_served_results_are_read_as_they_were_written():
    own = found(ONE, SAME)
    rows = own.instances.to_coco(5, CONTRACT.category_ids)
    answers = served_answers(rows[::-1], {5: SIZE, 6: SIZE}, {5, 6}, CONTRACT)
    assert answers[5].queries is None
    assert np.array_equal(answers[5].instances.scores, own.instances.scores)
    assert answers[5].instances.labels.tolist() == [0, 1]
    assert answers[5].instances.rles == own.instances.rles
    assert len(answers[6].instances) == 0
    assert served_answers(rows, {6: SIZE}, {5, 6}, CONTRACT).keys() == {6}, "pictures beyond a limit are left out"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": 99}, "picture 99 with category 1"),
        ({"category_id": 3}, "category 3"),
        ({"segmentation": {"size": [60, 40], "counts": "x"}}, r"\(60, 40\) in picture 5, which has \(40, 60\)"),
        ({"segmentation": [[0, 0, 4, 0, 4, 4]]}, "not COCO results with compressed run lengths"),
        ({"segmentation": {"size": [40, 60], "counts": [2400]}}, "not COCO results with compressed run lengths"),
    ],
)
def test_foreign_results_are_refused_in_words(change, words):
    rows = found(ONE).instances.to_coco(5, CONTRACT.category_ids)
    with pytest.raises(ValueError, match=words):
        served_answers([rows[0] | change], {5: SIZE}, {5}, CONTRACT)
    with pytest.raises(ValueError, match="not COCO results"):
        served_answers({"annotations": rows}, {5: SIZE}, {5}, CONTRACT)


@pytest.mark.parametrize("size", [(40, 60), (300, 20), (20, 900)])
def test_the_drawing_shows_each_side_in_its_own_colour(size):
    masks = np.zeros((2, *size), np.uint8)
    masks[0, 5:15, 5:12] = masks[1, 5:15, 9:16] = 1
    sides = [Seen(k, 0.5, coco_mask.encode(np.asfortranarray(mask))["counts"]) for k, mask in enumerate(masks)]
    picture = np.full((*size, 3), 90, np.uint8)
    labels = ("PyTorch", "it")
    both = draw_pair(picture, Pair(1, *sides, 0.3), labels, ("élan", "bee"), "p.jpg")
    alone = draw_pair(picture, Pair(1, sides[0], None, 0.0), labels, ("élan", "bee"), "p.jpg")
    assert both.shape == alone.shape

    def share(drawing: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((drawing[70:, -470:] == colour).all(axis=-1).mean())  # the panel of differences

    assert share(both, (0, 114, 178)) == pytest.approx(share(both, (213, 94, 0)), rel=0.1)
    assert share(both, (0, 114, 178)) > 0.01
    assert share(alone, (213, 94, 0)) == 0 < share(alone, (0, 114, 178))
