"""`sparseinst-export verify`: engines agree with PyTorch on real pictures, and what does not is named and shown."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import NamedTuple

import cv2
import numpy as np
import onnx
import pytest

from sparseinst.data import CocoInstances
from sparseinst_export.available import load_engines
from sparseinst_export.cli import main
from sparseinst_export.plan import EngineUnavailableError, tensorrt_engine
from sparseinst_export.verification import PRECISIONS, verify_engines
from sparseinst_runtime import Contract
from sparseinst_runtime.coco import ground_truth


class Ran(NamedTuple):
    """A run of the command."""

    code: int
    out: str
    err: str
    folder: object

    @property
    def page(self) -> str:
        return (self.folder / "verify.md").read_text()

    @property
    def figures(self) -> dict:
        return json.loads((self.folder / "verify.json").read_text())


@pytest.fixture(scope="module")
def verify(bundled_model, scenes, tmp_path_factory):
    """Runs the command on the bundled model and the first scenes."""

    def run(capture, *options, graph=None, limit=2) -> Ran:
        folder = tmp_path_factory.mktemp("verify") / "new" / "folder"
        arguments = ["verify", "--weights", bundled_model / "model.safetensors", "--out", folder]
        arguments += ["--onnx", graph or bundled_model / "model.onnx", "--limit", limit]
        arguments += ["--annotations", scenes / "instances.json", "--images", scenes / "images", *options]
        code = main([str(argument) for argument in arguments])
        said = capture.readouterr()
        return Ran(code, said.out, said.err, folder)

    return run


@pytest.fixture(scope="module")
def damaged(bundled_model, tmp_path_factory):
    """The bundled graph with the bias of one class raised, so that everything is one."""
    model = onnx.load(bundled_model / "model.onnx")
    (bias,) = (each for each in model.graph.initializer if each.name.endswith("cls_score.bias"))
    values = onnx.numpy_helper.to_array(bias).copy()
    values[3] += 6
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    graph = tmp_path_factory.mktemp("damaged") / "model.onnx"
    onnx.save(model, graph)
    return graph


def test_engines_agree_and_the_report_says_the_same_everywhere(verify, capsys, bundled_model, scenes):
    ran = verify(capsys, limit=4)
    assert (ran.code, ran.err) == (0, ""), ran.err
    figures = ran.figures
    assert figures["holds"]
    assert figures["failures"] == []
    assert figures["pictures"] == 4
    assert [row["engine"] for row in figures["comparisons"]] == ["onnxruntime", "openvino"]
    assert figures["reference"]["ap"] > 0.2
    for row in figures["comparisons"]:
        assert row["against"] == "PyTorch"
        assert row["instances"]["instances"] > 3
        assert row["tensors"]["mask_max"] <= 1
        (line,) = (line for line in ran.page.splitlines() if line.startswith(f"| {row['engine']} | PyTorch | yes |"))
        instances = row["instances"]
        shown = [f"{row['ap']:.4f}", f"{row['ap_difference']:+.4f}", str(instances["instances"])]
        shown += [f"{instances[name]:.4f}" for name in ("label_agreement", "iou_min", "iou_p01", "iou_median")]
        assert [cell.strip() for cell in line.split("|")[4:11]] == shown
        assert f"{row['engine']} against PyTorch: mask AP {row['ap']:.4f}" in ran.out
    assert "**Holds**" in ran.page
    assert "tensorrt was left out: no --plan was given" in ran.page
    assert "no --plan was given" in figures["subject"]["left_out"]["tensorrt"]
    assert "tensorrt was left out: no --plan was given" in ran.out

    weights, graph = bundled_model / "model.safetensors", bundled_model / "model.onnx"
    files = {"weights": weights, "graph": graph, "annotations": scenes / "instances.json"}
    for what, path in files.items():
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        assert figures["subject"]["files"][what] == {"name": path.name, "sha256": checksum}
        assert checksum in ran.page
    assert figures["subject"]["notes"] == []
    assert f"onnx {onnx.__version__}" in ran.page

    picture = cv2.imread(str(ran.folder / "worst.png"))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 480
    ious = [row["instances"]["iou_min"] for row in figures["comparisons"]]
    assert figures["worst"]["iou"] == min(ious)
    assert str(bundled_model) not in ran.page + json.dumps(figures), "files go by their names"


def test_a_damaged_graph_fails_and_what_differs_is_named(verify, damaged, capsys):
    ran = verify(capsys, "--engine", "onnxruntime", graph=damaged)
    assert ran.code == 1
    sentences = [line.removeprefix("sparseinst-export: ") for line in ran.err.splitlines()]
    assert ran.figures["failures"] == sentences
    for words in ("scores differ by", "label agreement is", "mask AP differs by"):
        assert sum(line.startswith("onnxruntime against PyTorch: ") and words in line for line in sentences) == 1
    assert not any("mask values" in line or "IoU" in line for line in sentences), "masks do not hang on this bias"
    assert all(f"- {line}" in ran.page for line in sentences)
    assert "| onnxruntime | PyTorch | no |" in ran.page
    assert not ran.figures["worst"]["same_label"]
    assert not ran.figures["holds"]


def test_tolerances_are_options(verify, damaged, capsys):
    lax = ["--engine", "onnxruntime", "--ap-difference", "1", "--label-agreement", "0"]
    ran = verify(capsys, *lax, graph=damaged, limit=1)
    assert ran.code == 1
    assert "scores differ by" in ran.err
    assert len(ran.err.splitlines()) == 1
    ran = verify(capsys, *lax, "--score-error", "1", graph=damaged, limit=1)
    assert (ran.code, ran.err) == (0, "")
    assert ran.figures["tolerances"]["onnxruntime against PyTorch"]["score"] == 1
    assert ran.figures["tolerances"]["onnxruntime against PyTorch"]["iou"] == 0.99


def test_help_tells_the_defaults_there_are(capsys):
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    single, half = PRECISIONS["fp32"], PRECISIONS["fp16"]
    for said in (f"({single.ap:g})", f"({single.labels:g})", f"({single.iou:g})"):
        assert said in text
    for name in ("score", "mask_share"):
        values = [f"{getattr(each, name):.0e}".replace("e-0", "e-") for each in (single, half)]
        assert f"(fp32 {values[0]}, fp16, TensorRT {values[1]})" in text
    rough = PRECISIONS["int8"]
    assert rough == PRECISIONS["fp8"]
    assert f"AP {rough.ap:g}, labels {rough.labels:g}, mask IoU {rough.iou:g}, score error {rough.score:g}" in text
    assert f"and mask share {rough.mask_share:g}." in text


@pytest.mark.parametrize("option", [("--mask-iou", "1.5"), ("--ap-difference", "nan"), ("--limit", "0")])
def test_senseless_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["verify", *option])
    assert option[0] in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_left_out_in_words(bundled_model, tmp_path, monkeypatch):
    contract = Contract.load(bundled_model / "contract.json")
    graph = (bundled_model / "model.onnx").read_bytes()
    monkeypatch.setitem(sys.modules, "openvino", None)  # Python's own way to say that a module cannot be imported
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    available = load_engines(graph, plan, contract)
    assert list(available.engines) == ["onnxruntime"]
    assert available.left_out["openvino"] == "openvino is not installed"
    assert "the package tensorrt is missing" in available.left_out["tensorrt"]
    assert not available.broken
    asked_for = load_engines(graph, plan, contract, ["openvino"])
    assert asked_for.broken == {"openvino": "openvino is not installed"}
    with pytest.raises(EngineUnavailableError, match="package tensorrt is missing"):
        tensorrt_engine(plan, contract)


def test_an_engine_that_refuses_the_graph_counts_as_broken(bundled_model):
    available = load_engines(b"no graph", None, Contract.load(bundled_model / "contract.json"))
    assert set(available.broken) == {"onnxruntime", "openvino"}
    assert all(why.startswith("does not take the graph: ") for why in available.broken.values())


@pytest.fixture(scope="module")
def stand(scenes):
    """Data set, truth and contract for engines of a test's own."""
    contract = Contract(
        tuple("abcdefg"),
        tuple(range(1, 8)),
        input_size=(64, 64),
        max_instances=3,
        score_threshold=0.3,
        mask_threshold=0.45,
    )
    dataset = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=True)
    return dataset, ground_truth(scenes / "instances.json", contract), contract


def by_brightness(images):
    """An engine without a network: masks are the brightness of the picture, everything else is fixed."""
    small = images[:, ::4, ::4].mean(axis=-1)
    masks = np.stack([small, 255 - small, np.full_like(small, 200)], axis=1).astype(np.uint8)
    count = len(images)
    scores = np.tile(np.array([[0.9, 0.5, 0.1]], np.float32), (count, 1))
    return scores, np.tile(np.array([[1, 2, 3]], np.int32), (count, 1)), masks


def test_an_engine_that_breaks_off_is_named_and_the_others_go_on(stand):
    calls = []

    def nan(images):
        calls.append("nan")
        scores, labels, masks = by_brightness(images)
        return (scores * np.nan if len(calls) == 2 else scores), labels, masks

    def bad(images):
        raise RuntimeError("the library says so\nin two lines")

    dataset, truth, contract = stand
    engines = {"good": by_brightness, "nan": nan, "bad": bad}
    tolerances = dict.fromkeys(engines, PRECISIONS["fp32"])
    result = verify_engines(by_brightness, engines, contract, dataset, truth, tolerances=tolerances, limit=3)
    assert result.pictures == 3
    assert len(calls) == 2, "no picture after the one that broke it"
    assert [comparison.engine for comparison in result.comparisons] == ["good"]
    assert result.comparisons[0].instances.figures()["instances"] >= 6
    assert result.comparisons[0].failures == []
    assert "picture 2: ValueError: 3 of 3 scores are not finite" in result.broken["nan"]
    assert result.broken["bad"] == "stopped at picture 1: RuntimeError: the library says so"
    assert sorted(result.failures) == sorted(f"{name}: {why}" for name, why in result.broken.items())


def test_labels_that_no_class_has_are_an_error_of_the_engine(stand):
    def stray(images):
        scores, labels, masks = by_brightness(images)
        return scores, labels + 5, masks

    dataset, truth, contract = stand
    tolerances = {"stray": PRECISIONS["fp32"]}
    result = verify_engines(by_brightness, {"stray": stray}, contract, dataset, truth, tolerances=tolerances, limit=1)
    assert "labels 6 to 8; wanted 0 to 6" in result.broken["stray"]
