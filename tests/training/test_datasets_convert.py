"""Other tools' annotations to COCO: the masks stay what they were, and what is broken is told in words."""

from __future__ import annotations

import base64
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from sparseinst.cli import main, parser
from sparseinst.data import CocoInstances, DataError
from sparseinst.datasets import FORMATS, convert
from sparseinst.datasets.convert import clip
from sparseinst.datasets.source import read_classes

HEIGHT, WIDTH = 60, 80
STAR = np.array(
    [(40, 4), (48, 24), (72, 24), (52, 36), (60, 56), (40, 44), (20, 56), (28, 36), (8, 24), (32, 24)], float
)
PART = np.array([(2, 50), (12, 50), (12, 58), (2, 58)], float)


def picture(path, height=HEIGHT, width=WIDTH, orientation=1):
    """A picture of this size as stored; orientation 6 shows it turned by a quarter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), (90, 120, 60)).save(path, exif=exif)
    return path


def drawn(*polygons, height=HEIGHT, width=WIDTH):
    return coco_mask.decode(
        coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width))
    )


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def masks_of(conversion, tmp_path):
    """{class: masks} as training reads them."""
    path = tmp_path / "converted.json"
    path.write_text(json.dumps(conversion.dataset))
    data = CocoInstances(path, conversion.images, keep_empty=True)
    found = {}
    for index in range(len(data)):
        sample = data.sample(index)
        for label, mask in zip(sample.labels, sample.masks, strict=True):
            found.setdefault(data.classes[label], []).append(mask)
    return found


def png(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8), mode="L")
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(path)


def yolo_line(label, polygon, height=HEIGHT, width=WIDTH):
    return f"{label} " + " ".join(f"{value:.6f}" for value in (polygon / (width, height)).ravel())


def labelme(path, shapes, **more):
    """Shapes are (label, kind, points) or (label, kind, points, more fields)."""
    rows = [
        {
            "label": label,
            "shape_type": kind,
            "points": np.asarray(points).tolist(),
            "group_id": None,
            **(rest or [{}])[0],
        }
        for label, kind, points, *rest in shapes
    ]
    document = {"imagePath": f"{path.stem}.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document | more))


@pytest.fixture
def yolo(tmp_path):
    source = tmp_path / "yolo"
    picture(source / "images" / "train" / "b.png")
    picture(source / "images" / "train" / "a.jpg")
    labels = source / "labels" / "train" / "a.txt"
    labels.parent.mkdir(parents=True)
    labels.write_text(f"{yolo_line(1, STAR)}\n\n{yolo_line(0, PART)}\n")
    (source / "data.yaml").write_text("names: {0: cat, 1: star, 2: unused}\n")
    return source


@pytest.fixture
def voc(tmp_path):
    source = tmp_path / "voc"
    picture(source / "JPEGImages" / "x.jpg")
    picture(source / "JPEGImages" / "not_segmented.jpg")
    star, part = drawn(STAR) > 0, drawn(PART) > 0
    void = (cv2.dilate(star.astype(np.uint8), np.ones((3, 3))) > 0) & ~star
    png(source / "SegmentationObject" / "x.png", np.select([void, star, part], [255, 1, 2]), palette=True)
    png(source / "SegmentationClass" / "x.png", np.select([void, star, part], [255, 15, 8]), palette=True)
    return source


@pytest.fixture
def mask_pngs(tmp_path):
    source = tmp_path / "masks"
    picture(source / "images" / "a__yard.jpg")
    picture(source / "images" / "empty.jpg")
    png(source / "masks" / "a__yard__star__1.png", drawn(STAR) * 255)
    png(source / "masks" / "a__yard__cat__2.png", drawn(PART))
    return source


def test_yolo_polygons_keep_their_masks(yolo, tmp_path):
    done = convert("yolo-seg", yolo)
    found = masks_of(done, tmp_path)
    assert iou(found["star"][0], drawn(STAR)) > 0.99
    assert iou(found["cat"][0], drawn(PART)) > 0.99
    assert [row["file_name"] for row in done.dataset["images"]] == ["train/a.jpg", "train/b.png"]
    assert done.dataset["categories"][1] == {"id": 2, "name": "star"}
    assert done.instances_of_class == {"cat": 1, "star": 1, "unused": 0}


def test_areas_and_boxes_are_those_of_the_rasterised_mask(yolo):
    star = convert("yolo-seg", yolo).dataset["annotations"][0]
    mask = drawn(np.array(star["segmentation"][0]).reshape(-1, 2))
    assert star["area"] == mask.sum()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert star["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]


def test_equal_sources_give_equal_files(yolo, tmp_path):
    outs = [tmp_path / "1.json", tmp_path / "2.json"]
    for out in outs:
        assert main(["convert-dataset", "--from", "yolo-seg", str(yolo), "--out", str(out)]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    ids = [row["id"] for row in json.loads(outs[0].read_text())["annotations"]]
    assert ids == [1, 2]


def test_yolo_labels_may_lie_beside_the_pictures(tmp_path):
    picture(tmp_path / "flat" / "a.png")
    (tmp_path / "flat" / "a.txt").write_text(yolo_line(0, STAR))
    (tmp_path / "flat" / "classes.txt").write_text("star\n")
    assert iou(masks_of(convert("yolo-seg", tmp_path / "flat"), tmp_path)["star"][0], drawn(STAR)) > 0.99


def test_exif_orientation_turns_the_size_and_normalised_polygons_follow(tmp_path):
    source = tmp_path / "turned"
    picture(source / "images" / "a.jpg", HEIGHT, WIDTH, orientation=6)  # shown WIDTH high, HEIGHT wide
    (source / "labels").mkdir()
    upright = STAR[:, ::-1]
    (source / "labels" / "a.txt").write_text(yolo_line(0, upright, WIDTH, HEIGHT))
    (source / "data.yaml").write_text("names: [star]\n")
    done = convert("yolo-seg", source)
    assert (done.dataset["images"][0]["width"], done.dataset["images"][0]["height"]) == (HEIGHT, WIDTH)
    assert iou(masks_of(done, tmp_path)["star"][0], drawn(upright, height=WIDTH, width=HEIGHT)) > 0.99


def test_labelme_shapes_keep_their_masks(tmp_path):
    source = tmp_path / "labelme"
    picture(source / "a.png")
    patch = np.zeros((10, 6), np.uint8)
    patch[2:9, 1:4] = 1
    encoded = base64.b64encode(cv2.imencode(".png", patch)[1].tobytes()).decode()
    shapes = [
        ("star", "polygon", STAR),
        ("box", "rectangle", [(70, 50), (10, 20)]),  # from the lower right corner
        ("disc", "circle", [(40, 30), (40, 10)]),
        ("stroke", "mask", [(5, 7), (10, 16)], {"mask": encoded}),
    ]
    labelme(source / "a.json", shapes)
    found = masks_of(convert("labelme", source), tmp_path)
    assert iou(found["star"][0], drawn(STAR)) > 0.99
    assert found["box"][0].sum() == 60 * 30
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert iou(found["disc"][0], ((rows - 30) ** 2 + (columns - 40) ** 2 < 400).astype(np.uint8)) > 0.97
    stroke = np.zeros((HEIGHT, WIDTH), np.uint8)
    stroke[9:16, 6:9] = 1
    assert np.array_equal(found["stroke"][0], stroke)


def test_labelme_groups_join_parts_of_one_label_only(tmp_path):
    source = tmp_path / "labelme"
    picture(source / "a.png")
    group = {"group_id": 3}
    shapes = [("cat", "polygon", STAR, group), ("cat", "polygon", PART, group), ("dog", "polygon", PART, group)]
    labelme(source / "a.json", [*shapes, ("cat", "polygon", PART)])
    found = masks_of(convert("labelme", source), tmp_path)
    assert [len(found["cat"]), len(found["dog"])] == [2, 1]
    assert np.array_equal(found["cat"][0], drawn(STAR, PART))


def test_a_group_with_a_broken_part_is_left_out_as_a_whole(tmp_path):
    source = tmp_path / "labelme"
    picture(source / "a.png")
    group = {"group_id": 3}
    shapes = [("cat", "polygon", STAR, group), ("cat", "polygon", PART[:2], group), ("dog", "polygon", PART)]
    labelme(source / "a.json", shapes)
    done = convert("labelme", source, skip_broken=True)
    assert done.instances_of_class == {"dog": 1}
    assert len(done.faults) == 1
    assert "a.json shape 1" in done.faults[0]


def test_labelme_pictures_may_lie_in_another_folder(tmp_path):
    picture(tmp_path / "pictures" / "a.png")
    labelme(tmp_path / "json" / "a.json", [("star", "polygon", STAR)], imagePath="..\\elsewhere\\a.png")
    done = convert("labelme", tmp_path / "json", tmp_path / "pictures")
    assert done.dataset["images"][0]["file_name"] == "a.png"
    with pytest.raises(DataError, match="--images"):
        convert("labelme", tmp_path / "json")


def test_voc_objects_keep_their_masks_without_void(voc, tmp_path):
    done = convert("voc-masks", voc)
    found = masks_of(done, tmp_path)
    assert np.array_equal(found["person"][0], drawn(STAR))
    assert np.array_equal(found["cat"][0], drawn(PART))
    assert [row["file_name"] for row in done.dataset["images"]] == ["x.jpg"]
    assert {row["category_id"] for row in done.dataset["annotations"]} == {15, 8}


def test_mask_pngs_keep_their_masks(mask_pngs, tmp_path):
    done = convert("mask-pngs", mask_pngs)
    found = masks_of(done, tmp_path)
    assert np.array_equal(found["star"][0], drawn(STAR))
    assert np.array_equal(found["cat"][0], drawn(PART))
    assert [row["file_name"] for row in done.dataset["images"]] == ["a__yard.jpg", "empty.jpg"]


def test_a_mask_of_the_stored_size_of_a_turned_picture_is_refused_with_the_reason(mask_pngs):
    picture(mask_pngs / "images" / "a__yard.jpg", orientation=6)
    with pytest.raises(DataError, match="80 x 60; wanted the picture's 60 x 80; the picture is turned by its EXIF"):
        convert("mask-pngs", mask_pngs)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("7 0.1 0.1 0.5 0.1 0.5 0.5", "class '7' is none of 0 to 2"),
        ("0 0.5 0.5 0.2 0.2", r"a box \(4 numbers\)"),
        ("0 0.1 0.1 0.5 0.1 0.5", "5 coordinates; wanted x y of at least 3 corners"),
        ("0 10 10 50 10 50 50", "from 10 to 50; wanted 0 to 1"),
        ("0 0.1 0.1 0.5 nan 0.5 0.5", "wanted 0 to 1"),
        ("0 a b c d e f", "something else than numbers"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "covers no pixel"),
    ],
)
def test_broken_yolo_lines_are_told_by_file_and_line_and_can_be_left_out(yolo, line, sentence):
    labels = yolo / "labels" / "train" / "a.txt"
    labels.write_text(labels.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"1 broken entries[\s\S]*a\.txt line 4.*" + sentence):
        convert("yolo-seg", yolo)
    done = convert("yolo-seg", yolo, skip_broken=True)
    assert len(done.dataset["annotations"]) == 2
    assert len(done.faults) == 1


def test_nothing_is_written_when_an_entry_is_broken(yolo, tmp_path, capsys):
    (yolo / "labels" / "train" / "stranger.txt").write_text(yolo_line(0, PART))
    out = tmp_path / "out.json"
    command = ["convert-dataset", "--from", "yolo-seg", str(yolo), "--out", str(out)]
    assert main(command) == 1
    assert "stranger.txt: has no picture" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--skip-broken"]) == 0
    assert "1 broken entries left out" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["annotations"]) == 2


def test_an_unreadable_picture_is_left_out_with_its_instances(yolo):
    (yolo / "images" / "train" / "a.jpg").write_bytes(b"BM no JPEG")
    with pytest.raises(DataError, match=r"a\.jpg: got data that starts with"):
        convert("yolo-seg", yolo)
    with pytest.raises(DataError, match="no instance that can be used"):
        convert("yolo-seg", yolo, skip_broken=True)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (("cat", "line", [(1, 1), (5, 5)]), "is a line, which has no area"),
        (("cat", "polygon", [(1, 1), (5, 5)]), "polygon of 2 points; wanted at least 3"),
        (("cat", "circle", [(5, 5), (5, 5)]), "radius 0"),
        (("cat", "polygon", [(0, 0), (1e9, 0), (1e9, 1e9)]), "coordinate of 1e\\+09 pixels"),
        (("cat", "mask", [(5, 5), (9, 9)], {"mask": "???"}), "no base64"),
        (("cat", "polygon", [(100, 1), (120, 1), (120, 30)]), "lies outside of the picture"),
        ((None, "polygon", STAR), "has no `label`"),
    ],
)
def test_broken_labelme_shapes_are_told_by_file_and_shape(tmp_path, shape, sentence):
    picture(tmp_path / "s" / "a.png")
    labelme(tmp_path / "s" / "a.json", [("star", "polygon", STAR), shape])
    with pytest.raises(DataError, match=r"1 broken entries[\s\S]*a\.json shape 1: .*" + sentence):
        convert("labelme", tmp_path / "s")


def test_a_labelme_json_of_another_picture_size_is_refused(tmp_path):
    picture(tmp_path / "s" / "a.png")
    labelme(tmp_path / "s" / "a.json", [("star", "polygon", STAR)], imageWidth=800)
    with pytest.raises(DataError, match=r"a\.json: says 800 x 60; a\.png is 80 x 60"):
        convert("labelme", tmp_path / "s")


def test_a_voc_object_of_two_classes_is_refused(voc):
    path = voc / "SegmentationClass" / "x.png"
    classes = np.asarray(Image.open(path)).copy()
    classes[:30][classes[:30] == 15] = 3
    png(path, classes)
    with pytest.raises(DataError, match=r"x\.png object 1: has pixels of classes \[3, 15\]; wanted one class"):
        convert("voc-masks", voc)


def test_voc_masks_in_colours_are_refused(voc):
    Image.new("RGB", (WIDTH, HEIGHT)).save(voc / "SegmentationObject" / "x.png")
    with pytest.raises(DataError, match="holds colours; wanted palette indices"):
        convert("voc-masks", voc)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("a__yard.png", 1, "its name is not <picture stem>__<class>__<number>"),
        ("other__cat__1.png", 1, "has no picture"),
        ("a__yard__cat__9.png", np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 7, "has 7 values"),
        ("a__yard__cat__9.png", np.ones((9, 9)), "the mask is 9 x 9; wanted the picture's 80 x 60"),
        ("a__yard__cat__9.png", 0, "covers no pixel"),
    ],
)
def test_broken_mask_pngs_are_told_by_file(mask_pngs, name, values, sentence):
    png(mask_pngs / "masks" / name, np.broadcast_to(values, np.shape(values) or (HEIGHT, WIDTH)))
    with pytest.raises(DataError, match=rf"1 broken entries[\s\S]*{name}: .*{sentence}"):
        convert("mask-pngs", mask_pngs)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_of_another_layout_is_refused_in_a_sentence(kind, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["convert-dataset", "--from", kind, str(tmp_path), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert "wanted" in said
    assert main(["convert-dataset", "--from", kind, str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("c.txt", "cat\ndog\ncat\n", "names cat more than once"),
        ("c.txt", "\n", "holds no class names"),
        ("c.yaml", "names: {0: a, 2: b}", "wanted 0 to 1 without gaps"),
        ("c.yaml", "nc: 3", "has no list or mapping `names`"),
        ("c.yaml", "names: [", "is no YAML"),
    ],
)
def test_class_files_are_judged_in_words(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_classes(tmp_path / name)


def test_names_of_a_class_file_fix_the_ids_and_refuse_strangers(mask_pngs, tmp_path):
    classes = tmp_path / "names.txt"
    classes.write_text("star\nbird\ncat\n")
    done = convert("mask-pngs", mask_pngs, classes=classes)
    assert {row["name"]: row["id"] for row in done.dataset["categories"]} == {"star": 1, "bird": 2, "cat": 3}
    classes.write_text("star\n")
    with pytest.raises(DataError, match="class 'cat' is none of the 1 classes"):
        convert("mask-pngs", mask_pngs, classes=classes)


def test_clipping_keeps_the_pixels_inside_and_no_point_outside():
    rng = np.random.default_rng(3)
    for _ in range(20):
        polygon = rng.uniform(-40, 120, (5, 2))
        clipped = clip(polygon, HEIGHT, WIDTH)
        wide = drawn(polygon + 50, height=HEIGHT + 100, width=WIDTH + 100)[50 : 50 + HEIGHT, 50 : 50 + WIDTH]
        if not wide.any():
            continue
        assert clipped.min() >= 0
        assert (clipped <= (WIDTH, HEIGHT)).all()
        differing = (wide != drawn(clipped)).sum()
        assert differing <= 0.02 * wide.sum() + 12  # pycocotools rounds corners, cut ones too


def test_the_commands_of_the_documentation_are_commands(repo_root):
    lines = (repo_root / "docs" / "datasets.md").read_text(encoding="utf-8").splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("sparseinst ")]
    kinds = [parser().parse_args(command).kind for command in commands if command[0] == "convert-dataset"]
    assert kinds == list(FORMATS)
    assert len(commands) == len(kinds) + 1
    parser().parse_args(commands[-1])
