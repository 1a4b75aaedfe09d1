"""Files of tensors that others wrote: wrapped, prefixed, with buffers of their own, or pickles that are not run."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparseinst.cli import main
from sparseinst.published import import_checkpoint, layout
from sparseinst.state_dicts import CheckpointError, read_state_dict
from sparseinst.variants import get_variant

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b.bias": torch.ones(4)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrappers", [(), ("model",), ("state_dict",), ("model", "state_dict")])
def test_wrappers_and_prefixes_of_trainers_are_taken_off(tmp_path, prefix, wrappers):
    saved = {prefix + name: tensor for name, tensor in STATE.items()}
    for wrapper in reversed(wrappers):
        saved = {"iteration": 9, wrapper: saved, "optimizer": {"state": {0: {"step": 1}}}}
    torch.save(saved, tmp_path / "weights.pth")
    assert equal(read_state_dict(tmp_path / "weights.pth"), STATE)


def test_a_prefix_of_some_names_is_a_name(tmp_path):
    state = {**STATE, "module.c": torch.zeros(1)}
    save_file(state, tmp_path / "weights.safetensors")
    assert equal(read_state_dict(tmp_path / "weights.safetensors"), state)


def test_a_pickle_is_not_run_and_the_line_that_is_given_converts_it(tmp_path):
    path = tmp_path / "backbone.pkl"
    with path.open("wb") as file:
        pickle.dump({"model": {name: tensor.numpy() for name, tensor in STATE.items()}, "__author__": "somebody"}, file)
    with pytest.raises(CheckpointError, match="is a pickle, which may run code when it is read") as error:
        read_state_dict(path)
    line = str(error.value).split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    assert equal(read_state_dict(tmp_path / "backbone.tensors.pth"), STATE)


def test_pickled_code_in_a_file_of_torch_is_named_and_not_run(tmp_path):
    torch.save({"model": STATE, "config": Path("somewhere")}, tmp_path / "trainer.pth")
    with pytest.raises(CheckpointError, match=r"holds pickled code \(pathlib\S*\), which is not run") as error:
        read_state_dict(tmp_path / "trainer.pth")
    line = str(error.value).split('python -c "')[1].rstrip('"')
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path, check=True)
    assert equal(read_state_dict(tmp_path / "trainer.tensors.pth"), STATE)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"a": 1}, [1], {"a": np.float64(1)}], ids=str)
def test_what_holds_no_tensors_by_name_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="wanted a state dict, flat or under 'model' or 'state_dict'"):
        read_state_dict(tmp_path / "weights.pth")


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in layout(get_variant("r50_base").network).items()}


def test_buffers_that_are_no_parameters_are_left_out_and_named(tmp_path, published, capsys):
    more = {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
        "backbone.res2.0.conv1.norm.num_batches_tracked": torch.tensor(4),
    }
    state = {f"module.{name}": tensor for name, tensor in (published | more).items()}
    torch.save({"model": state}, tmp_path / "source.pth")
    out = tmp_path / "out.safetensors"
    command = ["import-checkpoint", str(tmp_path / "source.pth"), "--variant", "r50_base", "--out", str(out)]
    assert main([*command, "--input-size", "512"]) == 0
    printed = capsys.readouterr().out
    assert "all 315 tensors" in printed
    assert "80 classes, 512x512 px" in printed
    assert f"3 left out, no parameters of ours: {'; '.join(more)}" in printed
    assert main([*command, "--input-size", "500"]) == 1
    assert "input_size is (500, 500); wanted height and width, positive multiples of 32" in capsys.readouterr().err


def test_pixel_statistics_that_are_not_the_contracts_are_refused(tmp_path, published):
    torch.save(published | {"pixel_mean": torch.tensor([103.53, 116.28, 123.675])}, tmp_path / "bgr.pth")
    with pytest.raises(CheckpointError, match=r"pixel_mean is \[103.53, 116.28, 123.675\], wanted \[123.675, 116.28"):
        import_checkpoint(tmp_path / "bgr.pth", "r50_base")


def test_what_is_no_known_buffer_stays_an_error(tmp_path, published):
    torch.save(published | {"criterion.weight": torch.zeros(81)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected: criterion.weight \(81,\)"):
        import_checkpoint(tmp_path / "more.pth", "r50_base")
