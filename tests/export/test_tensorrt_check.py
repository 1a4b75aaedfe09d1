"""TensorRT's parser and compiler take what we export, and what they refuse is refused in words."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparseinst_export.cli import main
from sparseinst_export.tensorrt_check import check_tensorrt, precisions
from sparseinst_export.verify import ExportError
from sparseinst_runtime import Contract

if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
    pytest.skip("TensorRT-RTX has no build for this machine", allow_module_level=True)

CONTRACT = Contract(("ant", "bee"), (1, 2), input_size=(64, 64), max_instances=10)
IMAGE = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 3])
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path) -> Save:
    """Writes nodes from `image` to `answer` as an ONNX file."""

    def write(nodes: list[onnx.NodeProto], element: int, shape: list, weights: dict[str, np.ndarray] | None = None):
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
        answer = helper.make_tensor_value_info("answer", element, shape)
        graph = helper.make_graph(nodes, "graph", [IMAGE], [answer], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def refusal(path: Path, capsys) -> str:
    """What the command says about a graph that it must refuse."""
    assert main(["check-tensorrt", str(path)]) == 1
    said = capsys.readouterr().out
    assert f"{path}: refused" in said
    return said


def cast(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], to=TensorProto.FLOAT)


def to_channels(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", [source], [target], name="to_channels", perm=[0, 3, 1, 2])


def test_shipped_graph_is_taken_for_the_batches_of_its_contract(bundled_model, bundled, tmp_path, capsys):
    graph, figures = bundled_model / "model.onnx", tmp_path / "check.json"
    assert main(["check-tensorrt", str(graph), "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert f"{graph}: taken" in said
    assert "Nothing ran, and these engines are not what Triton serves" in said
    assert "Not verified on a GPU" in said
    written = json.loads(figures.read_text())
    (row,) = written["graphs"]
    assert row["taken"]
    assert row["profile"] == {"smallest": 1, "usual": 4, "largest": bundled.max_batch_size}
    assert set(row["precisions"]) == {"fp32"}
    assert written["proves"] in said


def test_a_transpose_of_pixels_is_refused_in_our_words(save, capsys):
    said = refusal(
        save([to_channels("image", "x"), cast("x", "answer")], TensorProto.FLOAT, ["batch", 3, 8, 8]), capsys
    )
    assert "node to_channels (Transpose): TensorRT has no uint8 transpose; cast first" in said
    cast_first = save([cast("image", "x"), to_channels("x", "answer")], TensorProto.FLOAT, ["batch", 3, 8, 8])
    assert check_tensorrt(cast_first).taken


def test_deformable_convolution_is_refused_in_our_words(save, capsys):
    weights = {"weight": np.zeros((4, 3, 3, 3), np.float32), "offsets": np.zeros((18, 3, 3, 3), np.float32)}
    deformable = [
        helper.make_node("Conv", ["x", "offsets"], ["where"], pads=[1, 1, 1, 1]),
        helper.make_node("DeformConv", ["x", "weight", "where"], ["answer"], name="dcn", pads=[1, 1, 1, 1]),
    ]
    nodes = [cast("image", "pixels"), to_channels("pixels", "x"), *deformable]
    said = refusal(save(nodes, TensorProto.FLOAT, ["batch", 4, 8, 8], weights), capsys)
    assert "node dcn (DeformConv): needs a plugin for deformable convolution, which TensorRT-RTX has not" in said
    assert "engines that can: ONNX Runtime on the CPU; not OpenVINO" in said


def test_any_other_operator_is_named_with_its_node(save, capsys):
    shift = helper.make_node("BitShift", ["image", "by"], ["answer"], name="shift", direction="LEFT")
    path = save([shift], TensorProto.UINT8, ["batch", 8, 8, 3], {"by": np.ones(1, np.uint8)})
    said = refusal(path, capsys)
    assert "node shift (BitShift): unsupported node" in said


def test_one_refused_graph_among_others_is_an_exit_code(save, bundled_model, capsys):
    bad = save([to_channels("image", "x"), cast("x", "answer")], TensorProto.FLOAT, ["batch", 3, 8, 8])
    good = bad.with_name("good.onnx")
    onnx.save(onnx.load(save([cast("image", "answer")], TensorProto.FLOAT, ["batch", 8, 8, 3])), good)
    bad = save([to_channels("image", "x"), cast("x", "answer")], TensorProto.FLOAT, ["batch", 3, 8, 8])
    assert main(["check-tensorrt", str(bad), str(good)]) == 1
    said = capsys.readouterr().out
    assert f"{bad}: refused" in said
    assert f"{good}: taken" in said


def test_quantised_operators_count_by_the_type_that_is_computed(save):
    scale = {"scale": np.float32(0.5), "weight": np.zeros((4, 3, 1, 1), np.float32), "zero": np.int8(0)}
    nodes = [
        cast("image", "pixels"),
        to_channels("pixels", "x"),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "weight"], ["y"]),
        helper.make_node("Cast", ["y"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "half"], ["answer"]),
    ]
    path = save(nodes, TensorProto.FLOAT16, ["batch", 4, 8, 8], {name: np.asarray(v) for name, v in scale.items()})
    assert precisions(onnx.load(path)) == {"int8": 1, "fp16": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch-min", "0"], "batch sizes are 0, 4, 8; wanted 1 <= smallest"),
        (["--batch-opt", "9"], "batch sizes are 1, 9, 8; wanted 1 <= smallest"),
    ],
)
def test_batches_out_of_order_are_refused(options, words, bundled_model, capsys):
    assert main(["check-tensorrt", str(bundled_model / "model.onnx"), *options]) == 1
    assert words in capsys.readouterr().err


def test_what_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"half a graph")
    with pytest.raises(ExportError, match="is no ONNX graph"):
        check_tensorrt(path)


def test_a_picture_of_any_size_is_refused(save):
    path = save([cast("image", "answer")], TensorProto.FLOAT, ["batch", 8, 8, 3])
    graph = onnx.load(path)
    for tensor in (graph.graph.input[0], graph.graph.output[0]):
        tensor.type.tensor_type.shape.dim[1].dim_param = "height"
    onnx.save(graph, path)
    with pytest.raises(ExportError, match=r"image is \(-1, -1, 8, 3\), -1 being any; wanted a fixed size"):
        check_tensorrt(path)


def test_without_the_package_a_sentence_says_how_to_get_it(bundled_model):
    """In a fresh interpreter that cannot see it, as on a machine it is not built for."""
    program = (
        "import sys\n"
        "sys.modules['tensorrt_rtx'] = None\n"
        "from sparseinst_export.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "check-tensorrt", str(bundled_model / "model.onnx")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'sparseinst[export]' brings it on Linux x86_64, this is Linux" in ran.stderr
    assert "Traceback" not in ran.stderr
