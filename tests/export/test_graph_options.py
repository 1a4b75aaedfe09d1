"""Other sizes, fewer instances, other masks, a fixed batch, outputs to look at: each does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lively import lively
from torch.nn import functional as F

from sparseinst import SparseInst, load_model
from sparseinst.checkpoint import save_weights
from sparseinst.figures.activations import listening, weights
from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig
from sparseinst.network.encoder import PyramidPooling, pool
from sparseinst.network.head import ServingModel, normalise, score
from sparseinst_export.cli import main
from sparseinst_export.engines import onnxruntime_engine, openvino_engine
from sparseinst_export.graph_options import GraphOptions
from sparseinst_export.onnx import export_onnx
from sparseinst_export.tensorrt_check import check_tensorrt
from sparseinst_export.verify import ExportError, compare, smooth_pictures
from sparseinst_runtime import Contract, ContractError

CONTRACT = Contract(tuple("abcde"), tuple(range(5)), input_size=(64, 96), max_instances=12, name="small")
SIZES = [(320, 320), (416, 416), (512, 512), (608, 608), (640, 640), (640, 864)]
EXPORTED_SIZES = [(320, 320), (416, 416), (640, 864)]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    decoder = DecoderConfig(5, 12, groups=2, channels=32, depth=1, kernel_dim=16)
    network = NetworkConfig("mobilenet_v2", EncoderConfig(channels=32), decoder)
    return save_weights(tmp_path_factory.mktemp("small") / "w.safetensors", lively(network, CONTRACT), CONTRACT)


def all_instances(weights: Path, pictures: np.ndarray) -> list[np.ndarray]:
    """Scores, labels and mask probabilities of every instance, in PyTorch."""
    model, contract = load_model(weights)
    with torch.inference_mode():
        outputs = model(normalise(torch.from_numpy(pictures), contract))
        return [tensor.numpy() for tensor in score(outputs, contract.mask_threshold)]


@pytest.fixture(scope="module")
def fewer(small, tmp_path_factory) -> Path:
    options = GraphOptions(input_size=(96, 64), max_instances=5, mask_stride=2)
    return export_onnx(small, tmp_path_factory.mktemp("fewer") / "model.onnx", options=options).graph


@pytest.mark.parametrize("engine", [onnxruntime_engine, openvino_engine])
def test_the_best_instances_come_first_with_finer_masks(small, fewer, engine):
    pictures = smooth_pictures(3, (96, 64), seed=5)
    scores, labels, masks = engine(fewer)(pictures)
    all_scores, all_labels, probabilities = all_instances(small, pictures)
    best = np.argsort(-all_scores, axis=1, kind="stable")[:, :5]
    np.testing.assert_allclose(scores, np.take_along_axis(all_scores, best, 1), atol=1e-5)
    np.testing.assert_array_equal(labels, np.take_along_axis(all_labels, best, 1))
    chosen = torch.from_numpy(np.take_along_axis(probabilities, best[:, :, None, None], 1))
    finer = F.interpolate(chosen, scale_factor=2, mode="bilinear", align_corners=False).numpy()
    assert masks.shape == (3, 5, 48, 32)
    assert np.abs(masks - 255 * finer).max() <= 1
    assert np.ptp(masks) > 200


def test_the_contract_beside_the_graph_has_the_options(fewer):
    contract = Contract.load(fewer.with_name("contract.json"))
    assert (contract.input_size, contract.max_instances, contract.mask_stride) == ((96, 64), 5, 2)
    assert contract.classes == CONTRACT.classes
    assert contract.outputs[2].shape == (5, 48, 32)


def test_tensorrts_compiler_takes_fewer_instances_and_finer_masks(fewer):
    check = check_tensorrt(fewer)
    assert check.taken, check.refusals


def test_coarser_masks_are_means():
    torch.manual_seed(0)
    decoder = DecoderConfig(5, 12, groups=1, channels=32, depth=1, kernel_dim=16)
    model = lively(NetworkConfig("mobilenet_v2", EncoderConfig(channels=32), decoder), CONTRACT)
    pictures = torch.from_numpy(smooth_pictures(2, CONTRACT.input_size))
    coarse = GraphOptions(mask_stride=8).apply(CONTRACT)
    with torch.inference_mode():
        probabilities = score(model(normalise(pictures, CONTRACT)), CONTRACT.mask_threshold)[2]
        scores, _, masks = ServingModel(model, coarse).eval()(pictures)
        assert torch.equal(scores, ServingModel(model, CONTRACT).eval()(pictures)[0])
    assert (masks - 255 * F.avg_pool2d(probabilities, 2)).abs().max() <= 0.501


def test_a_fixed_batch_takes_no_other_and_no_repository(small, tmp_path):
    assert main(["onnx", "--weights", str(small), "--out", str(tmp_path / "model.onnx"), "--batch", "2"]) == 0
    engine = onnxruntime_engine(tmp_path / "model.onnx")
    assert engine(smooth_pictures(2, CONTRACT.input_size))[0].shape == (2, 12)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        engine(smooth_pictures(3, CONTRACT.input_size))
    assert not (tmp_path / "contract.json").exists()
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert Contract.from_json(metadata["contract"]).max_batch_size == 2


def test_logits_and_activation_maps_are_given_out_behind_the_rest(small, tmp_path):
    graph = tmp_path / "model.onnx"
    arguments = ["onnx", "--weights", str(small), "--out", str(graph)]
    assert main([*arguments, "--raw", "--activations"]) == 0
    assert not graph.with_name("contract.json").exists()
    names = [output.name for output in onnx.load(graph).graph.output]
    assert names == ["scores", "labels", "masks", "pred_logits", "pred_scores", "pred_masks", "activations"]
    pictures = smooth_pictures(3, CONTRACT.input_size, seed=8)
    *_, logits, objectness, masks, maps = onnxruntime_engine(graph)(pictures)
    model, contract = load_model(small)
    with torch.inference_mode(), listening(model) as heard:
        outputs = model(normalise(torch.from_numpy(pictures), contract))
    for got, name in ((logits, "pred_logits"), (objectness, "pred_scores"), (masks, "pred_masks")):
        wanted = outputs[name].numpy()
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
    assert maps.shape == (3, 2, 12, 8, 12)
    np.testing.assert_allclose(maps.sum((3, 4)), 1, atol=1e-3)
    wanted = weights(heard[0], model.config.decoder).numpy()
    assert np.abs(maps - wanted).max() <= 1e-4 * wanted.max()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--size", "96x100"), r"input_size is \(96, 100\); wanted height and width, positive multiples of 32"),
        (("--max-instances", "13"), "max_instances is 13; wanted at most 12, as many as the network has"),
        (("--max-instances", "0"), "max_instances is 0; wanted a positive integer"),
        (("--batch", "0"), "batch is 0; wanted at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_written(small, tmp_path, capsys, option, words):
    assert main(["onnx", "--weights", str(small), "--out", str(tmp_path / "model.onnx"), *option]) == 1
    assert not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert re.search(words, error), error


def test_activation_maps_of_a_network_without_any_are_refused(tmp_path):
    decoder = DecoderConfig(5, 12, 1, channels=32, depth=1, kernel_dim=16, gathering="cross_attention")
    model = SparseInst(NetworkConfig("mobilenet_v2", EncoderConfig(channels=32), decoder)).eval()
    weights = save_weights(tmp_path / "w.safetensors", model, CONTRACT)
    with pytest.raises(ValueError, match="this network has no instance activation maps"):
        export_onnx(weights, tmp_path / "model.onnx", options=GraphOptions(extras=("activations",)))


def test_a_mask_stride_in_between_is_refused():
    with pytest.raises(ContractError, match=r"mask_stride is 3; wanted one of \(1, 2, 4, 8\)"):
        GraphOptions(mask_stride=3).apply(CONTRACT)
    with pytest.raises(ExportError, match="batch is -1"):
        GraphOptions(batch=-1)


@pytest.mark.parametrize("engine", [onnxruntime_engine, openvino_engine])
def test_the_bundled_model_at_640x864_gives_what_pytorch_gives(bundled_wide, bundled_model, engine):
    model, contract = load_model(bundled_model / "model.safetensors")
    contract = GraphOptions(input_size=(640, 864)).apply(contract)
    pictures = smooth_pictures(2, (640, 864), seed=12)
    with torch.inference_mode():
        expected = [tensor.numpy() for tensor in ServingModel(model, contract).eval()(torch.from_numpy(pictures))]
    difference = compare(expected, engine(bundled_wide)(pictures), contract.mask_threshold)
    assert difference.holds, str(difference)


@pytest.fixture(scope="module")
def bundled_wide(bundled_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wide") / "model.onnx"
    assert (
        main(["onnx", "--weights", str(bundled_model / "model.safetensors"), "--out", str(out), "--size", "640x864"])
        == 0
    )
    return out


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_exact_pooling_is_adaptive_pooling(size):
    torch.manual_seed(1)
    features = torch.randn(2, 8, size[0] // 32, size[1] // 32)
    for bins in (1, 2, 3, 6):
        torch.testing.assert_close(pool(features, bins), F.adaptive_avg_pool2d(features, bins), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", EXPORTED_SIZES, ids=lambda size: "x".join(map(str, size)))
def test_exported_pooling_is_adaptive_pooling(size, tmp_path):
    """The constant matrices in the graph, run by ONNX Runtime, against PyTorch's own adaptive pooling."""

    class Pools(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(pool(features, bins) for bins in PyramidPooling(8, (1, 2, 3, 6)).pool_sizes)

    features = torch.randn(2, 8, size[0] // 32, size[1] // 32)
    torch.onnx.export(Pools(), (features,), tmp_path / "pools.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "pools.onnx", providers=["CPUExecutionProvider"])
    for bins, got in zip(
        (1, 2, 3, 6), session.run(None, {session.get_inputs()[0].name: features.numpy()}), strict=True
    ):
        np.testing.assert_allclose(got, F.adaptive_avg_pool2d(features, bins).numpy(), rtol=1e-5, atol=1e-6)
