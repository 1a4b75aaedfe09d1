"""Assembling a model repository: what ends up where, and what happens when it cannot be done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sparseinst_export.cli import main
from sparseinst_export.configurations import fill
from sparseinst_export.layout import MODELS, NETWORK, WITH_CONTRACT, RepositoryError, find_template
from sparseinst_export.repository import assemble
from sparseinst_runtime.contract import Contract, ContractError


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assemble_from(exported: Path, out: Path, **options) -> Path:
    return assemble(find_template(), exported / "model.onnx", exported / "contract.json", out, **options)


@pytest.fixture
def broken_template(tmp_path) -> Path:
    """A template whose last model has a line that cannot be filled, so that assembling stops half-way."""
    template = shutil.copytree(find_template(), tmp_path / "template")
    config = template / MODELS[-1] / "config.pbtxt"
    config.write_text(config.read_text() + "\nmax_batch_size: 8  # contract: max_batch\n")
    return template


def test_engines_and_contracts_lie_in_the_version_folders(assembled, other):
    assert (assembled / NETWORK / "3" / "model.onnx").read_bytes() == b"bytes of a graph"
    assert (assembled / NETWORK / "3" / "model.plan").read_bytes() == b"bytes of an engine"
    for model in WITH_CONTRACT:
        assert Contract.load(assembled / model / "3" / "contract.json") == other
        assert (assembled / model / "3" / "model.py").is_file()


def test_every_model_has_one_version_folder_and_nothing_is_a_link(assembled):
    for model in MODELS:
        assert [entry.name for entry in (assembled / model).iterdir() if entry.name.isdigit()] == ["3"]
    for model in set(MODELS) - set(WITH_CONTRACT):
        held = [entry.name for entry in (assembled / model / "3").iterdir()]
        assert held == [".keep"], "an object store has no empty folders"
    assert not [path for path in assembled.rglob("*") if path.is_symlink()]


def test_code_in_the_repository_is_the_templates(assembled):
    for path in find_template().rglob("*.py"):
        model = path.relative_to(find_template()).parts[0]
        assert (assembled / model / "3" / path.name).read_bytes() == path.read_bytes()


def test_assembling_again_gives_the_same_repository(exported, tmp_path):
    first = snapshot(assemble_from(exported, tmp_path / "models"))
    assert snapshot(assemble_from(exported, tmp_path / "models")) == first


def test_an_older_engine_does_not_survive(assembled, exported, tmp_path):
    out = assemble_from(exported, tmp_path / "models")
    assert out == assembled
    assert not (out / NETWORK / "3").exists()
    assert not list(out.rglob("model.plan"))


def test_failure_half_way_leaves_the_old_repository_and_no_rubbish(assembled, exported, broken_template, tmp_path):
    before, beside = snapshot(assembled), sorted(tmp_path.iterdir())
    with pytest.raises(RepositoryError, match=r"unknown token 'max_batch'; wanted an integer or one of input_height"):
        assemble(broken_template, exported / "model.onnx", exported / "contract.json", assembled)
    assert snapshot(assembled) == before
    assert sorted(tmp_path.iterdir()) == beside


def test_a_killed_run_leaves_the_old_repository(assembled, exported):
    """SIGKILL when the new engine has just been copied: no clean-up of ours runs."""
    before = snapshot(assembled)
    (exported / "model.onnx").write_bytes(b"another graph")
    script = (
        "import os, shutil, signal, sys\n"
        "from pathlib import Path\n"
        "from sparseinst_export.layout import find_template\n"
        "from sparseinst_export.repository import assemble\n"
        "copy = shutil.copyfile\n"
        "def copy_and_die(source, target, **options):\n"
        "    copy(source, target, **options)\n"
        "    if str(target).endswith('.onnx'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.copyfile = copy_and_die\n"
        "onnx, contract, out = map(Path, sys.argv[1:])\n"
        "assemble(find_template(), onnx, contract, out)\n"
    )
    paths = [exported / "model.onnx", exported / "contract.json", assembled]
    run = subprocess.run([sys.executable, "-c", script, *map(str, paths)], check=False, capture_output=True)
    assert run.returncode == -9, run.stderr.decode()
    assert snapshot(assembled) == before


def test_a_folder_with_other_things_is_refused(exported, tmp_path):
    out = tmp_path / "mine"
    (out / "holiday").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="also holds holiday"):
        assemble_from(exported, out)
    assert (out / "holiday").is_dir()


def test_the_template_is_never_written_to(exported, tmp_path):
    template = shutil.copytree(find_template(), tmp_path / "template")
    before = snapshot(template)
    for out in (template, template / "sparseinst", tmp_path):
        with pytest.raises(RepositoryError, match="lie in one another"):
            assemble(template, exported / "model.onnx", exported / "contract.json", out)
    assert snapshot(template) == before


def test_missing_files_are_named(exported, tmp_path):
    with pytest.raises(RepositoryError, match=r"no config\.pbtxt for sparseinst, .*wanted the folder"):
        assemble(tmp_path, exported / "model.onnx", exported / "contract.json", tmp_path / "models")
    with pytest.raises(RepositoryError, match=r"no engine at .*other\.plan"):
        assemble_from(exported, tmp_path / "models", plan=exported / "other.plan")
    with pytest.raises(RepositoryError, match="version is 0"):
        assemble_from(exported, tmp_path / "models", version=0)
    (exported / "model.onnx").write_bytes(b"")
    with pytest.raises(RepositoryError, match=r"no engine at .*model\.onnx"):
        assemble_from(exported, tmp_path / "models")
    (exported / "contract.json").unlink()
    (exported / "model.onnx").write_bytes(b"bytes of a graph")
    with pytest.raises(ContractError, match="no contract at"):
        assemble_from(exported, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_marked_lines_follow_the_contract_and_others_stay(other):
    text = (
        "max_batch_size: 8  # contract: max_batch_size\n"
        "input [ { dims: [ 320, 320, 3 ] } ]  # contract: input_height, input_width, 3\n"
        "dims: [ -1 ]  # contract: max_instances\n"
        "dims: [ 8 ]  # not of the contract: 8\n"
    )
    assert fill(text, other) == (
        "max_batch_size: 4  # contract: max_batch_size\n"
        "input [ { dims: [ 416, 608, 3 ] } ]  # contract: input_height, input_width, 3\n"
        "dims: [ 20 ]  # contract: max_instances\n"
        "dims: [ 8 ]  # not of the contract: 8\n"
    )
    assert fill(fill(text, other), other) == fill(text, other)


@pytest.mark.parametrize(
    "line",
    [
        'name: "image"  # contract: input_height',
        "dims: [ 1 ] reshape { shape: [ 2 ] }  # contract: input_height",
        "max_batch_size: 8  # contract: input_height, 3",
    ],
)
def test_a_line_with_no_single_place_for_the_values_is_refused(other, line):
    with pytest.raises(RepositoryError, match="network/cpu, line 2: wanted one list, or one number and one token"):
        fill(f"# first\n{line}\n", other, source="network/cpu")


def test_command_works_where_torch_and_onnx_are_not_installed(exported, tmp_path):
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime', 'rich', 'tritonclient']))\n"
        "from sparseinst_export.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["repository", "--onnx", str(exported / "model.onnx"), "--out", str(tmp_path / "models")]
    run = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "4 classes, 416x608 px, up to 20 instances" in run.stdout
    assert (tmp_path / "models" / NETWORK / "1" / "model.onnx").is_file()

    run = subprocess.run(
        [sys.executable, "-c", script, "onnx", "--weights", "w", "--out", "m.onnx"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "is not installed; install the extra: pip install 'sparseinst[export]'" in run.stderr


def test_command_answers_a_users_mistake_in_one_sentence(exported, tmp_path, capsys):
    (exported / "contract.json").unlink()
    assert main(["repository", "--onnx", str(exported / "model.onnx"), "--out", str(tmp_path / "models")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("sparseinst-export: no contract at ")
    assert captured.err.count("\n") == 1
    assert not captured.out
