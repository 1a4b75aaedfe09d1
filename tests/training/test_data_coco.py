"""COCO JSON as it is found in the wild: gaps in ids, crowds, three kinds of masks, and mistakes told in words."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from sparseinst.data import CocoInstances, DataError, evaluation_files, evaluation_pictures

HEIGHT, WIDTH = 40, 60
BOX = [10, 5, 30, 5, 30, 25, 10, 25]  # columns 10..29, rows 5..24
PART = [40, 30, 50, 30, 50, 38, 40, 38]


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def runs_of(mask):
    """Uncompressed RLE: lengths of alternating runs in column order, zeros first."""
    flat = np.concatenate([[0], mask.ravel(order="F"), [-1]])
    changes = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], changes])).tolist()}


def annotation(number, image_id, category_id, segmentation, **more):
    row = {"id": number, "image_id": image_id, "category_id": category_id, "segmentation": segmentation, "iscrowd": 0}
    return row | more


@pytest.fixture
def blob():
    """A mask whose first column is set, so that its first run is empty."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:20, 0:12] = 1
    return mask


@pytest.fixture
def raw(blob):
    """Three images: one with each kind of mask, one with a crowd only, one with nothing."""
    images = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (7, 3, 12)]
    annotations = [
        annotation(1, 7, 90, [BOX]),
        annotation(2, 7, 4, [BOX, PART]),
        annotation(3, 7, 17, rle_of(blob)),
        annotation(4, 7, 4, runs_of(blob)),
        annotation(5, 3, 4, runs_of(blob), iscrowd=1),
    ]
    categories = [{"id": 90, "name": "brush"}, {"id": 4, "name": "plane"}, {"id": 17, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def load(tmp_path, raw):
    """Write the pictures and whatever `raw` has become, then read it."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    for image in raw["images"]:
        cv2.imwrite(str(tmp_path / image["file_name"]), pixels)

    def load(**options):
        (tmp_path / "instances.json").write_text(json.dumps(raw))
        return CocoInstances(tmp_path / "instances.json", tmp_path, **({"keep_empty": False} | options))

    return load


def test_labels_follow_the_order_of_category_ids_whatever_the_gaps(load):
    instances = load()
    assert instances.category_ids == (4, 17, 90)
    assert instances.classes == ("plane", "cat", "brush")
    np.testing.assert_array_equal(instances.sample(0).labels, [2, 0, 1, 0])


def test_polygons_parts_and_both_kinds_of_rle_give_the_pixels_they_describe(load, blob):
    sample = load().sample(0)
    box, part = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    box[5:25, 10:30] = 1
    part[30:38, 40:50] = 1
    assert sample.masks.dtype == np.uint8
    np.testing.assert_array_equal(sample.masks, [box, box | part, blob, blob])


def test_crowds_are_no_instances(load):
    instances = load(keep_empty=True)
    assert instances.instance_count == 4
    index = instances.image_ids.index(3)
    assert instances.sample(index).masks.shape == (0, HEIGHT, WIDTH)
    assert instances.sample(index).labels.shape == (0,)


def test_pictures_without_instances_are_for_evaluation_only(load):
    assert load(keep_empty=False).image_ids == (7,)
    assert load(keep_empty=True).image_ids == (7, 3, 12)
    assert [image_id for image_id, _ in evaluation_pictures(load(keep_empty=True))] == [7, 3, 12]


def test_files_are_given_as_they_lie_on_disk_once_their_header_holds(load, tmp_path):
    instances = load(keep_empty=True)
    assert list(evaluation_files(instances)) == [(i, (tmp_path / f"{i}.png").read_bytes()) for i in (7, 3, 12)]
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    with pytest.raises(DataError, match=r"3.png is 61x40 pixels .* says 60x40"):
        list(evaluation_files(instances))
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"3.png: got data that starts with"):
        list(evaluation_files(instances))


def test_pictures_are_rgb(load, tmp_path):
    instances = load()
    cv2.imwrite(str(tmp_path / "7.png"), np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8))  # OpenCV writes BGR
    np.testing.assert_array_equal(instances.sample(0).image[0, 0], [3, 2, 1])


def test_the_cache_gives_the_same_pixels_and_cannot_be_written_into(load, tmp_path):
    plain, cached = load(), load(cache=True)
    expected = plain.image(0)
    (tmp_path / "7.png").unlink()
    np.testing.assert_array_equal(cached.image(0), expected)
    with pytest.raises(ValueError, match="read-only"):
        cached.image(0)[0, 0] = 0


def test_shapes_that_enclose_nothing_are_left_out(load, raw):
    raw["annotations"] += [
        annotation(6, 7, 4, [[1, 1, 9, 9]]),  # two points: pycocotools alone would read a box
        annotation(7, 7, 4, []),
        annotation(8, 7, 4, [[200, 200, 210, 200, 210, 210]]),  # outside
    ]
    sample = load().sample(0)
    assert len(sample.labels) == len(sample.masks) == 4


def test_an_annotation_of_an_unknown_image_or_category_is_named(load, raw):
    raw["annotations"].append(annotation(55, 1000, 4, [BOX]))
    with pytest.raises(DataError, match=r"annotation 55 refers to image 1000"):
        load()
    raw["annotations"][-1] = annotation(56, 7, 5, [BOX])
    with pytest.raises(DataError, match=r"annotation 56 refers to category 5; known: \(4, 17, 90\)"):
        load()


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ({"size": [1, 1], "counts": [1]}, r"RLE of size \[1, 1\]; wanted the image's \[40, 60\]"),
        ({"size": [HEIGHT, WIDTH], "counts": None}, "RLE counts are NoneType"),
        ({"size": [HEIGHT, WIDTH], "counts": ["a"]}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [-5, 5, 2400]}, "no run lengths"),
        ({"size": [HEIGHT, WIDTH], "counts": [1, 2, 3]}, "that sum to the image's 2400 pixels"),
        (None, "segmentation is NoneType; wanted polygons or an RLE"),
        ([["a", "b"]], "something else than numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "flat lists"),
        ([[1, 2, 3, 4, 5, float("nan")]], "finite"),
        ([[1, 2, 3, 4, 5, 1e9]], "beyond 100,000"),
        ([1, 2, 3, 4, 5, 6], "flat lists"),
    ],
)
def test_a_mask_that_cannot_be_read_names_its_annotation(load, raw, segmentation, said):
    raw["annotations"].append(annotation(77, 7, 4, segmentation))
    with pytest.raises(DataError, match=f"annotation 77.*{said}"):
        load()


def test_compressed_runs_beyond_the_picture_are_told_when_read(load, raw):
    runs = rle_of(np.ones((HEIGHT, WIDTH + 1), np.uint8))["counts"]
    raw["annotations"] = [annotation(78, 7, 4, {"size": [HEIGHT, WIDTH], "counts": runs})]
    with pytest.raises(DataError, match="annotation 78 is unreadable"):
        load().sample(0)


def test_compressed_runs_that_end_early_never_show_stale_memory(load, raw):
    runs = rle_of(np.ones((HEIGHT, WIDTH - 30), np.uint8))["counts"]
    raw["annotations"] = [annotation(78, 7, 4, {"size": [HEIGHT, WIDTH], "counts": runs})]
    instances = load()
    for _ in range(20):
        dirty = [bytearray(b"\x01" * HEIGHT * WIDTH) for _ in range(20)]
        del dirty
        try:
            mask = instances.sample(0).masks[0]
        except DataError as error:
            assert "annotation 78 is unreadable" in str(error)  # noqa: PT017  # which of the two depends on the memory
        else:
            assert mask[:, : WIDTH - 30].all()
            assert not mask[:, WIDTH - 30 :].any()


def test_missing_pictures_are_counted_and_the_first_is_named(load, tmp_path):
    for name in ("3.png", "12.png"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"2 of 3 pictures of instances\.json are missing, first .*3\.png"):
        load(keep_empty=True)
    assert len(load(keep_empty=False)) == 1  # those that are not used are not missed


def test_a_picture_of_another_size_is_named(load, tmp_path):
    cv2.imwrite(str(tmp_path / "7.png"), np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(DataError, match=r"7\.png is 40x60 pixels .* says 60x40"):
        load().sample(0)


def test_a_picture_that_cannot_be_decoded_is_named(load, tmp_path):
    (tmp_path / "7.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"7\.png: "):
        load().sample(0)


def test_a_set_with_nothing_to_learn_from_is_refused(load, raw):
    raw["annotations"] = [row for row in raw["annotations"] if row["iscrowd"]]
    with pytest.raises(DataError, match="none of 3 images can be used; wanted images with instances"):
        load()


def test_repeated_category_ids_are_refused(load, raw):
    raw["categories"].append({"id": 4, "name": "train"})
    with pytest.raises(DataError, match="category ids repeat"):
        load()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "an entry of 'images' lacks one of"),
    ],
)
def test_a_file_that_is_not_coco_is_told_apart(tmp_path, text, said):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        CocoInstances(path, tmp_path, keep_empty=True)


def test_a_missing_annotation_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read annotations .*absent\.json: No such file"):
        CocoInstances(tmp_path / "absent.json", tmp_path, keep_empty=True)


def test_pictures_that_do_not_fit_into_memory_are_not_cached(load, raw):
    raw["images"].append({"id": 99, "file_name": "7.png", "height": 10**7, "width": 10**7})
    with pytest.raises(DataError, match=r"4 pictures take 3000\d\d\.\d GB decoded, .* \(--no-cache\)"):
        load(keep_empty=True, cache=True)
