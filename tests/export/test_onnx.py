"""The exported graph computes what PyTorch computes, at any batch size, and says where it comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lively import lively

from sparseinst import load_model
from sparseinst.checkpoint import save_weights
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig
from sparseinst.network.head import ServingModel
from sparseinst_export import onnx as exporter
from sparseinst_export.cli import main
from sparseinst_export.engines import onnxruntime_engine, openvino_engine
from sparseinst_export.onnx import OPSET, check_signature, export_onnx, verify
from sparseinst_export.verify import Difference, ExportError, compare, smooth_pictures
from sparseinst_runtime import Contract, Letterbox
from sparseinst_runtime.decode import decode

CLASSES = ("ant", "bee", "cicada", "dragonfly", "earwig")
CONTRACT = Contract(CLASSES, category_ids=(1, 2, 3, 5, 8), input_size=(96, 96), max_instances=10, name="small")


class Exported(NamedTuple):
    """A network on disk, its export, and what it gives in PyTorch."""

    weights: Path
    graph: Path
    serving: ServingModel
    contract: Contract

    def torch(self, pictures: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [tensor.numpy() for tensor in self.serving(torch.from_numpy(pictures))]

    def difference(self, engine, pictures: np.ndarray) -> Difference:
        return compare(self.torch(pictures), engine(self.graph)(pictures), self.contract.mask_threshold)


def save_lively(path: Path, groups: int) -> Path:
    decoder = DecoderConfig(len(CLASSES), CONTRACT.max_instances, groups, channels=32, depth=1, kernel_dim=16)
    network = NetworkConfig("mobilenet_v2", EncoderConfig(channels=32), decoder)
    return save_weights(path, lively(network, CONTRACT, seed=groups), CONTRACT)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Exported:
    """The plain decoder, exported by the command."""
    folder = tmp_path_factory.mktemp("plain")
    weights, graph = save_lively(folder / "model.safetensors", groups=1), folder / "new folder" / "model.onnx"
    assert main(["onnx", "--weights", str(weights), "--out", str(graph)]) == 0
    model, contract = load_model(weights)
    return Exported(weights, graph, ServingModel(model, contract).eval(), contract)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Exported:
    """The grouped decoder, exported from Python."""
    folder = tmp_path_factory.mktemp("grouped")
    weights = save_lively(folder / "model.safetensors", groups=4)
    export = export_onnx(weights, folder / "model.onnx")
    assert [difference.batch for difference in export.differences] == [1, 3]
    assert export.size == export.graph.stat().st_size
    model, contract = load_model(weights)
    return Exported(weights, export.graph, ServingModel(model, contract).eval(), contract)


@pytest.fixture(params=["plain", "grouped"])
def exported(request) -> Exported:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def shipped(bundled_model) -> Exported:
    weights = bundled_model / "model.safetensors"
    model, contract = load_model(weights)
    return Exported(weights, bundled_model / "model.onnx", ServingModel(model, contract).eval(), contract)


def metadata(graph: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(graph).metadata_props}


@pytest.mark.parametrize("engine", [onnxruntime_engine, openvino_engine])
@pytest.mark.parametrize("batch", [1, 3])
def test_engines_give_what_torch_gives(exported, batch, engine):
    pictures = smooth_pictures(batch, CONTRACT.input_size, seed=10 + batch)
    expected = exported.torch(pictures)
    difference = exported.difference(engine, pictures)
    assert difference.holds, str(difference)
    # and it is a comparison worth making: masks with an inside and an outside, in no two pictures the same
    assert np.ptp(expected[2]) > 200
    assert expected[2].std() > 30
    if batch > 1:
        assert np.abs(expected[2][0].astype(int) - expected[2][1]).mean() > 10


@pytest.mark.parametrize("engine", [onnxruntime_engine, openvino_engine])
def test_an_engine_does_not_write_into_what_it_gave(plain, engine):
    run = engine(plain.graph)
    first = run(smooth_pictures(1, CONTRACT.input_size, seed=1))
    kept = [output.copy() for output in first]
    run(smooth_pictures(1, CONTRACT.input_size, seed=2))
    assert all(np.array_equal(output, before) for output, before in zip(first, kept, strict=True))


def test_a_picture_does_not_feel_its_batch(exported):
    pictures = smooth_pictures(3, CONTRACT.input_size, seed=30)
    engine = onnxruntime_engine(exported.graph)
    together = engine(pictures)
    for i in range(3):
        alone = engine(pictures[i : i + 1])
        assert compare([output[i : i + 1] for output in together], alone, CONTRACT.mask_threshold).holds


def test_graph_is_valid_in_the_opset_we_name(exported):
    graph = onnx.load(exported.graph)
    onnx.checker.check_model(graph, full_check=True)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    assert OPSET >= 20
    assert not graph.functions
    assert not [tensor.name for tensor in graph.graph.initializer if tensor.external_data]


def test_graph_takes_and_gives_the_contract_for_any_batch(exported):
    session = onnxruntime.InferenceSession(exported.graph, providers=["CPUExecutionProvider"])
    tensors = [(tensor.name, tensor.type, tensor.shape) for tensor in (*session.get_inputs(), *session.get_outputs())]
    assert tensors == [
        ("image", "tensor(uint8)", ["batch", 96, 96, 3]),
        ("scores", "tensor(float)", ["batch", 10]),
        ("labels", "tensor(int32)", ["batch", 10]),
        ("masks", "tensor(uint8)", ["batch", 10, 24, 24]),
    ]


def test_no_uint8_tensor_is_transposed(exported):
    """TensorRT has no uint8 Transpose."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported.graph), strict_mode=True, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    transposed = [types[node.input[0]] for node in graph.node if node.op_type == "Transpose"]
    assert transposed, "the pictures' channels must come forward somewhere"
    assert onnx.TensorProto.UINT8 not in transposed


def test_graph_carries_contract_checksum_and_versions(exported):
    props = metadata(exported.graph)
    assert Contract.from_json(props["contract"]) == CONTRACT
    assert props["weights_sha256"] == hashlib.sha256(exported.weights.read_bytes()).hexdigest()
    assert (props["torch_version"], props["onnx_version"]) == (torch.__version__, onnx.__version__)
    assert Contract.load(exported.graph.with_name("contract.json")) == CONTRACT


def test_graph_tells_nothing_about_the_machine_it_was_made_on(exported, repo_root):
    data = exported.graph.read_bytes()
    for trace in (str(repo_root), "site-packages", ".py", "File "):
        assert trace.encode() not in data


def test_weights_stored_in_half_stay_half(exported):
    assert exported.graph.stat().st_size < 1.2 * exported.weights.stat().st_size


def test_same_weights_give_the_same_bytes(plain, tmp_path):
    assert export_onnx(plain.weights, tmp_path / "again.onnx").graph.read_bytes() == plain.graph.read_bytes()


def test_a_graph_of_other_weights_is_refused_and_the_old_one_stays(plain, grouped, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "build_graph", lambda *_: onnx.load(grouped.graph))
    out = tmp_path / "model.onnx"
    out.write_bytes(b"an older graph")
    with pytest.raises(
        ExportError, match=r"does not give what PyTorch gives; batch 1: scores differ by \d.*nothing was"
    ):
        export_onnx(plain.weights, out)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.onnx", b"an older graph")]


def test_a_graph_for_another_contract_is_refused(plain):
    graph = onnx.load(plain.graph)
    check_signature(graph, CONTRACT)
    other = Contract(CLASSES, CONTRACT.category_ids, input_size=(96, 96), max_instances=11)
    with pytest.raises(ExportError, match=r"the graph takes and gives .*; the contract wants .*11"):
        check_signature(graph, other)


def test_evaluation_refuses_what_is_no_graph_of_the_contract(plain, bundled, tmp_path, capsys):
    where = ["--annotations", "val.json", "--images", "val", "--out", str(tmp_path / "out.json")]
    contract, graph = tmp_path / "contract.json", tmp_path / "model.onnx"
    contract.write_text(bundled.to_json())
    assert main(["evaluate", "--onnx", str(plain.graph), "--contract", str(contract), *where]) == 1
    assert "the contract wants " in capsys.readouterr().err
    graph.write_bytes(b"half a graph")
    assert main(["evaluate", "--onnx", str(graph), *where]) == 1
    assert "is no ONNX graph" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [contract, graph]


def test_command_names_missing_weights(tmp_path, capsys):
    assert main(["onnx", "--weights", str(tmp_path / "none.safetensors"), "--out", str(tmp_path / "m.onnx")]) == 1
    assert capsys.readouterr().err.startswith("sparseinst-export: no weights at ")
    with pytest.raises(ExportError, match=r"ends in \.onnx"):
        export_onnx(tmp_path / "none.safetensors", tmp_path / "m.bin")


def test_shipped_graph_is_the_export_of_the_shipped_weights(shipped, bundled):
    props = metadata(shipped.graph)
    assert props["weights_sha256"] == hashlib.sha256(shipped.weights.read_bytes()).hexdigest()
    assert Contract.from_json(props["contract"]) == shipped.contract == bundled
    check_signature(onnx.load(shipped.graph), bundled)


def test_shipped_graph_gives_what_the_shipped_weights_give_on_scenes(shipped, scenes):
    contract, pictures = shipped.contract, []
    for path in sorted((scenes / "images").iterdir())[:4]:
        picture = decode(path.read_bytes())
        letterbox = Letterbox.fit(*picture.shape[:2], contract.input_size)
        pictures.append(letterbox.apply(picture, contract.pad_colour))
    batches = [np.stack(pictures[:1]), np.stack(pictures[1:])]
    differences = verify(shipped.graph.read_bytes(), shipped.serving, contract, batches)
    assert [difference.batch for difference in differences] == [1, 3]
    assert max(difference.mask_share for difference in differences) < 1e-3  # trained masks are surer than random ones
