"""Small networks and the scenes as a data set."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst_runtime import Contract


@pytest.fixture
def small_config() -> NetworkConfig:
    """A network that builds and runs in milliseconds."""
    decoder = DecoderConfig(classes=3, instances=7, groups=2, channels=16, depth=1, kernel_dim=8)
    return NetworkConfig("mobilenet_v2", EncoderConfig(16), decoder)


@pytest.fixture
def small_model(small_config) -> SparseInst:
    torch.manual_seed(0)
    return SparseInst(small_config).eval()


@pytest.fixture
def small_contract() -> Contract:
    return Contract(classes=("a", "b", "c"), category_ids=(2, 5, 9), input_size=(64, 64), max_instances=7)


def _run_lengths(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


@pytest.fixture
def run_lengths() -> Callable[[np.ndarray], dict]:
    """A mask [H,W] as COCO's compressed run lengths, ready for JSON."""
    return _run_lengths


@pytest.fixture(scope="session")
def imperfect() -> Callable[..., tuple[dict, list[dict]]]:
    """Makes annotations and results with all that goes wrong in practice.

    Ellipses of all sizes that hide each other, crowds, gaps in all ids, pictures without instances or without results,
    a class that never occurs; results that are shifted, of the wrong class, doubled, or of nothing, with equal scores
    among them. Where annotations are given, only the results are made, of these.
    """

    def make(seed: int, pictures: int = 30, annotations: dict | None = None) -> tuple[dict, list[dict]]:
        rng = np.random.default_rng(seed)
        dataset = annotations or _ellipses(rng, pictures)
        categories = [category["id"] for category in dataset["categories"]]
        sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
        results = []

        def found(image_id: int, mask: np.ndarray, category_id: int) -> None:
            x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()
            result = {"image_id": image_id, "category_id": category_id, "score": round(float(rng.random()), 2)}
            results.append({**result, "bbox": [x, y, w, h], "segmentation": _run_lengths(mask)})

        for row in dataset["annotations"]:
            for _ in range(rng.choice(3, p=[0.15, 0.6, 0.25])):
                mask = coco_mask.decode(row["segmentation"])
                reach = max(1, int(rng.choice([0.02, 0.1, 0.4]) * np.sqrt(row["area"])))
                mask = np.roll(mask, rng.integers(-reach, reach + 1, 2), (0, 1))
                found(
                    row["image_id"], mask, rng.choice(categories).item() if rng.random() < 0.2 else row["category_id"]
                )
        for image_id in rng.choice(list(sizes), len(sizes) // 2):
            found(image_id.item(), _ellipse(rng, *sizes[image_id.item()]), rng.choice(categories[:3]).item())
        return dataset, results

    return make


def _ellipse(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    axes = tuple(int(side) for side in rng.choice([8, 30, 90]) * rng.uniform(0.4, 1, 2))
    cv2.ellipse(mask, (int(rng.integers(width)), int(rng.integers(height))), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return mask


def _ellipses(rng: np.random.Generator, pictures: int) -> dict:
    images = [{"id": 7 + 3 * n, "height": 240, "width": 320, "file_name": f"{n}.jpg"} for n in range(pictures)]
    rows: list[dict] = []
    for image in images:
        hidden = np.zeros((240, 320), np.uint8)
        for _ in range(rng.integers(0, 7)):
            mask = _ellipse(rng, 240, 320) & ~hidden
            hidden |= mask
            if mask.any():
                row = {"id": 5 * len(rows), "image_id": image["id"], "category_id": int(rng.choice([2, 3, 8, 9]))}
                x, y, w, h = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist()
                area, crowd = int(mask.sum()), int(rng.random() < 0.1)
                rows.append(row | {"segmentation": _run_lengths(mask), "area": area, "iscrowd": crowd})
                rows[-1]["bbox"] = [x, y, w, h]
    categories = [{"id": n, "name": f"class {n}"} for n in (2, 3, 8, 9, 40)]
    return {"images": images, "annotations": rows, "categories": categories}
