"""The benchmarks: what their figures stand for. How large they are depends on the machine, and no test looks."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from sparseinst.benchmark import COLUMNS, Setting, measure
from sparseinst.benchmark_training import COLUMNS as STEP
from sparseinst.benchmark_training import dataset_batches, drawn_batches, measure_training
from sparseinst.cli import main
from sparseinst.cost import multiply_adds
from sparseinst.data import CocoInstances
from sparseinst.recipes import get_recipe
from sparseinst.stopwatch import Stopwatch

CPU = torch.device("cpu")
QUICK = Setting(repeats=2, warmup=1, instances=5, original=(90, 160))


def test_laps_add_up_to_the_time_that_went_by():
    watch = Stopwatch(CPU)
    for _ in range(2):
        began = time.perf_counter()
        watch.start()
        for part in ("network", "masks", "network"):
            time.sleep(0.01)
            watch.lap(part)
        elapsed = time.perf_counter() - began
    laps = watch.repetitions[-1]
    assert sum(lap.wall for lap in laps.values()) <= elapsed
    assert laps["network"].wall > 0.02
    assert laps["network"].processor < 0.02  # sleeping takes none
    assert watch.medians(warmup=1) == laps


def test_warm_up_does_not_count():
    watch = Stopwatch(CPU)
    for pause in (0.2, 0.0, 0.0):
        watch.start()
        time.sleep(pause)
        watch.lap("network")
    assert watch.medians(warmup=1)["network"].wall < 0.1 < watch.repetitions[0]["network"].wall


def test_every_part_is_measured_and_the_total_leaves_normalising_out(small_model, small_contract):
    speed = measure(small_model, small_contract, (64, 96), replace(QUICK, batch_size=2), device=CPU)
    assert set(speed.milliseconds) == {"normalise", *COLUMNS}
    assert all(value > 0 for value in speed.milliseconds.values())
    assert speed.total == pytest.approx(sum(speed.milliseconds.values()) - speed.milliseconds["normalise"])
    assert speed.pictures_per_second == pytest.approx(2000 / speed.total)
    assert speed.multiply_adds == multiply_adds(small_model, 64, 96)


def test_masks_are_made_for_as_many_instances_as_are_named(small_model, small_contract):
    assert measure(small_model, small_contract, (64, 64), QUICK, device=CPU).instances == 5


def test_a_picture_is_segmented_for_real(small_model, small_contract):
    picture = np.zeros((30, 50, 3), np.uint8)
    options = {"device": CPU, "picture": picture}
    nothing = measure(small_model, replace(small_contract, score_threshold=1.0), (64, 64), QUICK, **options)
    assert (nothing.instances, nothing.original) == (0, (30, 50))
    wide = measure(small_model, small_contract, (64, 96), QUICK, **options)
    assert (wide.height, wide.width) == (64, 96)


def test_measuring_leaves_no_hook_behind(small_model, small_contract):
    measure(small_model, small_contract, (64, 64), QUICK, device=CPU)
    parts = (small_model.backbone, small_model.encoder, small_model.decoder)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in parts)


@pytest.fixture
def small_recipe(small_config):
    recipe = get_recipe("compact")
    return replace(recipe, network=small_config, schedule=replace(recipe.schedule, batch_size=2, accumulate=4))


def test_a_training_step_is_divided_without_a_gap(small_recipe, small_contract):
    batches = drawn_batches((64, 96), 2, 3, classes=3)
    speed = measure_training(small_recipe, small_contract, batches, device="cpu", repeats=2, warmup=1)
    assert (speed.height, speed.width, speed.pictures) == (64, 96, 2)
    assert tuple(speed.milliseconds) == STEP
    assert all(speed.milliseconds[part] > 0 for part in STEP)
    assert speed.pictures_per_second == pytest.approx(2000 / speed.total)
    assert speed.peak_memory > 50 * 2**20  # torch alone takes more


def test_drawn_targets_look_like_those_of_a_dataset(small_recipe, small_contract, scenes):
    data = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    read = next(dataset_batches(small_recipe, data, 64, small_contract.pad_colour, workers=0))
    drawn = next(drawn_batches((64, 64), 2, 3, classes=3))
    assert (drawn[0].dtype, drawn[0].shape) == (read[0].dtype, read[0].shape)
    for ours, theirs in zip(drawn[1], read[1], strict=True):
        assert {k: v.dtype for k, v in ours.items()} == {k: v.dtype for k, v in theirs.items()}
        assert ours["masks"].shape[1:] == theirs["masks"].shape[1:]
        assert len(ours["labels"]) == len(ours["masks"]) == 3
        assert ours["masks"].amax(dim=(1, 2)).eq(1).all()  # no empty mask


def test_a_dataset_never_runs_out(small_recipe, small_contract, scenes):
    data = CocoInstances(scenes / "instances.json", scenes / "images", keep_empty=False)
    batches = dataset_batches(small_recipe, data, 32, small_contract.pad_colour, workers=0)
    an_epoch = len(data) // 2
    assert len(list(islice(batches, an_epoch + 1))) == an_epoch + 1


def test_the_command_prints_a_row_for_each_size_and_writes_what_it_printed(bundled_model, tmp_path, capsys):
    command = ["benchmark", "--weights", str(bundled_model / "model.safetensors"), "--device", "cpu"]
    options = ["--sizes", "64", "96x64", "--repeats", "1", "--warmup", "1", "--json", str(tmp_path / "speed.json")]
    assert main(command + options) == 0
    text, figures = capsys.readouterr().out, json.loads((tmp_path / "speed.json").read_text("utf-8"))
    for row, size in zip(figures["rows"], ("64x64", "96x64"), strict=True):
        line = next(line for line in text.splitlines() if f"{size} |" in line)
        assert f" {row['total']:.1f} |" in line
    assert figures["machine"]["torch"] == torch.__version__
    assert "20 instances" in text


def test_the_command_measures_training_on_a_dataset(scenes, capsys):
    data = ["--annotations", str(scenes / "instances.json"), "--images", str(scenes / "images")]
    options = ["--device", "cpu", "--sizes", "64", "--repeats", "1", "--warmup", "1"]
    assert main(["benchmark", "--training", "--variant", "compact", *data, *options]) == 0
    text = capsys.readouterr().out
    assert all(part in text for part in (*STEP, "64x64", "peak GiB", "batch 2"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variant", "compact", "--picture", "a.jpg"], "--picture needs --weights"),
        (["--weights", "w.safetensors", "--training"], "wanted --variant"),
        (["--variant", "compact", "--training", "--precision", "amp"], "leave --precision out"),
        (["--variant", "compact", "--annotations", "a.json"], "go together"),
        (["--variant", "compact", "--sizes", "100"], "multiples of 32"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(options, words, capsys):
    assert main(["benchmark", "--device", "cpu", *options]) == 1
    assert words in capsys.readouterr().err
