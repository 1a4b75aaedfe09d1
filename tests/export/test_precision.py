"""Half precision changes numbers a little and the contract not at all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from sparseinst import SparseInst, load_model
from sparseinst.data import CocoInstances, evaluation_pictures
from sparseinst.evaluate import Engine, evaluate
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig
from sparseinst.network.head import ServingModel, normalise
from sparseinst_export.cli import main
from sparseinst_export.engines import onnxruntime_engine
from sparseinst_export.onnx import check_signature, verify
from sparseinst_export.precision import HalfSparseInst
from sparseinst_export.tensorrt_check import precisions
from sparseinst_export.verify import FP16, ExportError
from sparseinst_runtime import Contract, Letterbox
from sparseinst_runtime.decode import decode

# Largest error of a logit over the largest logit. What costs it are the weights of the backbone with the norms worked
# in: rounding those alone gives 1.2e-2 for the objectness, rounding all activations alone 1.5e-3.
LOGITS = {"pred_logits": 1.5e-2, "pred_scores": 2e-2, "pred_masks": 1.5e-2}
AP = 0.005


class Half(NamedTuple):
    """The shipped weights in half precision, and their network in float32."""

    graph: Path
    model: SparseInst
    contract: Contract


@pytest.fixture(scope="module")
def half(bundled_model, tmp_path_factory) -> Half:
    graph, weights = tmp_path_factory.mktemp("half") / "model.onnx", bundled_model / "model.safetensors"
    assert main(["onnx", "--weights", str(weights), "--out", str(graph), "--precision", "fp16"]) == 0
    return Half(graph, *load_model(weights))


@pytest.fixture(scope="module")
def pictures(scenes, bundled) -> np.ndarray:
    """Four scenes as the network sees them, uint8 [4,S,S,3]."""
    found = []
    for path in sorted((scenes / "images").iterdir())[:4]:
        picture = decode(path.read_bytes())
        found.append(Letterbox.fit(*picture.shape[:2], bundled.input_size).apply(picture, bundled.pad_colour))
    return np.stack(found)


def test_contract_and_outputs_are_those_of_fp32(half, bundled_model):
    graph = onnx.load(half.graph)
    check_signature(graph, half.contract)
    assert half.graph.with_name("contract.json").read_text() == (bundled_model / "contract.json").read_text()
    assert {entry.key: entry.value for entry in graph.metadata_props}["precision"] == "fp16"


def test_network_is_half_and_the_pooling_is_not(half):
    graph = onnx.load(half.graph)
    assert precisions(graph)["fp16"] > 80
    assert precisions(graph)["fp32"] == 1
    types = {tensor.data_type for tensor in graph.graph.initializer if np.prod(tensor.dims) > 100}
    assert types == {onnx.TensorProto.FLOAT16}
    # every sigmoid (activation maps, classes, objectness, masks) and the sums and roots behind it see fp32
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    elements = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    for node in graph.graph.node:
        if node.op_type in {"Sigmoid", "ReduceSum", "Sqrt", "Greater", "Round"}:
            assert elements[node.input[0]] == onnx.TensorProto.FLOAT, node.name


def test_scenes_are_as_in_pytorch_float32(half, pictures):
    serving = ServingModel(half.model, half.contract).eval()
    batches = [pictures[:1], pictures[1:]]
    differences = verify(half.graph.read_bytes(), serving, half.contract, batches, FP16)
    assert [difference.batch for difference in differences] == [1, 3]
    with pytest.raises(ExportError, match="does not give what PyTorch gives"):  # half precision it is
        verify(half.graph.read_bytes(), serving, half.contract, batches)


def test_logits_are_close_to_pytorch_float32(half, pictures):
    contract, graph = half.contract, onnx.load(half.graph)
    with torch.inference_mode():
        expected = half.model(normalise(torch.from_numpy(pictures), contract))
    # what goes into the last three sigmoids, told apart by shape
    names = [node.input[0] for node in graph.graph.node if node.op_type == "Sigmoid"]
    for name in names:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = {value.shape: value for value in session.run(names, {"image": pictures})}
    for name, tolerance in LOGITS.items():
        wanted = expected[name].numpy()
        error = np.abs(found[wanted.shape] - wanted).max() / np.abs(wanted).max()
        assert 1e-5 < error < tolerance, name


def test_average_precision_stays(half, bundled_model, scenes):
    dataset = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=True)

    def mask_ap(engine: Engine) -> float:
        truth = str(scenes / "instances.json")
        return evaluate(engine, half.contract, truth, evaluation_pictures(dataset))[0].ap

    single = mask_ap(onnxruntime_engine(bundled_model / "model.onnx"))
    assert single > 0.4
    assert abs(mask_ap(onnxruntime_engine(half.graph)) - single) <= AP


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50_dcn", "cspdarknet53"])
def test_norms_are_worked_in_though_fp16_cannot_hold_their_variances(backbone):
    """Folded ones, frozen ones behind deformable convolutions, and those that learn."""
    torch.manual_seed(0)
    decoder = DecoderConfig(2, 5, 1, channels=16, depth=1, kernel_dim=8)
    model = SparseInst(NetworkConfig(backbone, EncoderConfig(channels=16), decoder)).eval()
    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.running_var.uniform_(1e5, 2e5)
            norm.weight.uniform_(300, 400)
            norm.running_mean.normal_(std=0.5)
            norm.bias.normal_(std=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    half = HalfSparseInst(model)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float16}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    half.network.float()  # the rounded numbers, in arithmetic that rounds no further
    pictures = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected, got = model.backbone(pictures), half.network.backbone(pictures)
    for wanted, found in zip(expected, got, strict=True):
        assert (found - wanted).abs().max() < 1e-2 * wanted.std()


def test_weights_that_fp16_cannot_hold_are_refused():
    decoder = DecoderConfig(2, 5, 1, channels=16, depth=1, kernel_dim=8)
    model = SparseInst(NetworkConfig("mobilenet_v2", EncoderConfig(channels=16), decoder)).eval()
    with torch.no_grad():
        model.decoder.inst_branch.objectness.bias.fill_(70000)
    with pytest.raises(ExportError, match=r"objectness\.bias is beyond fp16's largest number.*precision fp32"):
        HalfSparseInst(model)


def test_the_tolerance_of_half_precision_tells_other_weights(half, pictures, bundled_model):
    """One layer of many, 3% off."""
    model, contract = load_model(bundled_model / "model.safetensors")
    with torch.no_grad():
        model.decoder.inst_branch.cls_score.weight.mul_(1.03)
    with pytest.raises(ExportError, match="does not give what PyTorch gives"):
        verify(half.graph.read_bytes(), ServingModel(model, contract).eval(), contract, [pictures], FP16)
