"""Ground truth fed back as predictions reaches AP 1: through loader, published test rule and COCO's evaluator."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sparseinst.data import CocoInstances, Sample
from sparseinst.data.short_side import short_side_size
from sparseinst.predict import reference_instances
from sparseinst_runtime.coco import mask_ap
from sparseinst_runtime.contract import STRIDE
from sparseinst_runtime.instances import Instances

CATEGORIES = (3, 7, 44, 90)  # with gaps, and not in this order in the file
SIZES = {100: (48, 64), 7: (61, 40), 2_000_000_011: (33, 97), 45: (120, 111), 8: (64, 64), 12: (50, 50)}
CROWD_ONLY, EMPTY = 8, 12


def runs(mask: np.ndarray, compressed: bool) -> dict:
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(mask))
        return {"size": list(mask.shape), "counts": rle["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *changes, len(flat)]).tolist()}


def ellipse(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    centre = (int(rng.integers(8, width - 8)), int(rng.integers(8, height - 8)))
    axes = (int(rng.integers(4, width // 3)), int(rng.integers(4, height // 3)))
    return cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, int(rng.integers(180)), 0, 360, 1, -1)


def triangle(height: int, width: int, rng: np.random.Generator) -> list[float]:
    """Corners between pixels, far enough apart to enclose some."""
    x, y = rng.uniform(0, width - 14), rng.uniform(0, height - 14)
    return [x, y, x + rng.uniform(8, 13.5), y + rng.uniform(0, 4), x + rng.uniform(0, 4), y + rng.uniform(8, 13.5)]


def drawn(kind: int, height: int, width: int, rng: np.random.Generator) -> list | dict:
    """A segmentation: one polygon, three of them, run lengths, or compressed run lengths."""
    if kind < 2:
        return [triangle(height, width, rng) for _ in range(1 + 2 * kind)]
    return runs(ellipse(height, width, rng), compressed=kind == 3)


def area(segmentation: list | dict, size: tuple[int, int]) -> float:
    """The number of pixels, as COCO writes it."""
    if isinstance(segmentation, list):
        return float(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))))
    compressed = isinstance(segmentation["counts"], str)
    return float(coco_mask.area(segmentation if compressed else coco_mask.frPyObjects(segmentation, *size)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with every kind of annotation that COCO knows; instances overlap, crowds lie over them."""
    folder, rng = tmp_path_factory.mktemp("truth"), np.random.default_rng(0)
    images, annotations = [], []
    for image_id, (height, width) in SIZES.items():
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
        cv2.imwrite(str(folder / f"{image_id}.png"), np.zeros((height, width, 3), np.uint8))
        kinds = {CROWD_ONLY: [3], EMPTY: []}.get(image_id, [2, *range(4), *range(4)])
        for number, kind in enumerate(kinds):  # the first is a crowd
            shape, category = drawn(kind, height, width, rng), int(rng.choice(CATEGORIES))
            row = {"id": 10 * len(annotations), "image_id": image_id, "category_id": category, "segmentation": shape}
            annotations.append(row | {"iscrowd": int(number == 0), "area": area(shape, (height, width))})
    categories = [{"id": number, "name": f"kind {number}"} for number in CATEGORIES[::-1]]
    raw = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(raw))
    return folder


@pytest.fixture(scope="module")
def dataset(folder) -> CocoInstances:
    return CocoInstances(folder / "instances.json", folder, keep_empty=True)


def as_results(sample: Sample, category_ids) -> list[dict]:
    return [
        {"image_id": sample.image_id, "category_id": category_ids[k], "score": 0.9, "segmentation": runs(m, True)}
        for m, k in zip(sample.masks, sample.labels, strict=True)
    ]


def test_masks_of_the_loader_are_the_truth_of_the_evaluator(folder, dataset):
    samples = [dataset.sample(index) for index in range(len(dataset))]
    results = [row for sample in samples for row in as_results(sample, dataset.category_ids)]
    assert len(results) == dataset.instance_count == 4 * 8
    summary = mask_ap(folder / "instances.json", results)
    assert (summary.ap, summary.ap50, summary.ap75, summary.ar100) == pytest.approx((1, 1, 1, 1))
    assert (summary.ap_small, summary.ap_medium) == pytest.approx((1, 1))
    assert summary.ap_large == -1


def test_labels_one_category_further_are_all_wrong(folder, dataset):
    shifted = [*dataset.category_ids[1:], dataset.category_ids[0]]
    results = [row for i in range(len(dataset)) for row in as_results(dataset.sample(i), shifted)]
    assert mask_ap(folder / "instances.json", results).ap < 0.1


def test_what_is_found_inside_a_crowd_is_no_false_alarm(folder, dataset):
    """COCO ignores it where the class is the crowd's own; as another class it costs precision."""
    raw = json.loads((folder / "instances.json").read_text())
    crowd = next(a for a in raw["annotations"] if a["iscrowd"] and a["image_id"] == CROWD_ONLY)
    other = next(c for c in CATEGORIES if c != crowd["category_id"])
    results = [row for i in range(len(dataset)) for row in as_results(dataset.sample(i), dataset.category_ids)]
    extra = {key: crowd[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.99}
    assert mask_ap(raw, [*results, extra]).ap == pytest.approx(1)
    assert mask_ap(raw, [*results, extra | {"category_id": other}]).ap < 0.99


def test_the_truth_as_answer_of_the_network_reaches_one_by_the_published_rule(folder, dataset):
    """At four times the size a cell of the mask map is a pixel: nothing may be lost, shifted or mixed up on the way."""
    results = []
    for index in range(len(dataset)):
        sample = dataset.sample(index)
        original = sample.image.shape[:2]
        scaled = short_side_size(*original, 4 * min(original))
        assert scaled == (4 * original[0], 4 * original[1])
        found = reference_instances(perfect_outputs(sample, scaled), scaled, original, mask_threshold=0.45)
        assert isinstance(found, Instances)
        results += found.to_coco(sample.image_id, dataset.category_ids)
    assert len(results) == dataset.instance_count
    summary = mask_ap(folder / "instances.json", results)
    assert summary.ap == pytest.approx(1)


def perfect_outputs(sample: Sample, scaled: tuple[int, int], queries: int = 12) -> dict[str, torch.Tensor]:
    """Sure logits of every instance, in random order among queries that see nothing; the padding belongs to all."""
    height, width = (-(-side // STRIDE) * STRIDE // 4 for side in scaled)
    order = np.random.default_rng(sample.image_id).permutation(queries)[: len(sample.labels)]
    logits = np.full((queries, len(CATEGORIES)), -20.0)
    masks = np.full((queries, height, width), -20.0)
    logits[order, sample.labels] = 20
    masks[order] = 20
    masks[order, : scaled[0] // 4, : scaled[1] // 4] = 40.0 * sample.masks - 20
    raw = {"pred_logits": logits, "pred_scores": np.full((queries, 1), 20.0), "pred_masks": masks}
    return {name: torch.from_numpy(value) for name, value in raw.items()}
