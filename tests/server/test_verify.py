"""What a server answered is held against PyTorch and against the engine of its kind, by `sparseinst-export verify`."""

from __future__ import annotations

import json

import pytest

from sparseinst_client.cli import main as sparseinst_client
from sparseinst_export.cli import main as sparseinst_export


@pytest.fixture(scope="module")
def few(scenes, tmp_path_factory):
    """Annotations of three of the scenes."""
    truth = json.loads((scenes / "instances.json").read_text())
    kept = {image["id"] for image in truth["images"][1:4]}
    truth["images"] = [image for image in truth["images"] if image["id"] in kept]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in kept]
    path = tmp_path_factory.mktemp("few") / "few.json"
    path.write_text(json.dumps(truth))
    return path


@pytest.fixture(scope="module")
def served(url, few, scenes, tmp_path_factory):
    """What the server answers for them, by either protocol."""
    out = tmp_path_factory.mktemp("served") / "results.json"
    where = ["--annotations", str(few), "--images", str(scenes / "images"), "--out", str(out)]
    assert sparseinst_client(["evaluate", "--url", url, *where]) == 0
    return out


@pytest.fixture
def verify(bundled_model, few, scenes, tmp_path):
    """Verifies results that were served: the exit status, and what verify.json says."""

    def run(results):
        files = {"--weights": bundled_model / "model.safetensors", "--onnx": bundled_model / "model.onnx"}
        files |= {"--annotations": few, "--images": scenes / "images", "--served": results, "--out": tmp_path}
        arguments = [str(part) for pair in files.items() for part in pair]
        code = sparseinst_export(["verify", *arguments, "--engine", "openvino"])
        return code, json.loads((tmp_path / "verify.json").read_text())

    return run


def test_what_was_served_is_what_the_network_answers(served, verify, capsys):
    code, figures = verify(served)
    assert code == 0, capsys.readouterr().err
    rows = {(row["engine"], row["against"]): row for row in figures["comparisons"]}
    assert rows.keys() == {("openvino", "PyTorch"), ("served", "PyTorch"), ("served", "openvino")}
    assert rows["served", "PyTorch"]["instances"]["instances"] == rows["openvino", "PyTorch"]["instances"]["instances"]
    assert rows["served", "PyTorch"]["tensors"] is None
    same = rows["served", "openvino"]
    assert same["instances"]["label_agreement"] == 1
    assert same["instances"]["iou_min"] == pytest.approx(1, abs=1e-3)
    assert same["ap_difference"] == pytest.approx(0, abs=1e-4)
    assert figures["subject"]["files"]["served results"]["name"] == "results.json"


def test_a_served_label_that_is_wrong_is_named(served, verify, tmp_path, capsys):
    results = json.loads(served.read_text())
    best = max(results, key=lambda row: row["score"])
    best["category_id"] = best["category_id"] % 7 + 1
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(results))
    code, figures = verify(wrong)
    assert code == 1
    said = capsys.readouterr().err
    for other in ("PyTorch", "openvino"):
        assert f"served against {other}: label agreement is" in said
    assert "openvino against PyTorch" not in said, "the engine here is as it was"
    assert figures["worst"]["image_id"] == best["image_id"]
    assert not figures["worst"]["same_label"]
