"""Reports of an evaluation: two implementations that agree, figures of each class, files, and the command."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from sparseinst import Predictor
from sparseinst.cli import main
from sparseinst.data import CocoInstances, evaluation_pictures
from sparseinst.evaluate import in_batches, segment_pictures, torch_engine
from sparseinst.report import EVALUATORS, Report, assess, evaluator, write_report
from sparseinst_runtime.coco import evaluate_masks, mask_ap


@pytest.fixture(params=["scenes", "ellipses", "nothing found", "nothing to find", "half of the pictures"])
def judged(request, imperfect, scenes) -> tuple[dict, list[dict], list[int] | None]:
    """Annotations, results, and the pictures to judge."""
    if request.param == "scenes":
        return *imperfect(1, annotations=json.loads((scenes / "instances.json").read_text())), None
    truth, results = imperfect(2)
    if request.param == "nothing found":
        results = []
    if request.param == "nothing to find":
        truth["annotations"] = []
    return truth, results, [7, 13, 25, 31, 40, 49] if request.param == "half of the pictures" else None


def test_both_evaluators_give_the_same_figures(judged):
    truth, results, image_ids = judged
    if image_ids:
        results = [result for result in results if result["image_id"] in image_ids]
    reference = evaluate_masks(truth, results, image_ids)
    other = evaluate_masks(truth, results, image_ids, evaluator=evaluator("faster-coco-eval"))
    assert other.summary.as_dict() == pytest.approx(reference.summary.as_dict(), abs=1e-12)
    assert other.summary.text == reference.summary.text
    assert other.category_ids == reference.category_ids
    np.testing.assert_allclose(other.precision, reference.precision, atol=1e-12)
    np.testing.assert_allclose(other.recall, reference.recall, atol=1e-12)


def test_another_evaluator_is_refused():
    assert [evaluator(name).name for name in EVALUATORS] == list(EVALUATORS)
    with pytest.raises(ValueError, match="evaluator is 'lvis'; wanted one of pycocotools, faster-coco-eval"):
        evaluator("lvis")


@pytest.fixture
def report(imperfect) -> Report:
    truth, results = imperfect(4)
    return assess(truth, results, subject={"weights": "a.safetensors"})


def test_a_class_alone_reaches_what_the_report_says_of_it(imperfect, report):
    truth, results = imperfect(4)
    for row in report.classes:
        alone = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] == row.category_id]}
        summary = mask_ap(alone, [result for result in results if result["category_id"] == row.category_id])
        assert row.instances == sum(not annotation["iscrowd"] for annotation in alone["annotations"])
        if row.category_id == 40:  # never occurs
            assert (row.instances, row.ap, row.ap50, row.ap75, row.ar100) == (0, None, None, None, None)
        else:
            figures = (summary.ap, summary.ap50, summary.ap75, summary.ar100)
            assert (row.ap, row.ap50, row.ap75, row.ar100) == pytest.approx(figures)
            assert 0 < row.ap < row.ap50 < 1


def test_the_area_under_the_curves_is_ap(report):
    summary = report.evaluation.summary
    areas = [report.curve(0.5).mean(), report.curve(0.75).mean(), report.curve().mean()]
    assert areas == pytest.approx([summary.ap50, summary.ap75, summary.ap])


def test_nothing_is_printed_by_assessing(imperfect, capsys):
    assess(*imperfect(0, pictures=5))
    assert capsys.readouterr() == ("", "")


def test_the_report_s_files_hold_the_same_figures(tmp_path, report):
    write_report(report, [], tmp_path / "a" / "new folder")
    folder = tmp_path / "a" / "new folder"
    assert {path.name for path in folder.iterdir()} == {
        "results.json",
        "report.json",
        "report.md",
        "pr.png",
        "errors.png",
    }
    written = json.loads((folder / "report.json").read_text())
    assert written["mask"]["ap"] == report.evaluation.summary.ap
    assert [row["ap"] for row in written["classes"]] == [row.ap for row in report.classes]
    assert written["tide"]["gain"] == report.errors.gain
    assert len(written["curves"]["recall"]) == len(written["curves"]["precision"]["0.50:0.95"]) == 101
    page = (folder / "report.md").read_text()
    assert "| class 40 | 0 | - | - | - | - |" in page
    assert f"| {report.evaluation.summary.ap:.3f} | {report.evaluation.summary.ap50:.3f} |" in page
    assert f"| Dupe | found before | {report.errors.count['dupe']} | {report.errors.gain['dupe']:.3f} |" in page
    assert "weights: a.safetensors" in page


@pytest.mark.parametrize("classes", [4, 1])
def test_charts_are_drawn_whatever_there_is(tmp_path, imperfect, classes):
    """Wide with a panel for the classes, narrow for one, and nothing that fails where nothing was found."""
    truth, results = imperfect(0, pictures=12)
    truth["annotations"] = [row for row in truth["annotations"] if classes > 1 or row["category_id"] == 2]
    write_report(assess(truth, results if classes > 1 else []), results, tmp_path)
    curves, errors = (cv2.imread(str(tmp_path / name)) for name in ("pr.png", "errors.png"))
    assert (curves.shape[1] > 1200) == (classes > 1)
    for picture in (curves, errors):
        assert min(picture.shape[:2]) > 400
        assert 0.02 < (picture < 250).any(axis=2).mean() < 0.5  # ink on white


def command(scenes, *more: object) -> list[str]:
    annotations, images = scenes / "instances.json", scenes / "images"
    return [*map(str, ("evaluate", "--annotations", annotations, "--images", images, "--device", "cpu", *more))]


def test_weights_and_their_written_results_give_one_report(tmp_path, scenes, bundled_model, capsys):
    weights = ("--weights", bundled_model / "model.safetensors", "--batch-size", 3)
    assert main(command(scenes, *weights, "--report", tmp_path / "one")) == 0
    printed = capsys.readouterr().out
    results = tmp_path / "one" / "results.json"
    arguments = ("--results", results, "--report", tmp_path / "two", "--evaluator", "faster-coco-eval")
    assert main(command(scenes, *arguments)) == 0
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["mask"] == pytest.approx(two["mask"], abs=1e-12)
    assert one["tide"] == two["tide"]
    assert one["subject"]["resize"] == "letterbox"
    assert mask_ap(scenes / "instances.json", json.loads(results.read_text())).text in printed
    assert "rhesus monkey" in printed
    assert "wrong class" in printed


@pytest.mark.parametrize("called", ["object, id 1", "as they are", "each other's names"])
def test_results_are_judged_as_one_class_when_asked(tmp_path, imperfect, capsys, called):
    truth, results = imperfect(2)
    if called == "object, id 1":  # as a network of one class writes them
        results = [{**result, "category_id": 1} for result in results]
    if called == "each other's names":
        ids = [category["id"] for category in truth["categories"]]
        after = dict(zip(ids, ids[1:] + ids[:1], strict=True))
        results = [{**result, "category_id": after[result["category_id"]]} for result in results]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    files = ("--annotations", tmp_path / "truth.json", "--results", tmp_path / "results.json")
    asked = ["evaluate", *map(str, files), "--class-agnostic", "--report", str(tmp_path / "report")]
    assert main(asked) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    merged = [{**row, "category_id": 7} for row in truth["annotations"]]
    wanted = mask_ap(
        {**truth, "annotations": merged, "categories": [{"id": 7, "name": "all"}]},
        [{**result, "category_id": 7} for result in results],
    )
    assert wanted.text in capsys.readouterr().out
    assert report["mask"]["ap"] == wanted.ap
    assert [(row["name"], row["ap"]) for row in report["classes"]] == [("object", wanted.ap)]
    assert report["tide"]["count"]["cls"] == report["tide"]["count"]["both"] == 0
    assert report["subject"]["classes"] == "all categories judged as one"
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == results
    if called != "as they are":
        assert mask_ap(truth, results).ap < 0.5 * wanted.ap


def test_reference_results_are_those_of_the_predictor(tmp_path, scenes, bundled_model):
    weights, out = bundled_model / "model.safetensors", tmp_path / "results.json"
    arguments = ("--weights", weights, "--resize", "reference", "--short-side", 96, "--out", out)
    assert main(command(scenes, *arguments)) == 0
    predictor = Predictor(weights, "reference", short_side=96)
    dataset = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=True)
    wanted = []
    for image_id, picture in evaluation_pictures(dataset):
        wanted += predictor(picture).to_coco(image_id, predictor.contract.category_ids)
    assert wanted
    assert json.loads(out.read_text()) == wanted


def test_pictures_in_batches_are_segmented_as_alone(small_model, small_contract):
    rng = np.random.default_rng(0)
    sizes = [(40, 90), (70, 30), (64, 64), (100, 50), (20, 20)]
    pictures = [(number, rng.integers(0, 256, (*size, 3), np.uint8)) for number, size in enumerate(sizes)]
    engine = torch_engine(small_model, small_contract)
    runs = []

    def counted(images: np.ndarray):
        runs.append(len(images))
        return engine(images)

    alone = list(segment_pictures(engine, small_contract, pictures, score_threshold=0))
    together = list(segment_pictures(counted, small_contract, pictures, score_threshold=0, batch_size=2))
    assert runs == [2, 2, 1]
    assert [number for number, _ in together] == list(range(5))
    for (_, one), (_, other) in zip(alone, together, strict=True):
        assert one.image_size == other.image_size
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_batches_keep_order_and_rest():
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_batches([], 3)) == []


def test_arguments_that_do_not_go_together_are_refused_in_words(tmp_path, scenes, bundled_model, capsys):
    weights = ("--weights", bundled_model / "model.safetensors")
    assert main(command(scenes, *weights, "--short-side", 320)) == 1
    assert "--short-side goes with --resize reference only" in capsys.readouterr().err
    assert main(["evaluate", *map(str, weights), "--annotations", "x.json"]) == 1
    assert "wanted the folder of the pictures" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "polygon.json").write_text('[{"image_id": 1, "category_id": 1, "score": 1, "segmentation": []}]')
    for name, words in (("broken", "is not JSON"), ("other", "no COCO results"), ("polygon", "no run lengths")):
        assert main(command(scenes, "--results", tmp_path / f"{name}.json")) == 1
        assert words in capsys.readouterr().err
