"""Checking a data set: the scenes are clean, and each fault put into a copy of them is found."""

from __future__ import annotations

import json
import re
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from sparseinst.cli import main
from sparseinst.data import DataError
from sparseinst.datasets import check
from sparseinst.datasets.findings import KINDS
from sparseinst.datasets.sheet import contact_sheet


@pytest.fixture
def copy(scenes, tmp_path):
    """(annotations as a dict, folder of pictures): the first four scenes, to be broken."""
    raw = json.loads((scenes / "instances.json").read_text())
    raw["images"] = raw["images"][:4]
    kept = {image["id"] for image in raw["images"]}
    raw["annotations"] = [row for row in raw["annotations"] if row["image_id"] in kept]
    (tmp_path / "images").mkdir()
    for image in raw["images"]:
        shutil.copy(scenes / "images" / image["file_name"], tmp_path / "images")
    return raw, tmp_path / "images"


@pytest.fixture
def report(copy, tmp_path):
    """Check the copy as it is now: {kind: (count, examples)}."""

    def run(queries=100):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(copy[0]))
        return {finding.kind: (finding.count, finding.examples) for finding in check(path, copy[1], queries).findings}

    return run


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def test_the_scenes_are_clean(scenes):
    report = check(scenes / "instances.json", scenes / "images")
    assert report.clean
    assert {finding.kind for finding in report.findings} == {"unused class"}
    assert (report.pictures, report.instances, report.crowds) == (16, 36, 0)
    assert sum(report.instances_of_class.values()) == 36


@pytest.mark.parametrize(
    ("segmentation", "kind", "words"),
    [
        ([[1, 1, 30, 30]], "broken polygon", "has 2 points"),
        ([[1, 1, 30, 30, 60, 60]], "broken polygon", "area of zero"),
        ([[-9, -9, -2, -9, -2, -2]], "broken polygon", "outside of its picture"),
        ([[1, 1, 30, 1, 30]], "broken polygon", "no flat list"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "broken polygon", r"coordinate of 1e\+09 pixels"),
        ([[1, 1, 30, 1, 30, "x"]], "broken polygon", "something else than numbers"),
        ([*square(9, 9, 40), [1, 1, 2, 2]], "broken polygon part", "has 2 points"),
        (square(-30, 9, 60), "polygon leaves picture", "by 30 pixels"),
        (square(9, 9, 2), "tiny mask", "covers 4 pixels"),
        (square(9.1, 9.1, 0.2), "empty mask", "covers no pixel"),
        ([], "empty mask", "has no polygon"),
        (None, "broken entry", "no segmentation"),
        ({"size": [5, 5], "counts": "03"}, "unreadable mask", r"of size \[5, 5\]"),
        ({"size": "own", "counts": [4, 5]}, "unreadable mask", "do not add up"),
        ({"size": "own", "counts": "52203"}, "unreadable mask", "cut off or corrupt"),
        ({"size": "own", "counts": 7}, "unreadable mask", "no list and no string"),
    ],
)
def test_each_fault_of_a_mask_is_found_and_named(copy, report, segmentation, kind, words):
    row = copy[0]["annotations"][0]
    image = next(image for image in copy[0]["images"] if image["id"] == row["image_id"])
    if isinstance(segmentation, dict) and segmentation["size"] == "own":
        segmentation = segmentation | {"size": [image["height"], image["width"]]}
    row["segmentation"] = segmentation
    count, (example,) = report()[kind]
    assert count == 1
    assert f"annotation {row['id']}" in example or kind == "broken entry"
    assert re.search(words, example)


def add_annotation(raw, **changed):
    row = raw["annotations"][0] | {"id": 900} | changed
    raw["annotations"].append(row)
    return row


BREAKS = {
    "repeated id": lambda raw, _: add_annotation(raw, id=raw["annotations"][0]["id"], segmentation=square(9, 9, 20)),
    "unknown image": lambda raw, _: add_annotation(raw, image_id=4242),
    "unknown class": lambda raw, _: add_annotation(raw, category_id=4242),
    "duplicate annotation": lambda raw, _: add_annotation(raw),
    "crowd": lambda raw, _: add_annotation(raw, iscrowd=1),
    "missing area": lambda raw, _: raw["annotations"][0].pop("area"),
    "broken entry": lambda raw, _: raw["images"].append({"id": 77, "file_name": "x.jpg", "height": 0, "width": 5}),
    "duplicate class": lambda raw, _: raw["categories"].append({"id": 900, "name": "bear"}),
    "similar class names": lambda raw, _: raw["categories"].append({"id": 900, "name": " Bear"}),
    "repeated file name": lambda raw, _: raw["images"].append(raw["images"][0] | {"id": 900}),
    "missing picture": lambda raw, images: (images / raw["images"][1]["file_name"]).unlink(),
    "wrong picture size": lambda raw, _: raw["images"][1].update(width=raw["images"][1]["width"] + 1),
    "picture not listed": lambda raw, images: shutil.copy(images / raw["images"][1]["file_name"], images / "more.jpg"),
}


def cut_off(raw, images):
    path = images / raw["images"][2]["file_name"]
    path.write_bytes(path.read_bytes()[:-2000])


def listed_twice(raw, images):
    shutil.copy(images / raw["images"][0]["file_name"], images / "twin.jpg")
    raw["images"].append(raw["images"][0] | {"id": 900, "file_name": "twin.jpg"})


def without_instances(raw, _):
    raw["annotations"] = [row for row in raw["annotations"] if row["image_id"] != raw["images"][3]["id"]]


BREAKS |= {
    "unreadable picture": cut_off,
    "duplicate picture": listed_twice,
    "picture without instances": without_instances,
}


@pytest.mark.parametrize("kind", BREAKS)
def test_each_fault_of_a_data_set_is_found_once(copy, report, kind):
    assert kind not in report()
    BREAKS[kind](*copy)
    assert report()[kind][0] == 1


def test_pictures_with_more_instances_than_queries_are_found(report):
    assert "crowded picture" not in report(queries=4)
    assert report(queries=1)["crowded picture"][0] >= 1


def test_every_kind_of_finding_is_covered_by_a_test_here():
    shapes = {"broken polygon", "broken polygon part", "polygon leaves picture", "tiny mask", "empty mask"}
    assert set(KINDS) == BREAKS.keys() | shapes | {"unreadable mask", "unused class", "crowded picture"}


def test_a_size_that_ignores_exif_orientation_is_explained(copy, report):
    image = copy[0]["images"][0]
    exif = Image.Exif()
    exif[0x0112] = 6
    path = copy[1] / image["file_name"]
    with Image.open(path) as picture:
        picture.copy().save(path, exif=exif)
    assert "turned by EXIF orientation 6" in report()["wrong picture size"][1][0]


def test_exit_code_tells_errors_from_warnings_and_the_report_is_written(copy, tmp_path, capsys):
    annotations, written, sheet = tmp_path / "a.json", tmp_path / "report.json", tmp_path / "sheet.png"
    command = ["check-dataset", "--annotations", str(annotations), "--images", str(copy[1]), "--json", str(written)]
    add_annotation(copy[0])  # a duplicate is a warning
    annotations.write_text(json.dumps(copy[0]))
    assert main([*command, "--sheet", str(sheet)]) == 0
    assert cv2.imread(str(sheet)) is not None
    assert json.loads(written.read_text())["clean"] is True
    add_annotation(copy[0], id=901, category_id=4242)
    annotations.write_text(json.dumps(copy[0]))
    capsys.readouterr()
    assert main(command) == 1
    told = json.loads(written.read_text())
    assert told["clean"] is False
    assert "unknown class" in {finding["kind"] for finding in told["findings"]}
    assert "unknown class" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--instances", "0"], "--instances is 0; wanted"),
        (["--sheet", "sheet.tiff"], "ends in .jpg, .png or .webp"),
        (["--json", "nowhere/report.json"], "is no folder; make it first"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(scenes, capsys, more, sentence):
    command = ["check-dataset", "--annotations", str(scenes / "instances.json"), "--images", str(scenes / "images")]
    assert main([*command, *more]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [], "annotations": {}, "categories": []}'])
def test_what_is_no_coco_json_is_refused(scenes, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="wanted COCO"):
        check(tmp_path / "a.json", scenes / "images")


def test_the_contact_sheet_shows_masks_and_repeats_itself(scenes):
    arguments = (scenes / "instances.json", scenes / "images")
    sheet = contact_sheet(*arguments, pictures=5, columns=3, tile=160)
    assert sheet.shape == (320, 480, 3)
    assert np.array_equal(sheet, contact_sheet(*arguments, pictures=5, columns=3, tile=160))
    assert not np.array_equal(sheet, contact_sheet(*arguments, pictures=5, columns=3, tile=160, seed=1))


def test_the_contact_sheet_survives_broken_pictures_and_masks(copy, tmp_path):
    raw, images = copy
    (images / raw["images"][0]["file_name"]).write_bytes(b"nothing")
    raw["images"][1]["width"] += 40
    raw["annotations"][-1]["segmentation"] = [[1, 2]]
    (tmp_path / "a.json").write_text(json.dumps(raw))
    assert contact_sheet(tmp_path / "a.json", images, tile=100).shape == (100, 400, 3)
