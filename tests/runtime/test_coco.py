from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst_runtime.coco import check_categories, evaluate_masks, mask_ap, picture_files, read_annotations

BIG = [0, 0, 100, 0, 100, 95, 0, 95]  # a polygon of 9,500 pixels


@pytest.fixture
def perfect(scenes) -> list[dict]:
    """The ground truth as results."""
    kept = ("image_id", "category_id", "segmentation")
    return [{key: a[key] for key in kept} | {"score": 0.9} for a in scenes["annotations"]]


def test_ground_truth_as_result_reaches_one(scenes, perfect):
    summary = mask_ap(scenes, perfect)
    assert summary.ap == summary.ap50 == summary.ap75 == summary.ar100 == 1.0


def test_annotations_may_be_a_path(scenes, perfect, tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(scenes))
    assert mask_ap(path, perfect) == mask_ap(scenes, perfect)


def test_no_results_are_zero_and_no_error(scenes):
    summary = mask_ap(scenes, [])
    assert summary.ap == summary.ar100 == 0.0


def test_text_is_the_twelve_lines_and_nothing_is_printed(scenes, perfect, capsys):
    summary = mask_ap(scenes, perfect)
    assert capsys.readouterr().out == ""
    lines = summary.text.splitlines()
    assert len(lines) == 12
    numbers = [float(line.rsplit("=", 1)[1]) for line in lines]
    np.testing.assert_allclose(numbers, list(summary.as_dict().values()), atol=5e-4)
    assert list(summary.as_dict())[:3] == ["ap", "ap50", "ap75"]


def test_what_is_handed_in_stays_as_it_was(scenes, perfect):
    before = copy.deepcopy((scenes, perfect))
    mask_ap(scenes, perfect)
    assert (scenes, perfect) == before


def test_image_ids_narrow_what_is_judged(scenes, perfect):
    ids = sorted(image["id"] for image in scenes["images"])
    half = [result for result in perfect if result["image_id"] in ids[:8]]
    assert mask_ap(scenes, half, ids[:8]).ap == 1.0
    assert mask_ap(scenes, half).ap < 0.9


def square(x: int, side: int = 40) -> np.ndarray:
    mask = np.zeros((100, 100), np.uint8, order="F")
    mask[20 : 20 + side, x : x + side] = 1
    return mask


def rle(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(mask)
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


@pytest.fixture
def one_square() -> dict:
    """One picture with one square as a polygon; its annotation id is 0, which pycocotools alone takes for no match."""
    polygon = [10, 20, 50, 20, 50, 60, 10, 60]
    annotation = {"id": 0, "image_id": 5, "category_id": 3, "segmentation": [polygon], "area": 1600, "iscrowd": 0}
    return {
        "images": [{"id": 5, "height": 100, "width": 100}],
        "categories": [{"id": 3, "name": "square"}],
        "annotations": [annotation],
    }


@pytest.mark.parametrize(
    ("shift", "ap"),
    [(0, 1.0), (5, 0.6), (40, 0.0)],  # IoU 1; 35/45 = 0.78: six of the ten IoU thresholds; 0
)
def test_ap_counts_the_iou_thresholds_that_a_mask_passes(one_square, shift, ap):
    result = {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": rle(square(10 + shift))}
    assert mask_ap(one_square, [result]).ap == pytest.approx(ap)


def test_false_alarm_before_the_right_one_halves_precision(one_square):
    right = {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": rle(square(10))}
    wrong = {"image_id": 5, "category_id": 3, "score": 0.8, "segmentation": rle(square(55))}
    assert mask_ap(one_square, [right, wrong]).ap == pytest.approx(0.5)


def test_nothing_of_a_kind_is_minus_one(one_square):
    assert mask_ap(one_square, []).ap_large == -1


def test_an_area_that_is_missing_is_counted(one_square):
    result = {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": rle(square(10))}
    with_area = mask_ap(one_square, [result])
    del one_square["annotations"][0]["area"]
    assert mask_ap(one_square, [result]) == with_area
    assert with_area.ap_medium == pytest.approx(1.0)


def test_a_result_is_as_large_as_its_mask_not_as_its_box(one_square):
    """A wrong thin diagonal: its mask is small, its box large. Only small instances may suffer from it."""
    diagonal = np.asfortranarray(np.eye(100, dtype=np.uint8))
    wrong = {"image_id": 5, "category_id": 3, "score": 0.9, "segmentation": rle(diagonal), "bbox": [0, 0, 100, 100]}
    right = {"image_id": 5, "category_id": 3, "score": 0.5, "segmentation": rle(square(10)), "bbox": [10, 20, 40, 40]}
    one_square["annotations"].append({**one_square["annotations"][0], "id": 1, "segmentation": [BIG], "area": 9500})
    found = {**right, "segmentation": rle(np.asfortranarray(np.ones((100, 100), np.uint8))), "bbox": [0, 0, 100, 100]}
    assert mask_ap(one_square, [wrong, right, found]).ap_large == pytest.approx(1.0)
    assert mask_ap(one_square, [wrong, right, found]).ap50 < 1


def test_the_twelve_numbers_are_means_of_the_curves(scenes, perfect):
    results = [result for number, result in enumerate(perfect) if number % 3]
    evaluation = evaluate_masks(scenes, results)
    assert evaluation.precision.shape == (10, 101, len(evaluation.category_ids))
    judged = evaluation.precision[0, 0] > -1  # two of the seven classes do not occur in the scenes
    assert judged.sum() == 5
    assert evaluation.precision[..., judged].mean() == pytest.approx(evaluation.summary.ap)
    assert evaluation.precision[5][:, judged].mean() == pytest.approx(evaluation.summary.ap75)
    assert evaluation.recall[:, judged].mean() == pytest.approx(evaluation.summary.ar100)
    assert 0.4 < evaluation.summary.ap < 0.9


def test_wrong_files_are_refused_in_words(scenes, perfect, one_square):
    with pytest.raises(ValueError, match=r"lack \['annotations', 'categories', 'images'\]"):
        mask_ap({}, perfect)
    with pytest.raises(ValueError, match="no such pictures in the annotations: ids "):
        mask_ap(one_square, perfect)
    with pytest.raises(ValueError, match=r"ids \[-1\]"):
        mask_ap(scenes, perfect, [-1])


def test_pictures_come_with_their_ids_in_the_order_of_the_annotations(tmp_path):
    names = {8: "sub/b.jpg", 3: "a.jpg"}
    (tmp_path / "sub").mkdir()
    for name in names.values():
        (tmp_path / name).touch()
    images = [{"id": number, "file_name": name} for number, name in names.items()]
    dataset = {"images": images, "annotations": [], "categories": []}
    expected = [(8, tmp_path / "sub" / "b.jpg"), (3, tmp_path / "a.jpg")]
    assert picture_files(dataset, tmp_path) == expected
    (tmp_path / "val.json").write_text(json.dumps(dataset))
    assert picture_files(tmp_path / "val.json", str(tmp_path)) == expected
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 pictures .* first .*a\.jpg; check the images folder"):
        picture_files(dataset, tmp_path)


def test_annotations_without_pictures_are_refused_in_words(one_square, tmp_path):
    with pytest.raises(ValueError, match="lacks id or file_name"):
        picture_files(one_square, tmp_path)
    with pytest.raises(ValueError, match="name no pictures"):
        picture_files({**one_square, "images": []}, tmp_path)


def test_files_that_are_no_annotations_are_refused_in_words(tmp_path):
    path = tmp_path / "instances.json"
    with pytest.raises(FileNotFoundError):
        read_annotations(path)
    path.write_text("half a fi")
    with pytest.raises(ValueError, match=r"instances\.json is not JSON"):
        read_annotations(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"lack \['annotations', 'categories', 'images'\]"):
        read_annotations(path)


def test_categories_besides_the_weights_are_refused(one_square):
    check_categories(one_square, (1, 3))
    with pytest.raises(ValueError, match=r"categories \[3\] that the weights do not"):
        check_categories(one_square, (1, 2))
