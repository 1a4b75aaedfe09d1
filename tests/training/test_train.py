"""The training loop: schedules, freezing, the moving average, faults, and a run that is killed and resumed."""

from __future__ import annotations

import json
import math
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
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from sparseinst.checkpoint import load_state
from sparseinst.cli import main
from sparseinst.losses import Criterion
from sparseinst.matcher import Matcher
from sparseinst.network import NetworkConfig, SparseInst
from sparseinst.network.decoder import pool_by_activation
from sparseinst.optimise import average_with, build_optimizer, divided, freeze, learning_rate
from sparseinst.recipes import RECIPES, Phase, Schedule, get_recipe
from sparseinst.run_log import RunLog
from sparseinst.train import RunConfig, Trainer, TrainingError
from sparseinst_runtime import Contract

PICTURE = torch.arange(64 * 64 * 3).view(1, 64, 64, 3).remainder(251).to(torch.uint8)
BATCH = (PICTURE, [{"labels": torch.tensor([0]), "masks": torch.ones(1, 16, 16).tril()}])
EMPTY = (PICTURE, [{"labels": torch.zeros(0, dtype=torch.int64), "masks": torch.zeros(0, 16, 16)}])


def small_trainer(out: Path, network: NetworkConfig, contract: Contract, **options) -> Trainer:
    """A trainer of a small network, the same each time."""
    torch.manual_seed(0)
    recipe = replace(get_recipe("compact"), network=network, input_size=64)
    config = RunConfig(out=out, annotations=Path("unused.json"), **options)
    return Trainer(recipe, contract, SparseInst(network), config)


def test_the_learning_rate_warms_up_and_decays():
    schedule = Schedule(phases=(Phase(1, 64),), warmup=10, decay="cosine")
    rates = [learning_rate(schedule, i, 100) for i in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.01, rel=0.05)
    steps = replace(schedule, decay="steps", milestones=(0.5, 0.75))
    assert [learning_rate(steps, i, 100) for i in (20, 49, 50, 74, 75)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 60, 300])
def test_a_stretched_schedule_has_the_length_asked_for_and_ends_in_the_last_phase(epochs: int):
    for name in RECIPES:
        schedule = get_recipe(name).schedule
        stretched = schedule.stretched(epochs)
        assert stretched.epochs == epochs
        assert all(phase.epochs > 0 for phase in stretched.phases)
        assert stretched.phase_at(epochs - 1).size == schedule.phases[-1].size
        assert schedule.stretched(schedule.epochs) == schedule
    with pytest.raises(ValueError, match="epochs is 0; wanted at least 1"):
        schedule.stretched(0)


def test_a_stretched_schedule_keeps_the_shares_of_its_phases():
    schedule = Schedule(phases=(Phase(1, 64), Phase(2, 96), Phase(1, 128)))
    assert [phase.epochs for phase in schedule.stretched(40).phases] == [10, 20, 10]
    assert [(phase.size, phase.epochs) for phase in schedule.stretched(2).phases] == [(96, 1), (128, 1)]


def test_norms_and_backbone_have_their_own_optimizer_groups(small_model):
    schedule = Schedule(phases=(Phase(1, 64),), backbone_lr_scale=0.1, weight_decay=0.05)
    small_model.backbone.norm = torch.nn.LayerNorm(4)  # its batch norms are frozen, and no parameters
    groups = build_optimizer(small_model, schedule).param_groups
    lengths = {(group["scale"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert lengths.keys() == {(0.1, 0.05), (0.1, 0.0), (1.0, 0.05)}
    assert lengths[0.1, 0.0] == 2
    assert sum(lengths.values()) == len(list(small_model.parameters()))


def test_frozen_parameters_do_not_learn_and_thaw_again(small_model):
    freeze(small_model, ("backbone.",))
    assert {name.split(".")[0] for name, p in small_model.named_parameters() if p.requires_grad} == {
        "encoder",
        "decoder",
    }
    freeze(small_model, ())
    assert all(p.requires_grad for p in small_model.parameters())


def test_a_young_average_forgets_its_start():
    for count, weight in ((1, 1 - 2 / 11), (10_000, 0.01)):
        averaged = [torch.zeros(1), torch.zeros(2)]
        average_with(0.99)(averaged, [torch.ones(1), torch.ones(2)], count)
        assert [value.tolist() for value in averaged] == [pytest.approx([weight] * n) for n in (1, 2)]


def test_the_average_is_what_is_evaluated_and_follows_the_weights(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    weight = "decoder.inst_branch.cls_score.weight"
    trainer.step([BATCH], 1e-2)  # an average begins as a copy
    torch.testing.assert_close(trainer.evaluated.state_dict()[weight], trainer.model.state_dict()[weight])
    before = trainer.model.state_dict()[weight].clone()
    trainer.step([BATCH], 1e-2)
    after = trainer.model.state_dict()[weight]
    assert not torch.equal(before, after)
    torch.testing.assert_close(trainer.evaluated.state_dict()[weight], before.lerp(after, 1 - 2 / 11))


def test_accumulated_batches_give_the_loss_and_the_gradient_of_their_mean(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    gradients = []
    trainer.state.optimizer.step = lambda: gradients.append([p.grad.clone() for p in trainer.model.parameters()])
    once, twice = trainer.step([BATCH], 1e-2), trainer.step([BATCH, BATCH], 1e-2)
    assert twice.losses == pytest.approx(once.losses, rel=1e-4)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


def test_batches_without_an_instance_train(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    losses, _ = trainer.step([EMPTY, EMPTY], 1e-2)
    assert losses["classification"] > 0
    assert losses["mask"] == losses["dice"] == losses["objectness"] == 0
    assert trainer.step([EMPTY, BATCH], 1e-2).losses["mask"] > 0
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_autocast_to_bf16_stays_close_to_fp32(tmp_path, small_config, small_contract):
    """The path of a GPU, on the CPU: the products of the forward pass in 16 bits, the rest in 32."""
    full = small_trainer(tmp_path / "full", small_config, small_contract)
    half = small_trainer(tmp_path / "half", small_config, small_contract, precision="amp")
    for _ in range(3):
        mine, wanted = half.step([BATCH], 1e-3), full.step([BATCH], 1e-3)
        assert mine.losses == pytest.approx(wanted.losses, rel=0.05)
        assert mine.losses != wanted.losses
        assert mine.gradient_norm == pytest.approx(wanted.gradient_norm, rel=0.2)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in half.model.parameters())


class Recorder(TorchDispatchMode):
    """Notes what is computed in 16 bits; casts are not."""

    def __init__(self) -> None:
        super().__init__()
        self.in_16_bits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket not in (torch.ops.aten._to_copy, torch.ops.aten.detach, torch.ops.aten.view):
            self.in_16_bits += [function.name()] * any(
                isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
                for value in tree_flatten((args, result))[0]
            )
        return result


def test_matching_losses_and_pooling_are_computed_in_fp32_under_autocast():
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(2, 6, 3, generator=generator).bfloat16(),
        "pred_scores": torch.randn(2, 6, 1, generator=generator).bfloat16(),
        "pred_masks": torch.randn(2, 6, 16, 16, generator=generator).bfloat16(),
    }
    masks = torch.rand(2, 16, 16, generator=generator)
    targets = [{"labels": torch.tensor([0, 2]), "masks": masks}, EMPTY[1][0]]
    outside = Criterion()(outputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        with Recorder() as unguarded:
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert "aten::mm" in unguarded.in_16_bits  # the recorder sees what it is to see
        for activation in ("sigmoid", "softmax"):
            with Recorder() as recorder:
                pooled = pool_by_activation(torch.randn(1, 5, 8, 8), torch.randn(1, 4, 8, 8), activation)
            assert pooled.dtype == torch.float32
            assert recorder.in_16_bits == []
        floats = {name: value.float() for name, value in outputs.items()}
        with Recorder() as recorder:
            pairs, terms = Matcher()(floats, targets), Criterion()(floats, targets)
        assert recorder.in_16_bits == []
        assert all(torch.equal(terms[name], outside[name]) for name in outside)
        assert all(torch.equal(a, b) for a, b in zip(pairs[0], Matcher()(outputs, targets)[0], strict=True))


LAYERS = ["decoder.mask_branch.projection", "decoder.inst_branch.cls_score", "decoder.inst_branch.objectness"]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_weights(tmp_path, small_config, small_contract, layer):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    with torch.no_grad():
        trainer.model.get_submodule(layer).bias.fill_(float("nan"))
    words = rf"the loss is nan at iteration 0 .*1 tensors of the weights .*{layer}\.bias first.*with a lower --lr"
    with pytest.raises(TrainingError, match=words):
        trainer.step([BATCH], 1e-2)
    report = load_state(tmp_path / "bad_batch.pt")
    assert report["parameters"] == [f"{layer}.bias"]
    assert report["modules"][0] == layer


def overflow(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """As from a batch that drives a layer beyond its numbers, while all weights are good."""
    return output * torch.inf if inputs[0].shape[0] == 2 else output


def test_the_report_holds_the_batch_and_the_first_module_that_fails(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    trainer.save()
    state, before = (tmp_path / "state.pt").read_bytes(), [p.detach().clone() for p in trainer.model.parameters()]
    trainer.model.encoder.fusion.register_forward_hook(overflow)
    bad = (PICTURE.flip(1).repeat(2, 1, 1, 1), BATCH[1] * 2)
    trainer.position.iteration = 7
    with pytest.raises(TrainingError, match=r"output that is not finite is encoder\.fusion\. .*bad_batch\.pt holds"):
        trainer.step([BATCH, bad], 1e-2)
    report = load_state(tmp_path / "bad_batch.pt")  # loaded as tensors and plain values only
    assert torch.equal(report["images"], bad[0])
    assert report["images"].dtype == torch.uint8
    for mine, theirs in zip(report["targets"], bad[1], strict=True):
        assert torch.equal(mine["labels"], theirs["labels"])
        assert torch.equal(mine["masks"], theirs["masks"])
    assert (report["iteration"], report["lr"], report["process"], report["pass"]) == (7, 1e-2, 0, 1)
    assert not math.isfinite(report["losses"]["loss"])
    assert report["modules"][0] == "encoder.fusion"
    assert report["parameters"] == []
    # The last good state is still there, in the file and in memory.
    assert (tmp_path / "state.pt").read_bytes() == state
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))


class BadGradient(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


def test_gradients_that_are_not_finite_stop_the_run_too(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.model.encoder.fusion.register_forward_hook(lambda *call: BadGradient.apply(call[2]))
    with pytest.raises(TrainingError, match=r"norm of the gradients is nan .*at the output of encoder"):
        trainer.step([BATCH], 1e-2)
    report = load_state(tmp_path / "bad_batch.pt")
    assert math.isfinite(report["losses"]["loss"])
    assert report["modules"] == report["losses_not_finite"] == []
    assert "encoder.fusion.weight" in report["gradients"]
    assert "decoder.mask_branch.projection.weight" not in report["gradients"]
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))


def test_weights_that_are_not_finite_do_not_replace_good_ones(tmp_path, small_config, small_contract):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    trainer.save()
    good = (tmp_path / "state.pt").read_bytes()
    with torch.no_grad():
        trainer.model.encoder.fusion.weight[0, 0] = torch.inf
    with pytest.raises(TrainingError, match=r"weights are not finite after iteration 0; they were not written"):
        trainer.save()
    assert (tmp_path / "state.pt").read_bytes() == good


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 5}, "seed 0, now 5"),
        ({"frozen": "backbone."}, "frozen nothing, now backbone."),
        ({"sides": (64, 96)}, r"sides \[\], now \[64, 96\]"),
        ({"processes": 2}, r"8 pictures a step \(8 x 1 passes x 1 processes\), now 16 "),
        ({"batch_size": 4}, r"8 pictures a step \(8 x 1 passes x 1 processes\), now 4 "),
    ],
)
def test_a_state_is_resumed_with_the_arguments_it_was_made_with(tmp_path, small_config, small_contract, change, words):
    trainer = small_trainer(tmp_path, small_config, small_contract)
    trainer.save()
    (tmp_path / "log.jsonl").write_text("")
    trainer.resume()
    trainer.origin = replace(trainer.origin, batch_size=2, accumulate=2, processes=2)  # as many pictures a step
    trainer.resume()
    trainer.origin = replace(trainer.origin, batch_size=8, accumulate=1, processes=1)
    trainer.origin = replace(trainer.origin, **change)
    with pytest.raises(TrainingError, match=f"was made with {words}.*; resume with what it was started with"):
        trainer.resume()


def test_a_total_batch_is_kept_where_it_can_be_and_the_rate_follows_it_where_not():
    schedule = get_recipe("r50_giam").schedule
    total = schedule.batch_size * schedule.accumulate
    for batch_size, processes in ((None, 1), (1, 1), (2, 4), (None, 8), (16, 2), (64, 1)):
        divided_one, words = divided(schedule, batch_size=batch_size, processes=processes)
        assert divided_one.batch_size * divided_one.accumulate * processes == total == 64
        assert divided_one.lr == schedule.lr
        assert words.startswith("64 pictures a step: ")
    half, words = divided(schedule, batch_size=4, accumulate=4, processes=2)
    assert half.lr == pytest.approx(schedule.lr / 2)
    assert words == (
        "32 pictures a step: 4 x 4 passes x 2 processes; the recipe has 64, so its learning rate 5e-05 becomes 2.5e-05 "
        "(--lr overrides)"
    )
    assert divided(schedule, batch_size=32, processes=8)[0].lr == pytest.approx(4 * schedule.lr)
    given, words = divided(schedule, batch_size=4, accumulate=4, lr=3e-4)
    assert given.lr == 3e-4
    assert "learning rate 0.0003 as given" in words


def test_an_interrupt_waits_for_the_whole_step_to_be_logged(tmp_path):
    log = RunLog(tmp_path, active=True)
    log.begin()
    steps = []

    def step() -> None:
        log.step(1, 0, lr=0.1, losses={"loss": 2.0}, gradient_norm=1.0, pictures=8)
        steps.append("after the interrupt")

    with log.opened(Console(quiet=True), 0, 1):
        add_scalar, names = log._board.add_scalar, []

        def interrupted(name: str, *rest) -> None:
            signal.raise_signal(signal.SIGINT)
            names.append(name)
            add_scalar(name, *rest)

        log._board.add_scalar = interrupted
        with pytest.raises(KeyboardInterrupt):
            step()
    assert names == ["loss/loss", "lr", "gradient_norm", "images_per_second"]
    assert [row["iteration"] for row in rows(tmp_path)] == [1]
    assert steps == []


def arguments(scenes: Path, out: Path, *more: str) -> list[str]:
    """Two epochs of four steps, over two phases of the recipe; the evaluation comes at the end."""
    annotations, images = str(scenes / "instances.json"), str(scenes / "images")
    options = "--epochs 2 --batch-size 2 --accumulate 2 --workers 0 --save-every 3 --evaluate-every 2 --device cpu"
    return [
        *("train", "--recipe", "compact", "--annotations", annotations, "--images", images),
        *("--val-annotations", annotations, "--val-images", images, "--out", str(out), *options.split(), *more),
    ]


def start(scenes: Path, out: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "from sparseinst.cli import main; raise SystemExit(main())"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the order of sums, and with it the last digit, stays
    return subprocess.Popen(
        [*command, *arguments(scenes, out, *more)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a group of its own, with its workers, as in a terminal
    )


def rows(out: Path) -> list[dict]:
    """The log's whole lines."""
    log = out / "log.jsonl"
    return [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.exists() else []


def stop_after(scenes: Path, out: Path, steps: int, number: signal.Signals, *more: str) -> tuple[int, str]:
    """Run until a step is in the log, then send a signal to the whole group; gives exit status and output."""
    run = start(scenes, out, *more)
    deadline = time.monotonic() + 300
    while [row["iteration"] for row in rows(out)][-1:] != [steps] and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, number)
    output = run.communicate(timeout=60)[0].decode()
    return run.returncode, output


def test_a_run_that_is_stopped_anywhere_resumes_as_if_nothing_had_happened(tmp_path, scenes):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run = start(scenes, whole)
    output = run.communicate(timeout=300)[0].decode()
    assert run.returncode == 0, output
    expected = rows(whole)
    assert [row["iteration"] for row in expected if "loss" in row] == list(range(1, 9))
    assert len({row["lr"] for row in expected if "loss" in row}) == 8
    assert [row["iteration"] for row in expected if "val" in row] == [8]

    # With workers and without: they do not change the batches.
    status, output = stop_after(scenes, stopped, 2, signal.SIGINT, "--workers", "2")
    assert status == 130, output
    assert "Traceback" not in output
    assert output.endswith("sparseinst train: interrupted; go on with --resume\n")
    assert len(rows(stopped)) == 2  # before the first regular save

    status, output = stop_after(scenes, stopped, 7, signal.SIGKILL, "--resume", "--workers", "1")
    assert status == -signal.SIGKILL, output
    assert len(rows(stopped)) == 7  # in the middle of the second epoch, one step behind the last save
    with (stopped / "log.jsonl").open("a") as log:
        log.write('{"iteration": 8, "epoch": 1, "val": {"ap": 0.5}')  # a kill in the middle of a write

    status, output = stop_after(scenes, stopped, 8, signal.SIGKILL, "--resume")
    assert status == -signal.SIGKILL, output
    assert rows(stopped) == expected[:8]  # all steps done, the evaluation not
    assert not (stopped / "best.safetensors").exists()

    run = start(scenes, stopped, "--resume")
    output = run.communicate(timeout=300)[0].decode()
    assert run.returncode == 0, output
    assert rows(stopped) == expected
    for name in ("best.safetensors", "last.safetensors"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_a_second_run_does_not_overwrite_the_first(tmp_path, scenes, capsys):
    (tmp_path / "state.pt").write_bytes(b"")
    assert main(arguments(scenes, tmp_path)) == 1
    assert "holds a run already; add --resume to go on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--annotations", "nowhere.json"), "nowhere.json"),
        (("--recipe", "huge"), "wanted one of compact, compact_refine, "),
        (("--images", "."), "16 of 16 pictures"),
        (("--resume",), "nothing to resume"),
        (("--batch-size", "17"), "lower the batch size"),
        (("--batch-size", "8", "--accumulate", "3"), "lower --batch-size or --accumulate"),
        (("--device", "abacus"), "--device abacus cannot be used"),
    ],
)
def test_what_a_user_gets_wrong_is_answered_in_one_sentence(tmp_path, scenes, capsys, change, words):
    assert main([*arguments(scenes, tmp_path / "out"), *change]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--accumulate", "--lr", "--save-every"])
def test_numbers_below_one_step_are_refused(tmp_path, scenes, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments(scenes, tmp_path), option, "0"])
    assert f"argument {option}: invalid positive" in capsys.readouterr().err
