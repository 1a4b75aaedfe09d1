"""TIDE: sets with one kind of error give that kind, and AP50 stays COCO's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst.tide import KINDS, Tide, tide
from sparseinst_runtime.coco import mask_ap

CAT, DOG = 2, 5


class Scene:
    """Squares of 20 pixels in pictures of 100 x 100: instances to find and what was found."""

    def __init__(self, run_lengths):
        self._run_lengths = run_lengths
        categories = [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}]
        images = [{"id": number, "height": 100, "width": 100} for number in (4, 9)]
        self.truth: dict = {"images": images, "annotations": [], "categories": categories}
        self.found: list[dict] = []

    def _square(self, x: int, width: int = 20) -> dict:
        mask = np.zeros((100, 100), np.uint8)
        mask[10:30, x : x + width] = 1
        return self._run_lengths(mask)

    def instance(self, x: int, category_id: int = CAT, *, image_id: int = 4, crowd: bool = False) -> None:
        square = self._square(x, 60 if crowd else 20)
        row = {"id": 1, "image_id": image_id, "category_id": category_id, "segmentation": square}
        self.truth["annotations"].append({**row, "area": 400, "iscrowd": int(crowd)})

    def find(self, x: int, score: float, category_id: int = CAT, *, image_id: int = 4) -> None:
        row = {"image_id": image_id, "category_id": category_id, "score": score, "segmentation": self._square(x)}
        self.found.append(row)

    def errors(self) -> Tide:
        return tide(self.truth, self.found)


@pytest.fixture
def scene(run_lengths) -> Scene:
    """Two cats and a dog, all found."""
    scene = Scene(run_lengths)
    for x, category_id, score in ((0, CAT, 0.9), (40, CAT, 0.8), (70, DOG, 0.7)):
        scene.instance(x, category_id)
        scene.find(x, score, category_id)
    return scene


def only(errors: Tide, kind: str, count: int = 1) -> bool:
    """Whether there is one kind of error and it alone costs anything."""
    counts = errors.count == dict.fromkeys(KINDS, 0) | {kind: count}
    others = [gain for name, gain in errors.gain.items() if name != kind]
    return counts and errors.gain[kind] > 0 and not any(others)


def test_without_errors_nothing_is_to_gain(scene):
    errors = scene.errors()
    assert errors.ap50 == 1.0
    assert not any([*errors.gain.values(), *errors.count.values(), errors.false_positive, errors.false_negative])


def test_a_wrong_class_is_cls(scene):
    scene.found[2]["category_id"] = CAT  # the dog, as the best of the cats
    scene.found[2]["score"] = 1.0
    errors = scene.errors()
    assert only(errors, "cls")
    assert errors.gain["cls"] == pytest.approx(1 - errors.ap50)
    assert errors.not_found == 1


@pytest.mark.parametrize("shift", [7, 16])  # IoU 0.48 and 0.11
def test_right_class_and_half_the_place_is_loc(scene, shift):
    scene.found[1:2] = []
    scene.find(40 + shift, 1.0)
    errors = scene.errors()
    assert only(errors, "loc")
    assert errors.ap50 + errors.gain["loc"] == pytest.approx(1.0)


def test_wrong_class_at_half_the_place_is_both(scene):
    scene.find(70 + 8, 1.0, CAT)
    assert only(scene.errors(), "both")


def test_a_second_answer_for_one_instance_is_dupe(scene):
    scene.find(0, 0.85)
    assert only(scene.errors(), "dupe")


@pytest.mark.parametrize(("x", "image_id"), [(18, 4), (0, 9)])  # IoU 0.05 with a cat; a picture without instances
def test_an_answer_where_nothing_is_is_bkg(scene, x, image_id):
    scene.find(x, 1.0, image_id=image_id)
    assert only(scene.errors(), "bkg")


def test_an_instance_without_an_answer_is_miss(scene):
    scene.instance(40, CAT, image_id=9)
    errors = scene.errors()
    assert only(errors, "miss")
    assert errors.gain["miss"] == errors.false_negative == pytest.approx(1 - errors.ap50)
    assert errors.false_positive == 0


def test_of_two_that_aim_at_one_instance_the_better_is_mended(scene):
    """A badly placed cat and, less sure, a dog in place: to mend places finds the cat, to mend classes does not."""
    scene.found[1:2] = []
    scene.find(40 + 7, 0.95)
    scene.find(40, 0.6, DOG)
    errors = scene.errors()
    assert (errors.count["loc"], errors.count["cls"], errors.count["miss"]) == (1, 1, 0)
    assert errors.gain["loc"] > 0
    assert errors.gain["cls"] == 0


def test_what_a_crowd_of_its_class_excuses_is_no_error(scene):
    scene.instance(30, image_id=9, crowd=True)
    scene.find(40, 1.0, CAT, image_id=9)
    assert not any(scene.errors().count.values())
    scene.find(40, 1.0, DOG, image_id=9)
    assert only(scene.errors(), "bkg")


def test_only_the_hundred_best_of_a_class_count_as_for_coco(scene):
    for _ in range(100):
        scene.find(0, 0.85)
    errors = scene.errors()
    assert errors.count["dupe"] == 99
    assert errors.count["miss"] == 1
    assert errors.ap50 == pytest.approx(mask_ap(scene.truth, scene.found).ap50)


def test_without_any_answer_all_is_missed(scene):
    scene.found.clear()
    errors = scene.errors()
    assert only(errors, "miss", 3)
    assert (errors.ap50, errors.gain["miss"], errors.false_negative) == (0, 1, 1)


def test_without_instances_there_is_nothing_to_lose(scene):
    scene.truth["annotations"].clear()
    errors = scene.errors()
    assert errors.count["bkg"] == 3
    assert not any(errors.gain.values())


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_that_of_pycocotools_and_each_error_has_one_kind(imperfect, scenes, seed):
    annotations = json.loads((scenes / "instances.json").read_text()) if seed == 0 else None
    truth, results = imperfect(seed, annotations=annotations)
    half = sorted(image["id"] for image in truth["images"])[::2]
    for image_ids in (None, half):
        judged = [result for result in results if image_ids is None or result["image_id"] in half]
        errors = tide(truth, results, image_ids)
        assert errors.ap50 == pytest.approx(mask_ap(truth, results, image_ids).ap50, abs=1e-12)
        assert 0 < errors.ap50 < 1
        assert min(errors.gain.values()) >= 0
        assert max(errors.gain.values()) <= 1 - errors.ap50
        assert errors.false_negative >= errors.gain["miss"]
        assert errors.false_positive >= max(errors.gain[kind] for kind in ("both", "dupe", "bkg"))
        assert sum(errors.count[kind] for kind in KINDS if kind != "miss") <= len(judged)
        assert errors.count["miss"] <= errors.not_found


def spoilt(truth: dict, run_lengths) -> list[dict]:
    """The scenes' instances moved, confused, doubled and left out, by arithmetic alone; no two scores are equal."""
    categories = sorted({row["category_id"] for row in truth["annotations"]})
    results = []
    for number, row in enumerate(truth["annotations"]):
        mask = coco_mask.decode(row["segmentation"])
        for copy in range((2, 1, 1, 3, 0, 1)[number % 6]):
            reach = (0, 1, 4, 8, 3, 12, 2)[(number + 3 * copy) % 7] / 20 * np.sqrt(row["area"])
            place = categories.index(row["category_id"]) + (number % 5 == 2 or (number + copy) % 11 == 7)
            shape = run_lengths(np.roll(mask, (int(reach), -int(reach)), (0, 1)))
            found = {"image_id": row["image_id"], "category_id": categories[place % len(categories)]}
            results.append({**found, "segmentation": shape, "score": (37 * len(results) + 11) % 101 / 101})
    return results


def test_figures_are_those_of_the_authors_program(scenes, run_lengths):
    """What tidecv 1.0.1 says of the same results."""
    truth = json.loads((scenes / "instances.json").read_text())
    errors = tide(truth, spoilt(truth, run_lengths))
    assert errors.ap50 == pytest.approx(0.214867987)
    gain = {"cls": 0.101127613, "loc": 0.121437215, "both": 0.02029703, "dupe": 0.004533239, "bkg": 0.009950495}
    assert errors.gain == pytest.approx(gain | {"miss": 0.07970297})
    assert errors.count == {"cls": 4, "loc": 12, "both": 7, "dupe": 3, "bkg": 7, "miss": 12}
    assert (errors.false_positive, errors.false_negative) == pytest.approx((0.210874587, 0.24519802))
