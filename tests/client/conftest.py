"""The server that lies, and hand-made replies: what one that keeps the contract sends, for tests to bend."""

from __future__ import annotations

from collections.abc import Iterator

import hostile
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst_runtime import Contract
from sparseinst_runtime.instances import Instances


@pytest.fixture(scope="session")
def urls() -> Iterator[dict[str, str]]:
    """The server that lies, by protocol."""
    with hostile.attacker() as urls:
        yield urls


@pytest.fixture(params=["grpc", "http"])
def url(request, urls) -> str:
    """The same, once for each protocol."""
    return urls[request.param]


@pytest.fixture
def contract():
    return Contract(classes=("bear", "deer", "sea turtle"), category_ids=(1, 2, 7), max_instances=10)


def rectangle(height, width, x1, y1, x2, y2):
    """The COCO run lengths of a filled rectangle, in pixel edges."""
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return coco_mask.encode(mask)["counts"]


@pytest.fixture
def instances():
    """Three rectangles in a picture of 120 rows and 160 columns; two overlap, one touches the borders."""
    boxes = [(10, 20, 70, 90), (50, 60, 120, 100), (0, 0, 160, 8)]
    return Instances(
        scores=np.array([0.9, 0.75, 0.4], np.float32),
        labels=np.array([0, 2, 1], np.int32),
        boxes=np.array(boxes, np.float32),
        rles=tuple(rectangle(120, 160, *box) for box in boxes),
        image_size=(120, 160),
    )


@pytest.fixture
def reply(instances):
    """A reply to two pictures of 120x160: three instances in the first, none in the second."""
    masks = np.full((2, 3), b"", np.object_)
    masks[0] = instances.rles
    labels = np.full((2, 3), -1, np.int32)
    labels[0] = instances.labels
    return {
        "scores": np.stack([instances.scores, np.zeros(3, np.float32)]),
        "labels": labels,
        "boxes": np.stack([instances.boxes, np.zeros((3, 4), np.float32)]),
        "masks": masks,
        "image_size": np.array([[120, 160], [120, 160]], np.int32),
        "count": np.array([[3], [0]], np.int32),
    }
