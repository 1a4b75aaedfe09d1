"""The published checkpoints: every name, shape and count of every variant, and their import.

`data/published_layouts.json` holds names and shapes of all tensors, read off the published implementation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseinst import build_model, load_model
from sparseinst.cli import main
from sparseinst.network import SparseInst
from sparseinst.network.backbone import build_backbone
from sparseinst.network.deformable import DeformableConv2d
from sparseinst.published import COCO_CLASSES, COCO_IDS, import_checkpoint, layout, published_name
from sparseinst.variants import VARIANTS, markdown_table

LAYOUTS = json.loads((Path(__file__).parent / "data" / "published_layouts.json").read_text("utf-8"))
THIRTEEN = tuple(name for name, variant in VARIANTS.items() if variant.ap_val is not None)


def shapes(variant: str, kind: str) -> dict[str, tuple[int, ...]]:
    """Published names and shapes of a variant's `parameters` or `buffers`."""
    rows = LAYOUTS[LAYOUTS[variant].get("same_as", variant)][kind]
    return {name: () if shape == "scalar" else tuple(int(n) for n in shape.split("x")) for name, shape in rows.items()}


def random_checkpoint(variant: str) -> dict[str, torch.Tensor]:
    """A published state dict with other numbers in every tensor."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(1, 9, shape) if name.endswith("tracked") else torch.rand(shape, generator=generator)
        for kind in ("parameters", "buffers")
        for name, shape in shapes(variant, kind).items()
    }


def test_thirteen_variants_were_published_and_all_layouts_have_a_row():
    assert len(THIRTEEN) == 13
    assert LAYOUTS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_shapes_and_counts_are_the_published_ones(variant):
    with torch.device("meta"):
        model = build_model(variant)
    backbone = model.config.backbone
    parameters = {published_name(name, backbone): tuple(p.shape) for name, p in model.named_parameters()}
    buffers = {published_name(name, backbone): tuple(b.shape) for name, b in model.named_buffers()}
    assert parameters == shapes(variant, "parameters")
    assert buffers == shapes(variant, "buffers")
    assert layout(model.config) == parameters | buffers
    assert len(parameters) + len(buffers) == len(model.state_dict())  # no two names fell together


def test_the_main_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = build_model("r50_giam")
    frozen = sum(b.numel() for name, b in model.named_buffers() if name.endswith((".weight", ".bias")))
    total = sum(p.numel() for p in model.parameters()) + frozen
    assert total / 1e6 == pytest.approx(32.79, abs=0.06)


@pytest.mark.parametrize("variant", THIRTEEN)
def test_an_import_takes_every_tensor(tmp_path, variant):
    state = random_checkpoint(variant)
    nested = variant.endswith("aug")
    torch.save({"model": state, "iteration": 7} if nested else state, tmp_path / "source.pth")
    model, contract, _ = import_checkpoint(tmp_path / "source.pth", variant)
    mine = model.state_dict()
    assert {published_name(name, model.config.backbone) for name in mine} == state.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, state[published_name(name, model.config.backbone)]), name
    assert not model.training
    assert (contract.name, contract.input_size) == (variant, (VARIANTS[variant].input_size,) * 2)
    assert (contract.classes[0], contract.classes[-1]) == ("person", "toothbrush")


def test_cocos_classes_are_eighty_of_ninety_ids():
    assert len(COCO_CLASSES) == len(COCO_IDS) == len(set(COCO_CLASSES)) == 80
    by_id = dict(zip(COCO_IDS, COCO_CLASSES, strict=True))
    assert [by_id[i] for i in (1, 13, 27, 46, 67, 70, 90)] == [
        "person", "stop sign", "backpack", "wine glass", "dining table", "toilet", "toothbrush",
    ]  # fmt: skip


def test_the_command_writes_float32_weights_that_load(tmp_path, capsys):
    state = random_checkpoint("r50_base")
    torch.save(state, tmp_path / "source.pth")
    out = tmp_path / "new" / "r50_base.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "source.pth"), "--variant", "r50_base", "--out", str(out)]) == 0
    assert "all 315 tensors" in capsys.readouterr().out
    model, contract = load_model(out)
    assert contract.max_instances == 100
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[published_name(name, "resnet50")]), name


def test_other_classes_come_with_their_annotations(tmp_path, capsys):
    state = random_checkpoint("r50_base")
    for name in ("weight", "bias"):
        state[f"decoder.inst_branch.cls_score.{name}"] = state[f"decoder.inst_branch.cls_score.{name}"][:2].clone()
    torch.save(state, tmp_path / "source.pth")
    categories = [{"id": 9, "name": "late"}, {"id": 4, "name": "early"}]
    raw = {"images": [], "annotations": [], "categories": categories}
    (tmp_path / "two.json").write_text(json.dumps(raw))
    _, contract, _ = import_checkpoint(tmp_path / "source.pth", "r50_base", tmp_path / "two.json")
    assert (contract.classes, contract.category_ids) == (("early", "late"), (4, 9))

    out = tmp_path / "out.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "source.pth"), "--variant", "r50_base", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "2 misshapen: decoder.inst_branch.cls_score.weight (2, 256), wanted (80, 256)" in error
    assert "it fits r50_base with 2 classes" in error
    assert not out.exists()


def test_what_is_missing_or_unexpected_is_listed_and_the_fitting_variants_named(tmp_path, capsys):
    torch.save(random_checkpoint("r50_giam"), tmp_path / "source.pth")
    command = ["import-checkpoint", str(tmp_path / "source.pth"), "--out", str(tmp_path / "out.safetensors")]
    assert main([*command, "--variant", "r50_dcn_giam_aug"]) == 1
    error = capsys.readouterr().err
    assert "18 missing: backbone.res4.0.conv2_offset.weight (18, 256, 3, 3)" in error
    assert "; and 8 more\n" in error
    assert "it fits r50_giam, r50_giam_aug with 80 classes" in error
    assert main([*command, "--variant", "r50_base"]) == 1
    assert "2 unexpected: decoder.inst_branch.fc.weight (1024, 1024)" in capsys.readouterr().err
    assert main([*command, "--variant", "r50"]) == 1
    assert "variant is 'r50'; wanted one of r50_base, r50vd_base" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["text", "list", "nested", "missing", "code"])
def test_files_that_are_no_state_dict_are_refused_in_a_sentence(tmp_path, capsys, content):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the checkpoint was executed",))

    path = tmp_path / "source.pth"
    values = {"list": [1, 2], "nested": {"model": {"a": 1}}, "code": {"model": Trap()}}
    if content == "text":
        path.write_text("no tensors")
    elif content in values:
        torch.save(values[content], path)
    out = tmp_path / "out.safetensors"
    assert main(["import-checkpoint", str(path), "--variant", "r50_giam", "--out", str(out)]) == 1
    error = capsys.readouterr().err
    words = "no checkpoint at" if content == "missing" else "wanted a state dict, flat or under 'model'"
    assert words in error
    assert "Traceback" not in error


def test_layers_of_the_library_are_the_published_ones():
    """What names and shapes do not tell: strides, pooling, slopes, epsilons."""
    plain, vd = build_backbone("resnet50").features, build_backbone("resnet50d_dcn").features
    for stage in (1, 2, 3, 4):
        first, block = plain[f"layer{stage}"][0], vd[f"layer{stage}"][0]
        stride = 1 if stage == 1 else 2
        assert (first.conv1.stride[0], first.conv2.stride[0], first.downsample[0].stride[0]) == (1, stride, stride)
        pool = block.downsample[0]
        if stage == 1:
            assert isinstance(pool, nn.Identity)
        else:
            assert (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)
            assert pool.ceil_mode
            assert not pool.count_include_pad
        deformable = [isinstance(b.conv2, DeformableConv2d) for b in vd[f"layer{stage}"]]
        assert all(deformable) if stage > 2 else not any(deformable)
    assert [layer.stride[0] for layer in vd["conv1"] if isinstance(layer, nn.Conv2d)] == [2, 1, 1]
    assert {module.eps for module in (*plain.modules(), *vd.modules()) if hasattr(module, "eps")} == {1e-5}

    dark = build_backbone("cspdarknet53")
    norms = [module for module in dark.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert all(isinstance(norm.act, nn.LeakyReLU) and norm.act.negative_slope == 0.01 for norm in norms)

    pvt = build_backbone("pvt_v2_b2_li").features
    for name, module in pvt.named_modules():
        if isinstance(module, nn.LayerNorm):
            outside = "patch_embed" in name or "downsample" in name or ".attn." in name
            assert module.eps == (1e-5 if outside else 1e-6), name


def test_fine_tuning_a_published_model_drops_only_the_class_layer(tmp_path):
    from sparseinst.checkpoint import initialise_from, save_weights

    torch.save(random_checkpoint("r50_giam"), tmp_path / "source.pth")
    model, contract, _ = import_checkpoint(tmp_path / "source.pth", "r50_giam")
    path = save_weights(tmp_path / "published.safetensors", model, contract, half=False)
    fresh = SparseInst(replace(model.config, decoder=replace(model.config.decoder, classes=3)))
    left = initialise_from(fresh, path)
    assert left == ["decoder.inst_branch.cls_score.bias", "decoder.inst_branch.cls_score.weight"]


def test_the_table_in_the_documentation_is_that_of_the_code(repo_root):
    assert markdown_table() in (repo_root / "docs" / "variants.md").read_text("utf-8")
