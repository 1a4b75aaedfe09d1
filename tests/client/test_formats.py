"""What Instances give to other tools is what went in: read back by those tools' readers, or by our own."""

from __future__ import annotations

import json
import pickle
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from sparseinst.datasets.convert import convert
from sparseinst_runtime.instances import Instances

CLASSES = ("bear", "deer", "sea turtle")
HEIGHT, WIDTH = 90, 130


def of_masks(masks, labels=None):
    """Instances with these masks, bool [K, H, W], and labels counting up."""
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    boxes = coco_mask.toBbox(rles).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        np.linspace(0.9, 0.4, len(masks)).astype(np.float32),
        np.arange(len(masks), dtype=np.int32) % len(CLASSES) if labels is None else np.array(labels, np.int32),
        boxes,
        tuple(rle["counts"] for rle in rles),
        masks.shape[1:],
    )


def hard_masks(seed=0):
    """A ring with an island in it, two parts, small ones, a line, the whole picture, and ragged blobs."""
    masks = np.zeros((14, HEIGHT, WIDTH), np.uint8)
    cv2.circle(masks[0], (60, 45), 40, 1, -1)
    cv2.circle(masks[0], (60, 45), 25, 0, -1)
    cv2.circle(masks[0], (60, 45), 8, 1, -1)
    masks[1, 5:30, 5:40] = masks[1, 60:85, 90:125] = 1
    masks[2, 0, 0] = 1
    masks[3, 40:43, 50:53] = 1
    masks[4, 20, 10:100] = 1
    masks[5] = 1
    masks[6, 10:14, 10:14] = masks[6, 14:18, 14:18] = 1  # they meet at a corner
    masks[7, 30:50, 30:50] = 1
    masks[7, 35:37, 35:45] = masks[7, 40:42, 35:45] = 0
    generator = np.random.default_rng(seed)
    for mask in masks[8:]:
        noise = cv2.GaussianBlur(generator.normal(size=(HEIGHT, WIDTH)), (0, 0), generator.uniform(1, 6))
        mask[noise > noise.std() * 0.8] = 1
    return masks.astype(bool)


@pytest.fixture(scope="module")
def hard():
    return of_masks(hard_masks())


@pytest.fixture
def data_set(tmp_path):
    """A folder with a picture of the masks' size in images/, and the names of the classes."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def assert_same(conversion, instances):
    """Every instance came back with its class and a mask of IoU 0.95 at least."""
    annotations = conversion.dataset["annotations"]
    assert conversion.faults == ()
    assert [row["category_id"] - 1 for row in annotations] == instances.labels.tolist()
    for index, row in enumerate(annotations):
        read = row["segmentation"]
        rle = read if isinstance(read, dict) else coco_mask.merge(coco_mask.frPyObjects(read, HEIGHT, WIDTH))
        mask, wanted = coco_mask.decode(rle).astype(bool), instances.mask(index)
        iou = (mask & wanted).sum() / (mask | wanted).sum()
        assert iou >= 0.95, (index, iou)


def test_yolo_is_read_back(hard, data_set):
    (data_set / "labels").mkdir()
    (data_set / "labels" / "a.txt").write_text(hard.to_yolo())
    assert_same(convert("yolo-seg", data_set), hard)


def test_labelme_is_read_back(hard, data_set):
    document = hard.to_labelme("a.jpg", CLASSES)
    (data_set / "images" / "a.json").write_text(json.dumps(document))
    classes = data_set / "classes.txt"
    assert_same(convert("labelme", data_set / "images", classes=classes), hard)


def test_coco_is_read_back(hard, tmp_path):
    truth = {
        "images": [{"id": 4, "height": HEIGHT, "width": WIDTH, "file_name": "a.jpg"}],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in zip((1, 2, 7), CLASSES, strict=True)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(hard.to_coco(4, (1, 2, 7))))
    found = COCO(tmp_path / "truth.json").loadRes(str(tmp_path / "results.json"))
    for index, row in enumerate(found.loadAnns(found.getAnnIds(imgIds=[4]))):
        np.testing.assert_array_equal(found.annToMask(row).astype(bool), hard.mask(index))


def test_supervision_has_masks_boxes_scores_and_names(hard):
    detections = hard.to_supervision(CLASSES)
    np.testing.assert_array_equal(np.asarray(detections.mask, bool), hard.masks())
    np.testing.assert_array_equal(detections.xyxy, hard.boxes)
    np.testing.assert_array_equal(detections.confidence, hard.scores)
    assert detections.data["class_name"].tolist() == [CLASSES[label] for label in hard.labels]
    assert len(hard[:0].to_supervision(CLASSES)) == 0


@pytest.mark.parametrize("package", ["supervision", "fiftyone"])
def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(package, hard, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        getattr(hard, f"to_{package}")(CLASSES)


def test_polygons_without_tolerance_fill_exactly_the_mask(hard):
    for index in range(len(hard)):
        # Eightfold, since OpenCV fills the pixels under an outline, too; then only the pixels' centres count.
        filled = np.zeros((HEIGHT * 8, WIDTH * 8), np.uint8)
        for part in hard.polygons(index):
            assert part.dtype == np.float32
            cv2.fillPoly(filled, [np.round(part * 8).astype(np.int32)], 1)
        np.testing.assert_array_equal(filled[4::8, 4::8].astype(bool), hard.mask(index), err_msg=str(index))


def inside(corners, height, width):
    """Which pixels have their centre inside a polygon, by the even-odd rule: bridges are crossed twice."""
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    mask = np.zeros((height, width), bool)
    for row in range(height):
        y = row + 0.503  # beside the centre, where no corner is
        hit = (y0 <= y) != (y1 <= y)
        crossed = np.sort(x0[hit] + (y - y0[hit]) / (y1[hit] - y0[hit]) * (x1[hit] - x0[hit]))
        mask[row] = np.searchsorted(crossed, np.arange(width) + 0.507) % 2
    return mask


def test_noise_with_thousands_of_holes_and_parts_loses_no_pixel():
    noise = of_masks(np.random.default_rng(0).random((2, 200, 300)) < np.array([0.5, 0.05])[:, None, None])
    for index, line in enumerate(noise.to_yolo(tolerance=0).splitlines()):
        corners = np.array(line.split()[1:], np.float64).reshape(-1, 2) * [300, 200]
        assert len(corners) > 5_000
        assert (inside(corners, 200, 300) != noise.mask(index)).mean() < 1e-3


def test_polygons_with_a_tolerance_have_fewer_corners(hard):
    corners = {tolerance: sum(map(len, hard.polygons(0, tolerance))) for tolerance in (0.0, 0.5, 2.0)}
    assert corners[0.0] > 2 * corners[0.5] > 2 * corners[2.0] >= 6
    with pytest.raises(ValueError, match="at least 0"):
        hard.polygons(0, -1.0)


def test_parts_of_a_mask_are_one_instance_everywhere(hard):
    assert len(hard.polygons(1)) == 2
    groups = [shape["group_id"] for shape in hard[1].to_labelme("a.jpg", CLASSES)["shapes"]]
    assert groups == [0, 0]
    assert hard[1].to_yolo().count("\n") == 1


def test_choosing_is_numpys(hard):
    even = hard[np.arange(len(hard)) % 2 == 0]
    for chosen in (even, hard[::2], hard[list(range(0, len(hard), 2))]):
        np.testing.assert_array_equal(chosen.scores, hard.scores[::2])
        np.testing.assert_array_equal(chosen.masks(), hard.masks()[::2])
    assert hard[-1].rles == hard.rles[-1:]
    assert hard[[]].masks().shape == (0, HEIGHT, WIDTH)
    assert [len(one) for one in hard] == [1] * len(hard)
    for wrong in (len(hard), [True, False]):
        with pytest.raises(IndexError):
            hard[wrong]


def test_filters_hold_together(hard):
    np.testing.assert_array_equal(hard.areas, hard.masks().sum(axis=(1, 2)))
    found = hard.filter(min_score=0.5, labels=[0, 2], min_area=9, max_area=5000)
    wanted = (hard.scores >= 0.5) & np.isin(hard.labels, [0, 2]) & (hard.areas >= 9) & (hard.areas <= 5000)
    assert 0 < len(found) == wanted.sum() < len(hard)
    assert found.rles == tuple(rle for rle, keep in zip(hard.rles, wanted, strict=True) if keep)
    assert len(hard.filter()) == len(hard)
    assert set(hard.filter(labels=1).labels.tolist()) == {1}
    assert len(hard[:0].filter(min_area=1)) == 0


def test_a_crop_is_the_box_and_hides_what_is_not_the_mask(hard):
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    x1, y1, x2, y2 = hard.boxes[0].astype(int)
    np.testing.assert_array_equal(hard.crop(image, 0), image[y1:y2, x1:x2])
    cut = hard.crop(image, 0, background=(255, 0, 0))
    inside = hard.mask(0)[y1:y2, x1:x2]
    np.testing.assert_array_equal(cut[inside], image[y1:y2, x1:x2][inside])
    assert (cut[~inside] == (255, 0, 0)).all()
    with pytest.raises(ValueError, match="90x130"):
        hard.crop(image[:-1], 0)


def test_instances_can_be_pickled(hard):
    copy = pickle.loads(pickle.dumps(hard))
    assert copy.rles == hard.rles
    np.testing.assert_array_equal(copy.boxes, hard.boxes)


def test_a_notebook_sees_the_masks(hard):
    shown = cv2.imdecode(np.frombuffer(hard[1]._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (HEIGHT, WIDTH, 3)
    grey = (shown == 236).all(axis=2)
    np.testing.assert_array_equal(~grey, hard.mask(1))
    large = np.zeros((1, 1000, 2000), bool)
    large[0, 400:, 500:] = True
    assert cv2.imdecode(np.frombuffer(of_masks(large)._repr_png_(), np.uint8), cv2.IMREAD_COLOR).shape == (240, 480, 3)


def test_labels_without_a_name_are_refused(hard):
    with pytest.raises(ValueError, match="label 2 has no name among 2"):
        hard.to_labelme("a.jpg", CLASSES[:2])
