"""Weights carry their contract and architecture; what is not ours is refused in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sparseinst import load_model
from sparseinst.checkpoint import CheckpointError, initialise_from, load_state, save_state, save_weights
from sparseinst.network import NetworkConfig, SparseInst


def test_weights_come_back_with_contract_and_architecture(tmp_path, small_model, small_contract):
    path = save_weights(tmp_path / "model.safetensors", small_model, small_contract)
    model, contract = load_model(path)
    assert contract == small_contract
    assert model.config == small_model.config
    assert not model.training
    parameters = dict(small_model.named_parameters())
    for name, tensor in small_model.state_dict().items():
        expected = tensor.half().float() if name in parameters else tensor
        assert torch.equal(model.state_dict()[name], expected), name


def test_saving_loaded_weights_again_changes_nothing(tmp_path, small_model, small_contract):
    first = save_weights(tmp_path / "first.safetensors", small_model, small_contract)
    second = save_weights(tmp_path / "second.safetensors", *load_model(first))
    assert first.read_bytes() == second.read_bytes()


def test_what_is_not_ours_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        load_model(tmp_path / "missing.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(tmp_path / "noise.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match="no contract and network in its header"):
        load_model(tmp_path / "bare.safetensors")


def with_decoder(config: NetworkConfig, **changes) -> NetworkConfig:
    return replace(config, decoder=replace(config.decoder, **changes))


@pytest.mark.parametrize("groups", [1, 2])
def test_fine_tuning_to_other_classes_starts_only_the_class_layer_afresh(
    tmp_path, small_config, small_contract, groups
):
    source = SparseInst(with_decoder(small_config, groups=groups))
    path = save_weights(tmp_path / "model.safetensors", source, small_contract, half=False)
    other = SparseInst(with_decoder(source.config, classes=5))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    left = initialise_from(other, path)
    assert left == ["decoder.inst_branch.cls_score.bias", "decoder.inst_branch.cls_score.weight"]
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[name] if name in left else source.state_dict()[name]), name


def test_fine_tuning_to_the_same_classes_copies_everything(tmp_path, small_model, small_contract):
    path = save_weights(tmp_path / "model.safetensors", small_model, small_contract, half=False)
    torch.manual_seed(1)
    other = SparseInst(small_model.config)
    assert initialise_from(other, path) == []
    assert all(torch.equal(value, small_model.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": 1}, ["decoder.groups 2, wanted 1", "unexpected: decoder.inst_branch.fc.weight", "4 misshapen: "]),
        ({"groups": 4}, ["decoder.groups 2, wanted 4", "decoder.inst_branch.iam_conv.weight"]),
        ({"instances": 9, "classes": 5}, ["decoder.instances 7, wanted 9", "2 misshapen: ", "iam_conv.bias (14,)"]),
        ({"kernel_dim": 4}, ["decoder.kernel_dim 8, wanted 4", "mask_branch.projection.weight"]),
    ],
)
def test_weights_of_another_network_are_refused_by_their_tensors(tmp_path, small_model, small_contract, change, words):
    path = save_weights(tmp_path / "model.safetensors", small_model, replace(small_contract, name="mine"))
    other = SparseInst(with_decoder(small_model.config, **change))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"these weights were made with \(they are called 'mine'") as error:
        initialise_from(other, path)
    assert all(word in str(error.value) for word in words), error.value
    assert "cls_score" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_weights_of_another_backbone_are_refused_by_its_name(tmp_path, small_model, small_contract):
    path = save_weights(tmp_path / "model.safetensors", small_model, small_contract)
    other = SparseInst(replace(small_model.config, backbone="pvt_v2_b1"))
    with pytest.raises(CheckpointError, match=r"backbone mobilenet_v2, wanted pvt_v2_b1\)") as error:
        initialise_from(other, path)
    assert "missing: backbone.features.patch_embed.proj.weight (64, 3, 7, 7)" in str(error.value)
    assert "; and " in str(error.value)


def test_a_state_of_pickled_code_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the state was executed",))

    torch.save({"model": Trap()}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="start again without --resume"):
        load_state(tmp_path / "state.pt")


def test_a_failed_write_leaves_the_old_state(tmp_path, monkeypatch):
    path = save_state(tmp_path / "state.pt", {"iteration": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_state(path, {"iteration": 2})
    assert load_state(path) == {"iteration": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]
