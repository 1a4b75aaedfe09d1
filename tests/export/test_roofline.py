"""Costs of graphs, counted by hand; least times; the bundled model against what PyTorch counts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparseinst import load_model
from sparseinst.cost import multiply_adds
from sparseinst_export.cli import main
from sparseinst_export.engine_times import EngineTimes, Layer, shares
from sparseinst_export.graph_cost import Traffic, count
from sparseinst_export.roofline import GPUS, Peak, bound, intensity, products, seconds
from sparseinst_export.verify import ExportError

MAPS = 2 * 4 * 6 * 5  # values of a batch of two maps of 4 channels at 6x5
PEAK = Peak("slow", "fp32", operations=1e3, bandwidth=1e3)


def graph_of(nodes, constants, channels=3, rows=6, out=("y", TensorProto.FLOAT), batch="batch"):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, rows, 5])],
        [helper.make_tensor_value_info(*out, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], output, **attributes)


@pytest.fixture
def residual():
    """A convolution 3x3 from 3 to 4 channels, its norm and activation; a second one, added to the first."""
    constants = {
        "w": np.zeros((4, 3, 3, 3), np.float32),
        "factor": np.zeros((1, 4, 1, 1), np.float32),
        "v": np.zeros((4, 4, 1, 1), np.float32),
        "b": np.zeros(4, np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]),
        node("Mul", ["c", "factor"], "n"),
        node("Relu", ["n"], "r"),
        node("Conv", ["r", "v", "b"], "d"),
        node("Add", ["r", "d"], "y"),
    ]
    return graph_of(nodes, constants)


def test_multiply_adds_and_bytes_of_a_small_graph_are_those_counted_by_hand(residual):
    cost = count(residual, 2)
    by_name = {one.name: one for one in cost.operators}
    assert (by_name["c"].macs, by_name["d"].macs) == (MAPS * 27, MAPS * 4)
    assert cost.macs == MAPS * 31
    assert by_name["c"].weights == Traffic(floats=4 * 27)
    assert (by_name["c"].read, by_name["c"].written) == (Traffic(2 * 3 * 30), Traffic(MAPS))
    assert (by_name["n"].weights, by_name["n"].moved) == (Traffic(4), Traffic(2 * MAPS + 4))
    assert by_name["y"].read == Traffic(2 * MAPS)
    assert cost.once == Traffic(2 * 3 * 30 + MAPS + 108 + 4 + 16 + 4)


def test_norms_activations_and_sums_join_the_convolution_before_them(residual):
    first, second = count(residual, 2).passes
    assert first.operators == ("c", "n", "r")
    assert (first.weights, first.read, first.written) == (Traffic(108 + 4), Traffic(180), Traffic(MAPS))
    assert second.operators == ("d", "y")
    # The sum reads the first convolution's maps once more only where the second did not read them already.
    assert (second.read, second.written) == (Traffic(MAPS), Traffic(MAPS))


def test_a_tensor_that_others_want_too_is_written_and_not_joined(residual):
    residual.graph.node.append(node("Sigmoid", ["c"], "s"))
    residual.graph.output.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, None))
    alone = count(residual, 2).passes[0]
    assert alone.operators == ("c",)
    assert alone.written == Traffic(MAPS)


def test_views_and_shapes_move_nothing():
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Expand", ["one", "shape"], "ones"),
        node("Reshape", ["x", "flat"], "v"),
        node("MatMul", ["v", "w"], "m"),
        node("Reshape", ["m", "flat"], "y"),
    ]
    constants = {
        "one": np.ones((1, 1, 1, 1), np.float32),
        "flat": np.array([0, -1, 5], np.int64),
        "w": np.zeros((5, 7), np.float32),
    }
    (product,) = count(graph_of(nodes[2:4], constants, out=("m", TensorProto.FLOAT)), 2).operators
    assert product.macs == 2 * 18 * 5 * 7
    assert (product.read, product.weights, product.written) == (Traffic(180), Traffic(35), Traffic(2 * 18 * 7))
    kept = count(graph_of([*nodes[:2], node("Add", ["x", "ones"], "y")], constants), 2).operators
    assert [one.name for one in kept] == ["y"]
    assert kept[0].weights == Traffic(floats=180)  # the constant that shapes and weights make


def test_a_quantised_convolution_reads_bytes_and_runs_at_the_quantised_rate():
    pair = ["scale", "zero"]
    nodes = [
        node("QuantizeLinear", ["x", *pair], "q"),
        node("DequantizeLinear", ["q", *pair], "d"),
        node("DequantizeLinear", ["w", "scale", "even"], "v"),
        node("Conv", ["d", "v"], "c"),
        node("Relu", ["c"], "y"),
    ]
    constants = {
        "scale": np.float32(0.1),
        "zero": np.uint8(3),
        "even": np.int8(0),
        "w": np.zeros((4, 3, 1, 1), np.int8),
    }
    rounding, convolution = count(graph_of(nodes, constants), 2).passes
    assert (rounding.kind, rounding.written) == ("QuantizeLinear", Traffic(others=180))
    assert convolution.quantised
    assert (convolution.read, convolution.weights) == (Traffic(others=180), Traffic(others=12))
    assert products(convolution, replace(PEAK, quantised=4e3)) == products(convolution, PEAK) / 4


def test_least_times_are_the_longer_of_products_and_bytes(residual):
    cost = count(residual, 2)
    least = bound(cost, PEAK)
    assert least.compute == pytest.approx(2 * MAPS * 31 / 1e3)
    assert least.once == pytest.approx(4 * (180 + MAPS + 132) / 1e3)
    first, second = cost.passes
    assert least.fused == pytest.approx(2 * MAPS * 27 / 1e3 + 4 * (2 * MAPS + 20) / 1e3)  # products, then bytes
    assert seconds([second], replace(PEAK, bandwidth=1e9)) == products(second, PEAK)
    assert least.floor <= least.fused <= least.unfused
    assert intensity([first], "fp16") == 2 * first.macs / (2 * first.moved.floats)


def test_half_the_width_moves_half_the_bytes_and_pictures_stay_bytes(bundled_model):
    cost = count(onnx.load(bundled_model / "model.onnx"), 1)
    picture, masks, labels = 320 * 320 * 3, 50 * 80 * 80, 50 * 4
    assert cost.once.others == picture + masks + labels
    half, full = cost.once.bytes(2), cost.once.bytes(4)
    assert full - half == 2 * cost.once.floats


@pytest.mark.parametrize("batch", [1, 3])
def test_the_graph_of_the_bundled_model_costs_what_the_network_in_pytorch_does(bundled_model, batch):
    model, contract = load_model(bundled_model / "model.safetensors")
    cost = count(onnx.load(bundled_model / "model.onnx"), batch)
    by_part = dict.fromkeys(("pictures", "backbone", "encoder", "decoder", "scoring"), 0)
    for one in cost.operators:
        by_part[one.part] += one.macs
    expected = multiply_adds(model, *contract.input_size)
    assert by_part == {name: batch * value for name, value in expected.items()} | {"pictures": 0, "scoring": 0}
    assert sum(one.macs for one in cost.passes) == cost.macs
    # Every weight once; frozen norms are buffers in PyTorch and constants here.
    parameters = sum(tensor.numel() for tensor in model.parameters())
    assert parameters <= cost.once.floats - 50 * batch <= 1.02 * parameters


def test_fusing_never_moves_more(bundled_model):
    cost = count(onnx.load(bundled_model / "model.onnx"), 1)
    fused, unfused = (sum(one.moved.bytes(4) for one in costs) for costs in (cost.passes, cost.operators))
    assert cost.once.bytes(4) < fused < unfused / 2
    assert sorted(n for one in cost.passes for n in one.operators) == sorted(one.name for one in cost.operators)


def test_time_of_the_engine_goes_to_the_pass_that_holds_its_operators(residual):
    cost = count(residual, 2)
    layers = (
        Layer("engine adds this", "Reorder", (), 0.25),
        Layer("n", "Convolution", ("n", "r"), 20.0),  # the engine has worked the product into the weights
        Layer("y", "Convolution", ("d", "y"), 4.0),
    )
    parts, kinds, losses = shares(EngineTimes(25.0, layers, 1), cost, PEAK)
    assert [(part.name, part.seconds, part.macs) for part in parts] == [("graph", 24.25, cost.macs)]
    assert {kind.name: kind.seconds for kind in kinds} == {"Conv 3x3": 20.0, "Conv 1x1": 4.0, "Reorder": 0.25}
    assert parts[0].least == pytest.approx(seconds(cost.passes, PEAK))
    assert losses[0].seconds == 20.0


def test_rates_of_gpus_are_dense_ones():
    rates = {(peak.name, peak.precision): peak.operations for peak in GPUS}
    for name in ("T4", "L4", "A10", "H100 SXM", "H200 SXM"):  # tensor cores double their rate with half the bits
        assert rates[name, "int8"] / rates[name, "fp16"] == pytest.approx(2, rel=0.01)
    assert ("T4", "fp8") not in rates


def test_a_batch_that_the_graph_does_not_take_is_refused(residual):
    with pytest.raises(ExportError, match="batch is 0"):
        count(residual, 0)
    residual.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(ExportError, match="batches of 4 and no other; got 2"):
        count(residual, 2)


def test_the_command_writes_tables_and_all_figures(bundled_model, tmp_path, capsys):
    out = tmp_path / "roofline.json"
    graph = str(bundled_model / "model.onnx")
    assert main(["roofline", "--onnx", graph, "--peak", "Mine=1000,10", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert sum(one["macs"] for one in figures["operators"]) == 1_462_384_000
    mine = figures["bounds"][-1]
    assert (mine["name"], mine["compute"]) == ("Mine", pytest.approx(2 * 1.462384e9 / 1e12))
    assert f"{1e3 * mine['fused']:.3f}" in printed
    assert "| whole" in printed


def test_the_command_measures_this_cpu(bundled_model, tmp_path, capsys):
    out = tmp_path / "roofline.json"
    graph = str(bundled_model / "model.onnx")
    assert main(["roofline", "--onnx", graph, "--measure", "--repeats", "2", "--json", str(out)]) == 0
    measured = json.loads(out.read_text())["measured"]
    assert {part["name"] for part in measured["parts"]} == {"pictures", "backbone", "encoder", "decoder", "scoring"}
    # Every product of the graph was found in a layer of the engine.
    assert sum(part["macs"] for part in measured["parts"]) == 1_462_384_000
    assert min(measured["peak"][rate] for rate in ("operations", "quantised", "bandwidth", "near")) > 0
    assert "largest losses" in capsys.readouterr().out


@pytest.mark.parametrize("peak", ["Mine", "=1,2", "Mine=1", "Mine=fast,2", "Mine=0,2"])
def test_a_peak_that_is_none_is_refused(peak, capsys):
    with pytest.raises(SystemExit):
        main(["roofline", "--onnx", "none.onnx", "--peak", peak])
    assert "wanted NAME=GFLOPS,GBps" in capsys.readouterr().err
