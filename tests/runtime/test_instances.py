from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst_runtime.instances import Instances


def of_masks(masks: np.ndarray, boxes: list[list[float]]) -> Instances:
    rles = tuple(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in masks)
    k = len(masks)
    scores = np.linspace(0.9, 0.5, k).astype(np.float32)
    return Instances(scores, np.arange(k, dtype=np.int32), np.array(boxes, np.float32), rles, masks.shape[1:])


@pytest.fixture
def two() -> tuple[np.ndarray, Instances]:
    masks = np.zeros((2, 5, 7), bool)
    masks[0, 1:4, 2:6] = True
    masks[1, :, 0] = True
    return masks, of_masks(masks, [[2, 1, 6, 4], [0, 0, 1, 5]])


def test_masks_come_back_as_they_were_encoded(two):
    masks, instances = two
    assert len(instances) == 2
    assert instances.masks().dtype == instances.mask(0).dtype == np.bool_
    np.testing.assert_array_equal(instances.masks(), masks)
    np.testing.assert_array_equal(instances.mask(1), masks[1])


def test_no_instances_still_know_the_picture():
    none = Instances(np.empty(0, np.float32), np.empty(0, np.int32), np.empty((0, 4), np.float32), (), (5, 7))
    assert len(none) == 0
    assert none.masks().shape == (0, 5, 7)
    assert none.to_coco(1, [1]) == []


def test_coco_results_are_json_with_boxes_as_width_and_height(two):
    masks, instances = two
    results = json.loads(json.dumps(instances.to_coco(42, [10, 30])))
    assert [r["image_id"] for r in results] == [42, 42]
    assert [r["category_id"] for r in results] == [10, 30]
    assert [r["bbox"] for r in results] == [[2, 1, 4, 3], [0, 0, 1, 5]]
    assert results[0]["score"] == pytest.approx(0.9)
    for result, mask in zip(results, masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)
        assert coco_mask.toBbox(result["segmentation"]).tolist() == result["bbox"]


def test_parts_that_do_not_fit_together_are_refused(two):
    _, whole = two
    with pytest.raises(ValueError, match=r"2 masks, scores \(1,\)"):
        Instances(whole.scores[:1], whole.labels, whole.boxes, whole.rles, whole.image_size)
    with pytest.raises(ValueError, match=r"boxes \(2, 3\)"):
        Instances(whole.scores, whole.labels, whole.boxes[:, :3], whole.rles, whole.image_size)
    with pytest.raises(ValueError, match="mask 1 of 2 has no run lengths"):
        Instances(whole.scores, whole.labels, whole.boxes, (whole.rles[0], b""), whole.image_size)


def test_run_lengths_beyond_the_picture_are_an_error(two):
    _, whole = two
    broken = Instances(whole.scores, whole.labels, whole.boxes, (whole.rles[0], b"1" * 50), whole.image_size)
    with pytest.raises(ValueError, match="Invalid RLE"):
        broken.mask(1)
