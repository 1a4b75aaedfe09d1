"""The network: shapes, exact pooling, activation pooling, frozen norms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from sparseinst.network import DecoderConfig, EncoderConfig, NetworkConfig, SparseInst
from sparseinst.network.backbone import BACKBONES, build_backbone, load_imagenet_weights
from sparseinst.network.decoder import CrossAttention, InstanceBranch, append_coordinates, pool_by_activation
from sparseinst.network.deformable import DeformableConv2d
from sparseinst.network.encoder import pool

SMALL = NetworkConfig(
    "mobilenet_v2",
    EncoderConfig(32),
    DecoderConfig(classes=3, instances=7, groups=2, channels=16, depth=2, kernel_dim=8),
)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(1, 1), (7, 10), (10, 10), (19, 20), (20, 27)])
def test_pooling_by_matrices_equals_adaptive_pooling(size: tuple[int, int], bins: int):
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(pool(features, bins), F.adaptive_avg_pool2d(features, bins))


@pytest.mark.parametrize(
    ("backbone", "groups"), [*((name, 4) for name in sorted(BACKBONES)), ("mobilenet_v2", 1), ("mobilenet_v2", 2)]
)
def test_outputs_have_the_documented_shapes_at_any_multiple_of_32(backbone: str, groups: int):
    config = replace(SMALL, backbone=backbone, decoder=replace(SMALL.decoder, groups=groups))
    model = SparseInst(config).eval()
    for height, width in [(32, 32), (64, 96)]:
        with torch.inference_mode():
            outputs = model(torch.randn(2, 3, height, width))
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            "pred_logits": (2, 7, 3),
            "pred_scores": (2, 7, 1),
            "pred_masks": (2, 7, height // 4, width // 4),
        }
        assert all(value.isfinite().all() for value in outputs.values())


def test_a_batch_gives_what_its_pictures_give_alone():
    model = SparseInst(SMALL).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        together = model(images)
        for i in range(3):
            for name, alone in model(images[i : i + 1]).items():
                torch.testing.assert_close(together[name][i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_coordinates_come_first_and_run_from_minus_one_to_one():
    both = append_coordinates(torch.zeros(1, 1, 3, 5))
    assert both[0, 0, 1].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert both[0, 1, :, 2].tolist() == [-1, 0, 1]
    assert append_coordinates(torch.zeros(1, 1, 1, 1)).isfinite().all()


def test_activation_pooling_is_a_weighted_average():
    activations, features = torch.randn(2, 5, 6, 4), torch.randn(2, 3, 6, 4)
    weights = activations.sigmoid()
    expected = torch.einsum("bmhw,bchw->bmc", weights, features) / weights.sum((2, 3))[..., None]
    torch.testing.assert_close(pool_by_activation(activations, features), expected)
    ones = torch.ones(2, 3, 6, 4)
    torch.testing.assert_close(pool_by_activation(activations, ones), torch.ones(2, 5, 3))


def test_activation_pooling_survives_half_precision():
    # 80 x 80 cells of value 60: the plain sum, 384,000, is far beyond fp16's 65,504
    features = torch.full((1, 4, 80, 80), 60.0, dtype=torch.float16)
    pooled = pool_by_activation(torch.full((1, 2, 80, 80), 9.0, dtype=torch.float16), features)
    assert pooled.dtype == torch.float16
    torch.testing.assert_close(pooled, torch.full((1, 2, 4), 60.0, dtype=torch.float16))


def test_softmax_pooling_equals_its_formula_and_ignores_the_bias():
    activations, features = torch.randn(2, 5, 6, 4), torch.randn(2, 3, 6, 4)
    exponentials = activations.double().exp()
    weights = exponentials / exponentials.sum((2, 3), keepdim=True)
    expected = torch.einsum("bmhw,bchw->bmc", weights, features.double()).float()
    torch.testing.assert_close(pool_by_activation(activations, features, "softmax"), expected)

    decoder = DecoderConfig(3, 5, groups=2, channels=8, depth=1, kernel_dim=4, iam_activation="softmax")
    branch = InstanceBranch(10, decoder).eval()
    features = torch.randn(1, 10, 5, 5)
    with torch.inference_mode():
        logits, _, _ = branch(features)
        branch.softmax_bias.fill_(-7.0)
        torch.testing.assert_close(branch(features)[0], logits)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="iam_activation is 'relu'; wanted sigmoid or softmax"):
        DecoderConfig(iam_activation="relu")


@pytest.mark.parametrize("stride", [1, 2])
def test_a_deformable_convolution_without_offsets_is_a_convolution(stride: int):
    layer = DeformableConv2d(4, 6, stride)
    features = torch.randn(2, 4, 9, 8)
    expected = F.conv2d(features, layer.weight, stride=stride, padding=1)
    torch.testing.assert_close(layer(features), expected)


def test_a_deformable_convolution_samples_where_its_offsets_say():
    """A constant offset of (1 row, 2 columns) at every tap is the convolution of the shifted picture."""
    layer = DeformableConv2d(4, 6, stride=1)
    with torch.no_grad():
        layer.offset.bias.copy_(torch.tensor([1.0, 2.0]).repeat(9))
    features = torch.randn(1, 4, 10, 12)
    shifted = F.pad(features, (0, 2, 0, 1))[:, :, 1:, 2:]
    expected = F.conv2d(shifted, layer.weight, padding=1)
    torch.testing.assert_close(layer(features)[:, :, 1:, 1:], expected[:, :, 1:, 1:])


def test_groups_of_one_instance_are_channels_g_times_n_plus_n():
    branch = InstanceBranch(
        8, DecoderConfig(classes=2, instances=3, groups=2, channels=8, depth=1, kernel_dim=4)
    ).eval()
    features = torch.randn(1, 8, 5, 5)
    with torch.inference_mode():
        logits, _, _ = branch(features)
        hidden = branch.inst_convs(features)
        pooled = pool_by_activation(branch.iam_conv(hidden), hidden)[0]
        for n in range(3):
            both = torch.cat([pooled[g * 3 + n] for g in range(2)])
            torch.testing.assert_close(logits[0, n], branch.cls_score(F.relu(branch.fc(both))))


def test_batch_norms_do_not_move_in_training():
    model = SparseInst(SMALL).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))["pred_masks"].sum().backward()
    assert before
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


@pytest.mark.parametrize("layout", ["nested", "flat"])
def test_torchvision_weights_load_in_both_their_layouts(tmp_path, layout: str):
    torch.manual_seed(1)
    library = mobilenet_v2(weights=None).eval()
    with torch.no_grad():
        for buffer in library.buffers():
            if buffer.dtype.is_floating_point:
                buffer.uniform_(0.5, 1.5)
    state = library.state_dict()
    if layout == "flat":
        state = {_flat_name(name): value for name, value in state.items()}
        assert "features.1.conv.0.weight" in state
    torch.save(state, tmp_path / "weights.pt")
    backbone = build_backbone("mobilenet_v2").eval()
    load_imagenet_weights(backbone, tmp_path / "weights.pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(images)[-1], library.features[:18](images))


def _flat_name(name: str) -> str:
    """The layout before torchvision 0.5: today's `conv.0.0`, `conv.0.1`, `conv.1.0` were `conv.0`, `.1`, `.3`."""
    parts = name.split(".")
    if parts[0] != "features" or parts[2] != "conv":
        return name
    block, inner = parts[1], ".".join(parts[3:-1])
    order = ["0.0", "0.1", None, "1", "2"] if block == "1" else ["0.0", "0.1", None, "1.0", "1.1", None, "2", "3"]
    return f"features.{block}.conv.{order.index(inner)}.{parts[-1]}"


def test_weights_load_from_safetensors_as_well(tmp_path):
    library = build_backbone("mobilenet_v2")
    save_file(library.state_dict(), tmp_path / "weights.safetensors")
    backbone = build_backbone("mobilenet_v2")
    load_imagenet_weights(backbone, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, library.state_dict()[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["noise.pt", "noise.safetensors", "empty.pt"])
def test_files_that_are_no_weights_are_refused_in_words(tmp_path, name: str):
    (tmp_path / name).write_bytes(b"" if name == "empty.pt" else b"not a file of tensors")
    with pytest.raises(ValueError, match="neither a state dict that torch saved nor safetensors"):
        load_imagenet_weights(build_backbone("mobilenet_v2"), tmp_path / name)


def test_a_file_that_holds_more_than_tensors_is_refused_in_words(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match="something else than tensors by name; wanted a state dict"):
        load_imagenet_weights(build_backbone("mobilenet_v2"), tmp_path / "nested.pt")


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    torch.save({"layer1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"does not fit this backbone: \d+ of \d+ tensors, the first features\.0"):
        load_imagenet_weights(build_backbone("mobilenet_v2"), tmp_path / "other.pt")


def test_an_unknown_backbone_is_refused_with_the_choice():
    with pytest.raises(ValueError, match=r"wanted one of .*mobilenet_v2, .*resnet50d_dcn"):
        build_backbone("resnet5")


def test_channels_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="divisible by groups"):
        SparseInst(replace(SMALL, decoder=replace(SMALL.decoder, groups=3)))


@pytest.mark.parametrize("name", ["resnet50d_dcn", "cspdarknet53", "pvt_v2_b2_li"])
def test_timm_weights_load_under_our_names(tmp_path, name: str):
    """A network of timm, saved as timm ships it, gives the same maps inside our backbone."""
    torch.manual_seed(2)
    library = timm.create_model(name.removesuffix("_dcn"), pretrained=False).eval()
    torch.save(library.state_dict(), tmp_path / "weights.pt")
    backbone = build_backbone(name).eval()
    load_imagenet_weights(backbone, tmp_path / "weights.pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        maps = backbone(images)
        deepest = library.forward_features(images)
    torch.testing.assert_close(maps[-1], deepest, rtol=1e-4, atol=1e-5)
    assert tuple(m.shape[1] for m in maps) == backbone.channels
    assert [64 // m.shape[2] for m in maps] == [8, 16, 32]


@pytest.mark.parametrize(("name", "moves"), [("cspdarknet53", True), ("resnet50d", False)])
def test_only_darknets_learn_their_batch_norms(name: str, moves: bool):
    backbone = build_backbone(name).train()
    before = {key: value.clone() for key, value in backbone.named_buffers() if "running" in key}
    backbone(torch.randn(2, 3, 64, 64))
    assert any(not torch.equal(before[key], value) for key, value in backbone.named_buffers() if key in before) == moves


def test_attention_step_by_step_is_the_frameworks():
    torch.manual_seed(0)
    module = CrossAttention(DecoderConfig(instances=5, groups=1, channels=16, heads=4, gathering="cross_attention"))
    torch.nn.init.normal_(module.attention.in_proj_bias)
    features = torch.randn(3, 16, 4, 6)
    cells = features.flatten(2).transpose(1, 2)
    expected, _ = module.attention(module.queries.expand(3, -1, -1), cells, cells)
    torch.testing.assert_close(module(features), expected)
