"""Versions of one repository: the next, the one before, what may differ between them, and what a check finds."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from sparseinst_export.cli import main
from sparseinst_export.configurations import pinned, pinned_version, with_contract
from sparseinst_export.layout import ENSEMBLES, MODELS, NETWORK, WITH_CONTRACT, RepositoryError, config_files
from sparseinst_export.layout import find_template as template
from sparseinst_export.presets import engine_files
from sparseinst_export.repository_check import repository_problems
from sparseinst_export.versions import add_version, roll_back, roll_forward, served_version
from sparseinst_runtime.checksums import write_checksums
from sparseinst_runtime.contract import Contract, ContractError


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def configs(repository: Path) -> list[ModelConfig]:
    paths = [path for model in MODELS for path in config_files(repository, model)]
    return [text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig()) for path in paths]


def pins(repository: Path) -> set[tuple[int, ...]]:
    """What the configurations say is to be served, as Triton parses them: one set for all of them, if they agree."""
    return {tuple(config.version_policy.specific.versions) for config in configs(repository)}


@pytest.fixture
def add(exported, assembled, other):
    """Adds a network with other bytes to the repository `assembled`, whose only version is 3."""

    def run(content: bytes = b"another graph", contract: Contract = other, plan: bool = True, **options):
        (exported / "model.onnx").write_bytes(content)
        engines = engine_files(exported / "model.onnx", plan=exported / "model.plan" if plan else None)
        return add_version(template(), contract, engines, assembled, **options)

    return run


def test_a_version_is_added_beside_the_others(add, assembled, other):
    before, written = snapshot(assembled), {path: path.stat().st_mtime_ns for path in assembled.rglob("*.pbtxt")}
    assert add() == (4, True)
    after = snapshot(assembled)
    assert {name: after[name] for name in before} == before, "nothing that was there has changed"
    touched = {path for path, when in written.items() if path.stat().st_mtime_ns != when}
    assert not touched, "Triton would load these models again"
    assert (assembled / NETWORK / "4" / "model.onnx").read_bytes() == b"another graph"
    for model in MODELS:
        assert {entry.name for entry in (assembled / model).iterdir()} <= {"3", "4", "config.pbtxt", "configs"}
    for model in WITH_CONTRACT:
        assert Contract.load(assembled / model / "4" / "contract.json") == other
    assert served_version(assembled) == 4
    assert not repository_problems(assembled)


def test_adding_the_same_files_again_adds_nothing(add, assembled):
    assert add() == (4, True)
    before = snapshot(assembled)
    assert add() == (4, False)
    assert snapshot(assembled) == before


def test_tuned_configurations_stay(add, assembled):
    config = assembled / NETWORK / "configs" / "cpu.pbtxt"
    config.write_text(
        config.read_text().replace(
            'key: "threads" value { string_value: "0" }', 'key: "threads" value { string_value: "3" }'
        )
        + "# mine\n"
    )
    tuned = config.read_text()
    add()
    assert config.read_text() == tuned
    roll_back(assembled)
    roll_forward(assembled)
    assert config.read_text() == tuned
    assert not repository_problems(assembled)


def test_numbers_are_chosen_or_follow_one_another(add, assembled):
    assert add(b"graph 7", version=7) == (7, True)
    assert add(b"graph 8") == (8, True)
    with pytest.raises(RepositoryError, match="version is 7, and 8 is there already"):
        add(b"graph 9", version=7)


def test_rolling_back_and_forth_serves_either_and_loses_nothing(add, assembled):
    add(b"graph 4")
    add(b"graph 5")
    added = snapshot(assembled)
    assert roll_back(assembled) == served_version(assembled) == 4
    assert pins(assembled) == {(4,)}
    assert roll_back(assembled) == served_version(assembled) == 3
    assert pins(assembled) == {(3,)}
    assert not repository_problems(assembled)
    assert {name: text for name, text in snapshot(assembled).items() if not name.endswith(".pbtxt")} == {
        name: text for name, text in added.items() if not name.endswith(".pbtxt")
    }
    with pytest.raises(RepositoryError, match=r"version 3 .* is the oldest that is complete; nothing to go back to"):
        roll_back(assembled)
    assert roll_forward(assembled) == 5
    assert pins(assembled) == {()}
    assert snapshot(assembled) == added


def test_a_version_that_is_added_after_a_roll_back_is_served(add, assembled):
    add(b"graph 4")
    roll_back(assembled)
    assert add(b"graph 5") == (5, True)
    assert served_version(assembled) == 5
    assert pins(assembled) == {()}


def test_clients_read_the_contract_of_the_version_that_is_served(add, assembled, other):
    newer = replace(other, name="newer", score_threshold=0.6, mask_threshold=0.5)
    add(contract=newer)

    def told() -> set[Contract]:
        """What clients are told under any preset."""
        found = [config for config in configs(assembled) if config.name in ENSEMBLES]
        return {Contract.from_json(config.parameters["contract"].string_value) for config in found}

    assert told() == {newer}
    roll_back(assembled)
    assert told() == {other}
    roll_forward(assembled)
    assert told() == {newer}


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (320, 320)},
        {"max_instances": 21},
        {"max_batch_size": 8},
        {"classes": ("a", "b", "c", "d")},
        {"category_ids": (1, 2, 3, 4)},
        {"mean": (0.0, 0.0, 0.0)},
        {"std": (1.0, 1.0, 1.0)},
        {"mask_stride": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_mixed_contracts_are_refused_and_nothing_changes(add, assembled, other, change):
    before = snapshot(assembled)
    with pytest.raises(
        RepositoryError, match=rf"mixed contracts: version 3 .* differ in {next(iter(change))} \(.*--replace"
    ):
        add(contract=replace(other, **change))
    assert snapshot(assembled) == before


def test_a_version_brings_the_engines_of_the_one_before(add, assembled):
    before = snapshot(assembled)
    with pytest.raises(RepositoryError, match=r"against version 3 .* lacks model\.plan; wanted the same engines"):
        add(plan=False)
    assert snapshot(assembled) == before


def test_a_version_policy_of_the_users_own_is_not_overridden(add, assembled):
    config = assembled / "sparseinst_preprocess" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all { } }\n")
    before = snapshot(assembled)
    with pytest.raises(
        RepositoryError, match=r"sparseinst_preprocess/config\.pbtxt: it has a version_policy of its own"
    ):
        add()
    assert snapshot(assembled) == before


def test_going_back_to_damaged_files_is_refused(add, assembled):
    add()
    (assembled / NETWORK / "3" / "model.onnx").write_bytes(b"half a gra")
    before = snapshot(assembled)
    with pytest.raises(ContractError, match=r"model\.onnx of version 3 of sparseinst_network is not the file"):
        roll_back(assembled)
    assert snapshot(assembled) == before
    assert served_version(assembled) == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from sparseinst_export.cli import main
rename, left = Path.rename, [int(sys.argv[1])]
def rename_and_die(path, target):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    return rename(path, target)
Path.rename = Path.replace = rename_and_die
sys.exit(main(sys.argv[2:]))
"""


def killed_after(renames: int, *arguments: str) -> None:
    """Run the command, killed when it has put so many files or folders in their places."""
    command = [sys.executable, "-c", KILLED, str(renames), "repository", *arguments]
    run = subprocess.run(command, check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()


@pytest.mark.parametrize("renames", [0, 3, 6])  # three checksum files come first, then five folders
def test_a_killed_addition_leaves_the_old_version_whole(exported, assembled, renames):
    before = snapshot(assembled)
    (exported / "model.onnx").write_bytes(b"another graph")
    arguments = [
        "--onnx",
        str(exported / "model.onnx"),
        "--plan",
        str(exported / "model.plan"),
        "--out",
        str(assembled),
    ]
    killed_after(renames, *arguments)
    assert {name: text for name, text in snapshot(assembled).items() if name in before} == before
    assert any("a run was killed" in problem for problem in repository_problems(assembled)) == (renames > 3)

    assert main(["repository", *arguments]) == 0
    number = 5 if renames > 3 else 4
    assert served_version(assembled) == number
    assert (assembled / NETWORK / str(number) / "model.onnx").read_bytes() == b"another graph"
    assert not list(assembled.rglob(".staged-*"))


@pytest.mark.parametrize("renames", [1, 5])
def test_a_killed_roll_back_is_named_and_finished_by_another(add, assembled, renames):
    add(b"graph 4")
    add(b"graph 5")
    killed_after(renames, "--roll-back", str(assembled))
    assert served_version(assembled) == 5
    assert any("finish by --roll-back" in problem for problem in repository_problems(assembled))
    assert roll_back(assembled) == 4
    assert pins(assembled) == {(4,)}
    assert not repository_problems(assembled)


def change_a_number(repository: Path, _: Contract) -> None:
    config = repository / NETWORK / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text().replace("dims: [ 20 ]", "dims: [ 21 ]", 1))


def change_an_engine(repository: Path, _: Contract) -> None:
    (repository / NETWORK / "3" / "model.plan").write_bytes(b"a plan of somewhere else")


def add_an_engine(repository: Path, _: Contract) -> None:
    (repository / NETWORK / "3" / "model.9.0.plan").write_bytes(b"dropped here by hand")


def change_one_contract(repository: Path, contract: Contract) -> None:
    folder = repository / "sparseinst_postprocess" / "3"
    (folder / "contract.json").write_text(replace(contract, score_threshold=0.9).to_json())
    write_checksums(folder)


def link_an_engine(repository: Path, _: Contract) -> None:
    engine = repository / NETWORK / "3" / "model.plan"
    (repository.parent / "elsewhere").write_bytes(engine.read_bytes())
    engine.unlink()
    engine.symlink_to(repository.parent / "elsewhere")


def tell_clients_something_else(repository: Path, contract: Contract) -> None:
    config = repository / ENSEMBLES[1] / "config.pbtxt"
    config.write_text(with_contract(config.read_text(), replace(contract, name="another")))


def remove_a_version(repository: Path, _: Contract) -> None:
    for model in MODELS:
        shutil.copytree(repository / model / "3", repository / model / "4")
    shutil.rmtree(repository / ENSEMBLES[0] / "4")


def pin_one_model(repository: Path, _: Contract) -> None:
    config = repository / NETWORK / "config.pbtxt"
    config.write_text(pinned(config.read_text(), 3))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change_a_number, r"sparseinst_network/configs/cpu\.pbtxt says 'dims: \[ 21 \]"),
        (change_an_engine, r"model\.plan of version 3 of sparseinst_network is not the file that was assembled"),
        (add_an_engine, r"model\.9\.0\.plan of version 3 of sparseinst_network is not in SHA256SUMS"),
        (change_one_contract, "sparseinst_postprocess and sparseinst_network have different contracts in version 3"),
        (link_an_engine, r"sparseinst_network/3/model\.plan is a link"),
        (tell_clients_something_else, r"sparseinst_pixels/config\.pbtxt tells clients of another contract"),
        (remove_a_version, "version 4 is there for sparseinst_pixels, .* only"),
        (pin_one_model, r"sparseinst_network/config\.pbtxt serves another version than the others"),
    ],
)
def test_a_check_names_what_is_wrong(assembled, other, capsys, damage, words):
    assert main(["repository", "--check", str(assembled)]) == 0
    assert (
        "versions 3; 3 is served; engines for the presets tensorrt, cpu, cpu-throughput, onnxruntime\n"
        in capsys.readouterr().out
    )
    damage(assembled, other)
    assert main(["repository", "--check", str(assembled)]) == 1
    assert re.search(words, capsys.readouterr().err)


def test_a_check_asks_for_a_presets_engine(assembled, capsys):
    assert main(["repository", "--check", str(assembled), "--preset", "cpu"]) == 0
    assert main(["repository", "--check", str(assembled), "--preset", "cpu-int8"]) == 1
    assert "preset 'cpu-int8' serves model.int8.onnx, which version 3" in capsys.readouterr().err


def test_a_check_of_something_else_says_so(tmp_path, capsys):
    assert main(["repository", "--check", str(tmp_path)]) == 1
    assert "is no model repository of this project: no config.pbtxt for sparseinst, " in capsys.readouterr().err


def test_the_command_adds_to_a_repository_and_replaces_only_when_told(exported, tmp_path, capsys):
    out = tmp_path / "models"
    arguments = ["repository", "--onnx", str(exported / "model.onnx"), "--out", str(out)]
    assert main(arguments) == 0
    assert main(arguments) == 0
    assert "nothing to do, version 1 holds these very files already" in capsys.readouterr().out
    (exported / "model.onnx").write_bytes(b"another graph")
    assert main(arguments) == 0
    assert main(["repository", "--roll-back", str(out)]) == 0
    assert served_version(out) == 1
    assert main(["repository", "--roll-forward", str(out)]) == 0
    assert served_version(out) == 2
    assert main([*arguments, "--replace"]) == 0
    assert not (out / NETWORK / "2").exists()
    assert main(arguments[:3]) == 1
    assert "--onnx without --out" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["\n", "", "\n\n# mine\n"])
def test_a_pinned_version_can_always_be_let_go(ending):
    text = 'name: "a"\n'
    assert pinned(pinned(text, 3).rstrip("\n") + ending, None).startswith(text.rstrip("\n"))
    assert pinned_version(pinned(pinned(text, 3).rstrip("\n") + ending, None)) is None
    assert pinned_version(pinned(pinned(text, 3), 12)) == 12
    assert pinned(pinned(text, 3), None) == text


def test_lines_of_the_user_after_ours_stay_where_they_are(add, assembled, other):
    config = assembled / ENSEMBLES[0] / "config.pbtxt"
    config.write_text(config.read_text() + "\n# mine\nresponse_cache { enable: true }\n")
    before = config.read_text()
    add(contract=replace(other, name="newer"))
    assert config.read_text() == with_contract(before, replace(other, name="newer")) != before
    added = config.read_text()
    roll_back(assembled)
    roll_forward(assembled)
    assert config.read_text() == added
    assert not repository_problems(assembled)
