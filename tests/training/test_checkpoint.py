"""Weights carry their contract and architecture; what is not ours is refused in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sparseinst import load_model
from sparseinst.checkpoint import CheckpointError, initialise_from, load_state, save_state, save_weights
from sparseinst.network import SparseInst


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


def test_fine_tuning_to_other_classes_starts_only_the_class_layer_afresh(tmp_path, small_model, small_contract):
    path = save_weights(tmp_path / "model.safetensors", small_model, small_contract)
    other = SparseInst(replace(small_model.config, decoder=replace(small_model.config.decoder, classes=5)))
    left = initialise_from(other, path)
    assert left == ["decoder.inst_branch.cls_score.bias", "decoder.inst_branch.cls_score.weight"]
    expected = small_model.encoder.fusion.weight.half().float()
    assert torch.equal(other.encoder.fusion.weight, expected)


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
