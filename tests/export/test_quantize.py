"""A quantised graph keeps the contract and the answers, and is quantised where it says and nowhere else."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparseinst.data import CocoInstances, evaluation_pictures
from sparseinst.evaluate import evaluate
from sparseinst_export.cli import main
from sparseinst_export.engines import onnxruntime_engine, openvino_engine
from sparseinst_export.folding import folded
from sparseinst_export.layer_groups import by_group, find_layers, group_of
from sparseinst_export.mixed_precision import Measure, search
from sparseinst_export.onnx import check_signature
from sparseinst_export.quantize import Settings, quantize
from sparseinst_export.tensorrt_check import check_tensorrt
from sparseinst_export.verify import ExportError

KEPT = ("backbone.1", "backbone.2", "decoder.iam_conv")  # the first two are what a search gives back
PICTURES = 4  # to calibrate with: few, for speed
AP_BOUND = 0.03  # measured: -0.007 and 0.003 for CPUs, 0.012 for TensorRT


@pytest.fixture(scope="module")
def graph(bundled_model):
    return bundled_model / "model.onnx"


@pytest.fixture(scope="module")
def groups(graph):
    return tuple(by_group(find_layers(folded(onnx.load(graph)))))


@pytest.fixture(scope="module")
def make(graph, scenes, tmp_path_factory):
    """Quantises the shipped graph with a few scenes; gives the file."""

    def run(*options: str, annotations=scenes / "instances.json"):
        out = tmp_path_factory.mktemp("quantised") / "model.int8.onnx"
        given = ["--onnx", str(graph), "--annotations", str(annotations), "--images", str(scenes / "images")]
        pictures = [] if "--calibration-pictures" in options else ["--calibration-pictures", str(PICTURES)]
        assert main(["quantize", *given, "--out", str(out), *pictures, *options]) == 0
        return out

    return run


@pytest.fixture(scope="module")
def for_cpu(make):
    return make("--no-search", "--keep-float", *KEPT)


@pytest.fixture(scope="module")
def for_tensorrt(make):
    return make("--no-search", "--target", "tensorrt", "--keep-float", *KEPT)


def convolutions(path):
    """The weights' name, group and maker of each convolution's input and weights."""
    graph = onnx.load(path).graph
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            source, weight = (made_by.get(name) for name in node.input[:2])
            name = weight.input[0] if weight is not None else node.input[1]
            yield name, group_of(name), [maker.op_type if maker else None for maker in (source, weight)]


def scenes_ap(engine, contract, scenes):
    dataset = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=True)
    return evaluate(engine, contract, str(scenes / "instances.json"), evaluation_pictures(dataset))[0].ap


@pytest.mark.parametrize("target", ["for_cpu", "for_tensorrt"])
def test_inputs_outputs_and_contract_stay(target, graph, bundled, request):
    path = request.getfixturevalue(target)
    model, origin = onnx.load(path), onnx.load(graph)
    check_signature(model, bundled)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    for entry in origin.metadata_props:
        assert entry.key == "precision" or properties[entry.key] == entry.value
    assert properties["precision"] == "int8"
    assert path.with_name("contract.json").read_text() == bundled.to_json()
    for engine in (onnxruntime_engine, openvino_engine):
        scores, labels, masks = engine(path)(np.zeros((3, *bundled.input.shape), np.uint8))
        assert (len(scores), len(labels), len(masks)) == (3, 3, 3)


@pytest.mark.parametrize("target", ["for_cpu", "for_tensorrt"])
def test_all_groups_are_quantised_but_those_kept(target, groups, request):
    path, seen = request.getfixturevalue(target), set()
    for name, group, makers in convolutions(path):
        seen.add(group)
        if group in KEPT:
            assert "DequantizeLinear" not in makers, name
        else:
            assert makers == ["DequantizeLinear", "DequantizeLinear"], name
    assert seen == set(groups)
    assert json.loads(path.with_suffix(".json").read_text())["complete"]


def test_folding_changes_no_answer(graph, bundled):
    before, after = onnxruntime_engine(graph), onnxruntime_engine(folded(onnx.load(graph)).SerializeToString())
    picture = np.random.default_rng(0).integers(0, 256, (2, *bundled.input.shape), np.uint8)
    for expected, got in zip(before(picture), after(picture), strict=True):
        np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=1 if got.dtype == np.uint8 else 1e-5)


# OpenVINO computes int8 behind concatenations wrongly (see `calibration.unsigned`), so that ONNX Runtime judges those.
@pytest.mark.parametrize(
    ("target", "engine"),
    [("for_cpu", openvino_engine), ("for_cpu", onnxruntime_engine), ("for_tensorrt", onnxruntime_engine)],
)
def test_ap_on_the_scenes_stays_near(target, engine, graph, bundled, scenes, request):
    path = request.getfixturevalue(target)
    lost = scenes_ap(engine(graph), bundled, scenes) - scenes_ap(engine(path), bundled, scenes)
    assert lost <= AP_BOUND, lost


def test_tensorrt_gets_int8_around_zero_alone(for_tensorrt):
    graph = onnx.load(for_tensorrt).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(constants[node.input[2]].any() for node in pairs)
    assert {constants[node.input[1]].ndim for node in pairs if node.op_type == "QuantizeLinear"} == {0}


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="TensorRT-RTX has no build for this machine"
)
def test_tensorrt_takes_int8_and_fp8(for_tensorrt, make):
    check = check_tensorrt(for_tensorrt)
    assert check.taken, check.refusals
    assert check.precisions["int8"] == sum(group not in KEPT for _, group, _ in convolutions(for_tensorrt))
    fp8 = make("--no-search", "--precision", "fp8", "--calibration-pictures", "1")
    check = check_tensorrt(fp8)
    assert check.taken, check.refusals
    assert check.precisions["fp8"] == len(list(convolutions(fp8)))


def test_the_same_inputs_give_the_same_bytes(for_cpu, make):
    again = make("--no-search", "--keep-float", *KEPT)
    assert again.read_bytes() == for_cpu.read_bytes()
    assert again.with_suffix(".json").read_bytes() == for_cpu.with_suffix(".json").read_bytes()


def test_the_costliest_groups_are_given_back_until_it_is_enough():
    cost = {"a": 0.01, "b": 0.2, "c": 0.001, "d": 0.05}

    def measure(quantised):
        lost = sum(cost[group] for group in quantised)
        return Measure(0.5 - lost / 2, 1 - lost)

    found = search(tuple(cost), Measure(0.5, 1.0), measure, max_drop=0.006, min_agreement=0)
    assert found.kept == ("b", "d")
    assert search(tuple(cost), Measure(0.5, 1.0), measure, max_drop=1, min_agreement=0.9).kept == ("b",)
    assert found.result == measure({"a", "c"})
    assert found.alone["d"] == measure({"d"})
    asked = search(tuple(cost), Measure(None, 1.0), measure, keep_float=("c",), max_drop=0.0, min_agreement=0.985)
    assert asked.kept == ("c", "b", "d")


def test_a_search_that_was_stopped_goes_on(graph, groups, scenes, tmp_path, capsys):
    open_groups = ("encoder.fusion", "decoder.projection")
    settings = Settings(
        calibration_pictures=2,
        search_pictures=2,
        max_drop=1.0,
        min_agreement=0.0,
        keep_float=tuple(group for group in groups if group not in open_groups),
    )
    annotations, images, out = scenes / "instances.json", scenes / "images", tmp_path / "model.int8.onnx"
    first = quantize(graph, annotations, images, out, settings)
    assert {group.name for group in first.groups if group.quantised} == set(open_groups)
    record = json.loads(first.record.read_text())
    assert record["result"] == record["measured"][" ".join(sorted(open_groups))]
    record["measured"]["encoder.fusion"]["agreement"] = 0.25  # what nobody would measure
    first.record.write_text(json.dumps(record | {"complete": False}))
    second = quantize(graph, annotations, images, out, settings)
    assert second.found.alone["encoder.fusion"].agreement == 0.25
    assert second.found.alone["decoder.projection"] == first.found.alone["decoder.projection"]
    with pytest.raises(ExportError, match="every group of layers stays float"):
        quantize(graph, annotations, images, out, Settings(**vars(settings) | {"min_agreement": 2.0}))
    third = quantize(graph, annotations, images, out, Settings(**vars(settings) | {"seed": 1}))
    assert third.found.alone["encoder.fusion"].agreement != 0.25  # other pictures: measured anew


def test_pictures_without_annotations_are_judged_by_agreement(make, scenes, groups, tmp_path):
    bare = json.loads((scenes / "instances.json").read_text()) | {"annotations": []}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    kept = [group for group in groups if group != "encoder.fusion"]
    options = (
        "--calibration-pictures",
        "1",
        "--search-pictures",
        "2",
        "--max-drop",
        "-1",
        "--min-agreement",
        "0.5",
        "--keep-float",
        *kept,
    )
    out = make(*options, annotations=tmp_path / "bare.json")
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["result"]["ap"] is None
    assert record["float"]["agreement"] == pytest.approx(1.0)
    assert 0.5 < record["result"]["agreement"] <= 1.0


def test_nothing_is_reported_over_the_network():
    program = (
        "import onnx, sparseinst_export.calibration as ours\n"
        "try: ours.calibrate(onnx.ModelProto(), [], [])\n"
        "except Exception: pass\n"
        "from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry\n"
        "assert isinstance(telemetry, NNCFTelemetryStub)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def write(path, model, **properties):
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | properties)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("what", "options", "sentence"),
    [
        ("bytes", (), "is no ONNX graph"),
        ("bare", (), "carries no contract"),
        ("fp16", (), "is fp16 already"),
        ("int8", (), "is int8 already"),
        ("silent", (), "has quantised layers already"),
        ("ours", ("--calibration-pictures", "17"), "there are 16 pictures; wanted 17 to calibrate"),
        ("ours", ("--search-pictures", "17"), "17 to search with"),
        (
            "ours",
            ("--keep-float", "decoder.head"),
            "there is no group decoder.head; the graph's groups are backbone.0,",
        ),
        ("ours", ("--precision", "fp8", "--target", "cpu"), "fp8 is for TensorRT"),
    ],
)
def test_what_cannot_be_quantised_is_said(what, options, sentence, graph, for_cpu, scenes, tmp_path, capsys):
    path = tmp_path / "given.onnx"
    if what == "bytes":
        path.write_bytes(b"no graph")
    elif what == "bare":
        model = onnx.load(graph)
        del model.metadata_props[:]
        onnx.save(model, path)
    elif what == "silent":
        write(path, onnx.load(for_cpu), precision="fp32")
    else:
        path = {"int8": for_cpu, "ours": graph}.get(what) or write(path, onnx.load(graph), precision=what)
    out = tmp_path / "out" / "model.onnx"
    given = ["--onnx", str(path), "--annotations", str(scenes / "instances.json"), "--images", str(scenes / "images")]
    few = [] if options else ["--calibration-pictures", "1"]
    assert main(["quantize", *given, "--out", str(out), "--search-pictures", "1", *few, *options]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.parent.exists()


def test_the_graph_itself_is_not_overwritten(graph, scenes):
    with pytest.raises(ExportError, match="wanted another file name than the graph's"):
        quantize(graph, scenes / "instances.json", scenes / "images", graph)
