"""Training in two real processes, started by torchrun and joined by gloo: the steps of one process, no loose ends."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sparseinst.checkpoint import load_state
from sparseinst.cli import main
from sparseinst.data import AugmentConfig, CocoInstances, TrainingSet, training_batches
from sparseinst.distributed import World, device_of

SCRIPT = Path(__file__).with_name("steps_of_processes.py")
ALONE = runpy.run_path(str(SCRIPT))  # its functions, for a world of one
SCENARIOS = ALONE["SCENARIOS"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(*command: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TORCHRUN, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def processes_about(word: Path) -> list[int]:
    """Living processes with this path in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(word).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder of what two processes computed; at last the first one is killed, while the second waits for it."""
    folder = tmp_path_factory.mktemp("two")
    run = start(str(SCRIPT), str(folder))
    output = run.communicate(timeout=600)[0]
    assert run.returncode == 1, output
    assert (folder / "process_1.pt").exists(), output
    assert not processes_about(folder)
    return folder


def assert_same(two: dict, one: dict) -> None:
    for mine, wanted in zip(two["losses"], one["losses"], strict=True):
        assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-3)
    for mine, wanted in zip(two["gradients"], one["gradients"], strict=True):
        assert mine.keys() == wanted.keys()
        scale = max(float(gradient.abs().max()) for gradient in wanted.values())
        for name in wanted:
            torch.testing.assert_close(mine[name], wanted[name], rtol=1e-3, atol=3e-4 * scale)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_make_the_steps_of_one_with_the_whole_batch(together, tmp_path, scenario):
    one = ALONE["steps"](tmp_path, World(), SCENARIOS[scenario])
    two = torch.load(together / "process_0.pt")[scenario]
    assert_same(two, one)
    frozen = [any(name.startswith("backbone.") for name in gradients) for gradients in two["gradients"]]
    assert frozen == [True, False, True]


def test_passes_that_are_accumulated_make_the_step_of_one_large_batch(together, tmp_path):
    one = ALONE["steps"](tmp_path, World(), SCENARIOS["plain"])
    assert_same(torch.load(together / "process_0.pt")["two passes"], one)
    # Unequal passes too: the second one has more instances than the first, and more than there are queries.
    uneven = SCENARIOS["more instances than queries"]
    assert_same(ALONE["steps"](tmp_path, World(), uneven, 4), ALONE["steps"](tmp_path, World(), uneven))


def test_both_processes_end_with_equal_weights_and_equal_averages(together):
    first, second = (torch.load(together / f"process_{rank}.pt") for rank in (0, 1))
    for scenario in first:
        assert first[scenario]["losses"] == second[scenario]["losses"]
        for part in ("weights", "average"):
            mine, theirs = first[scenario][part], second[scenario][part]
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        weight = "decoder.inst_branch.fc.weight"
        assert not torch.equal(first[scenario]["weights"][weight], first[scenario]["average"][weight])


def test_the_report_is_of_the_process_whose_numbers_were_not_finite(together):
    report = load_state(together / "bad_batch.pt")
    assert (report["process"], report["pass"]) == (1, 0)
    assert torch.equal(report["images"], ALONE["batches"](SCENARIOS["plain"], World(1, 2), 2)[0][0])
    assert report["modules"][0] == "encoder.fusion"
    message = (together / "message.txt").read_text()
    assert message.startswith("process 0: the loss is nan")  # the first process tells, and it alone


@pytest.mark.parametrize(("size", "passes"), [(2, 1), (2, 2), (4, 1)])
def test_however_a_step_is_divided_it_sees_the_same_pictures(scenes, size, passes):
    instances = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    dataset = TrainingSet(instances, 32, AugmentConfig(), (124, 116, 104))

    def pictures_of_steps(batch_size: int, passes: int, world_size: int) -> list[list[bytes]]:
        found: list[list[bytes]] = []
        for rank in range(world_size):
            mine = training_batches(dataset, batch_size, seed=1, epoch=0, rank=rank, world_size=world_size)
            for number, (images, _) in enumerate(mine):
                found.extend([] for _ in range(number // passes + 1 - len(found)))
                found[number // passes] += [image.numpy().tobytes() for image in images]
        return [sorted(step) for step in found]

    assert pictures_of_steps(8 // size // passes, passes, size) == pictures_of_steps(8, 1, 1)


def test_each_process_has_a_device_of_its_own():
    assert device_of("cuda:1", World()) == "cuda:1"
    assert device_of("cpu", World(1, 2, 1)) == "cpu"
    with pytest.raises(ValueError, match="--device cuda:1 with 2 processes; wanted cuda"):
        device_of("cuda:1", World(1, 2, 1))
    with pytest.raises(ValueError, match="process 99 of this machine has no GPU"):
        device_of("cuda", World(99, 100, 99))


def rows(out: Path) -> list[dict]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def test_a_run_of_two_processes_is_stopped_resumed_and_equal_to_one_of_one(tmp_path, scenes):
    one, two = tmp_path / "one", tmp_path / "two"
    annotations, images = str(scenes / "instances.json"), str(scenes / "images")
    command = [
        *("train", "--recipe", "compact", "--annotations", annotations, "--images", images),
        *("--val-annotations", annotations, "--val-images", images, "--device", "cpu", "--lr", "1e-4"),
        *["--epochs", "2", "--workers", "0", "--save-every", "3", "--evaluate-every", "2"],
    ]
    pair = ["-m", "sparseinst", *command, "--out", str(two), *["--batch-size", "1", "--accumulate", "2"]]
    run, deadline = start(*pair), time.monotonic() + 600
    while len(rows(two)) < 5 and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=600)[0]
    assert run.returncode != 0
    assert output.count("interrupted; go on with --resume") == 1, output
    assert not processes_about(two), output

    run = start(*pair, "--resume")
    output = run.communicate(timeout=600)[0]
    assert run.returncode == 0, output
    assert output.count("epoch 2/2: val mask AP") == 1  # the first process tells, and it alone
    assert not processes_about(two)

    assert main([*command, "--out", str(one), *["--batch-size", "4", "--accumulate", "1"]]) == 0
    for mine, wanted in zip(rows(two), rows(one), strict=True):
        assert mine.pop("val", None) == pytest.approx(wanted.pop("val", None), abs=1e-3)
        assert mine == pytest.approx(wanted, rel=1e-3)
    assert sorted(path.name for path in two.iterdir() if "tfevents" not in path.name) == [
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
        "state.pt",
    ]


def test_what_a_user_gets_wrong_is_said_once_and_ends_all_processes(tmp_path, scenes):
    run = start(
        *("-m", "sparseinst", "train", "--recipe", "compact", "--annotations", "nowhere.json", "--images", "."),
        *("--val-annotations", "nowhere.json", "--val-images", ".", "--out", str(tmp_path / "out"), "--device", "cpu"),
    )
    output = run.communicate(timeout=600)[0]
    assert run.returncode == 1
    assert output.count("sparseinst train: ") == 1
    assert not processes_about(tmp_path)
