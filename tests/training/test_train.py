"""The training loop: schedules, freezing, the moving average, faults, and a run that is killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sparseinst.cli import main
from sparseinst.network import SparseInst
from sparseinst.recipes import RECIPES, Phase, Schedule, get_recipe
from sparseinst.train import RunConfig, Trainer, TrainingError, average_with, build_optimizer, freeze, learning_rate


def test_the_learning_rate_warms_up_and_decays():
    schedule = Schedule(phases=(Phase(1, 64),), warmup=10, decay="cosine")
    rates = [learning_rate(schedule, i, 100) for i in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01, rel=0.05)
    steps = replace(schedule, decay="steps", milestones=(0.5, 0.75))
    assert [learning_rate(steps, i, 100) for i in (20, 49, 50, 74, 75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("epochs", [1, 2, 7, 60, 300])
def test_a_stretched_schedule_has_the_length_asked_for_and_ends_in_the_last_phase(epochs: int):
    for name in RECIPES:
        schedule = get_recipe(name).schedule
        stretched = schedule.stretched(epochs)
        assert stretched.epochs == epochs
        assert stretched.phases[-1].size == schedule.phases[-1].size or epochs < len(schedule.phases)
        assert stretched.phase_at(epochs - 1) == stretched.phases[-1]


def test_norms_and_backbone_have_their_own_optimizer_groups(small_model):
    schedule = Schedule(phases=(Phase(1, 64),), backbone_lr_scale=0.1, weight_decay=0.05)
    groups = build_optimizer(small_model, schedule).param_groups
    assert {(group["scale"], group["weight_decay"]) for group in groups} == {(0.1, 0.05), (1.0, 0.05)}
    assert sum(len(group["params"]) for group in groups) == len(list(small_model.parameters()))


def test_frozen_parameters_do_not_learn_and_thaw_again(small_model):
    freeze(small_model, ("backbone.",))
    assert {name.split(".")[0] for name, p in small_model.named_parameters() if p.requires_grad} == {
        "encoder",
        "decoder",
    }
    freeze(small_model, ())
    assert all(p.requires_grad for p in small_model.parameters())


def test_a_young_average_forgets_its_start():
    update = average_with(0.99)
    start, now = torch.zeros(1), torch.ones(1)
    assert update(start, now, 1).item() == pytest.approx(1 - 2 / 11)
    assert update(start, now, 10_000).item() == pytest.approx(0.01)


def test_a_loss_that_is_not_finite_stops_the_run_in_words(tmp_path, small_config, small_contract):
    recipe = replace(get_recipe("compact"), network=small_config, input_size=64)
    model = SparseInst(small_config)
    with torch.no_grad():
        model.decoder.mask_branch.projection.bias.fill_(float("nan"))
    trainer = Trainer(recipe, small_contract, model, RunConfig(out=tmp_path, annotations=Path("unused.json")))
    target = {"labels": torch.tensor([0]), "masks": torch.ones(1, 16, 16)}
    batch = (torch.zeros(1, 64, 64, 3, dtype=torch.uint8), [target])
    with pytest.raises((TrainingError, ValueError), match=r"nan|NaN|invalid numeric"):
        trainer._step([batch], 1.0)


def arguments(scenes: Path, out: Path, *more: str) -> list[str]:
    annotations, images = str(scenes / "instances.json"), str(scenes / "images")
    return [
        *("train", "--recipe", "compact", "--annotations", annotations, "--images", images),
        *("--val-annotations", annotations, "--val-images", images, "--out", str(out), "--epochs", "2"),
        *(
            "--batch-size",
            "4",
            "--workers",
            "1",
            "--save-every",
            "1",
            "--evaluate-every",
            "2",
            "--device",
            "cpu",
            *more,
        ),
    ]


def start(scenes: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from sparseinst.cli import main; raise SystemExit(main())"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the order of sums, and with it the last digit, stays
    return subprocess.Popen(
        [*command, *arguments(scenes, out, *more)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def rows(out: Path) -> list[dict]:
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_killed_run_resumes_as_if_nothing_had_happened(tmp_path, scenes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = start(scenes, whole)
    output = run.communicate(timeout=300)[0].decode()
    assert run.returncode == 0, output
    expected = rows(whole)
    assert [row["iteration"] for row in expected if "loss" in row] == list(range(1, 9))  # 16 pictures, 2 epochs

    run = start(scenes, killed)
    deadline = time.monotonic() + 300
    while len(rows(killed)) < 6 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert 6 <= len(rows(killed)) < 8  # in the middle of the second epoch

    run = start(scenes, killed, "--resume")
    output = run.communicate(timeout=300)[0].decode()
    assert run.returncode == 0, output
    assert rows(killed) == expected
    for name in ("best.safetensors", "last.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_second_run_does_not_overwrite_the_first(tmp_path, scenes, capsys):
    (tmp_path / "state.pt").write_bytes(b"")
    assert main(arguments(scenes, tmp_path)) == 1
    assert "holds a run already; add --resume to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--annotations", "nowhere.json"), "nowhere.json"),
        (("--recipe", "huge"), "wanted one of compact, r50_base, r50_giam"),
        (("--images", "."), "16 of 16 pictures"),
        (("--resume",), "nothing to resume"),
        (("--batch-size", "17"), "lower the batch size"),
    ],
)
def test_what_a_user_gets_wrong_is_answered_in_one_sentence(tmp_path, scenes, capsys, change, words):
    assert main([*arguments(scenes, tmp_path / "out"), *change]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
