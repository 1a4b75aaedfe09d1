"""How fast a recipe trains, and which part of a step takes the time: the trainer's own step, timed from outside.

sparseinst benchmark --training --variant r50_giam --batch-size 2 --sizes 640
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from sparseinst.data import Batch, CocoInstances, Target, TrainingSet, training_batches
from sparseinst.losses import Criterion
from sparseinst.network import SparseInst
from sparseinst.optimise import freeze
from sparseinst.recipes import Recipe
from sparseinst.stopwatch import Stopwatch
from sparseinst.train import RunConfig, Trainer
from sparseinst_runtime import Contract
from sparseinst_runtime.contract import MASK_STRIDE

# `input`: to the device and normalised; `backward` holds the clipping of gradients, `optimiser` the moving average.
COLUMNS = ("data", "input", "forward", "matching", "loss", "backward", "optimiser")


@dataclass(frozen=True)
class TrainingSpeed:
    """What a step of the optimiser took.

    Attributes:
        height: of the last batch's pictures, in pixels; recipes can draw sizes of their own.
        width: likewise.
        pictures: in a step.
        milliseconds: median by part, by the clock.
        processor: median by part, milliseconds of processor time of all threads of this process.
        peak_memory: in bytes; on a GPU what tensors took at most, on a CPU the process's high-water mark so far.
    """

    height: int
    width: int
    pictures: int
    milliseconds: dict[str, float]
    processor: dict[str, float]
    peak_memory: int

    @property
    def total(self) -> float:
        """Milliseconds of a step."""
        return sum(self.milliseconds.values())

    @property
    def pictures_per_second(self) -> float:
        """Throughput of the training."""
        return 1000 * self.pictures / self.total


def measure_training(
    recipe: Recipe,
    contract: Contract,
    batches: Iterator[Batch],
    *,
    device: str,
    repeats: int,
    warmup: int,
    tick: Callable[[], None] = lambda: None,
) -> TrainingSpeed:
    """Train fresh weights for `warmup` + `repeats` steps of one batch, with what the recipe's last phase freezes.

    Args:
        recipe: what is trained; its accumulation is left out.
        contract: pixel statistics.
        batches: without end, or at least as many as are asked for.
        device: `cuda`, `cpu`, `cuda:1`.
        repeats: steps that count.
        warmup: steps before them.
        tick: called after each step.
    """
    schedule = replace(recipe.schedule, accumulate=1)
    recipe = replace(recipe, schedule=schedule)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(out=Path(folder), annotations=Path("unused.json"), device=device)
        trainer = Trainer(recipe, contract, SparseInst(recipe.network), config)
        freeze(trainer.model, schedule.phases[-1].frozen)
        watch = Stopwatch(trainer.step.device)
        _lap_between_parts(trainer, watch)
        on_gpu = trainer.step.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(trainer.step.device)
        for _ in range(warmup + repeats):
            watch.start()
            batch = next(batches)
            watch.lap("data")
            # As little as at the start of the warm-up: fresh weights on drawn targets are not to blow up.
            trainer.step([batch], schedule.lr / 1000)
            watch.lap("optimiser")
            tick()
    images = batch[0]
    medians = watch.medians(warmup)
    return TrainingSpeed(
        height=images.shape[1],
        width=images.shape[2],
        pictures=images.shape[0],
        milliseconds={part: 1000 * medians[part].wall for part in COLUMNS},
        processor={part: 1000 * medians[part].processor for part in COLUMNS},
        peak_memory=torch.cuda.max_memory_allocated(trainer.step.device) if on_gpu else _high_water_mark(),
    )


def drawn_batches(size: tuple[int, int], batch_size: int, instances: int, classes: int) -> Iterator[Batch]:
    """Without end the same batch of random pixels and discs, so that reading data takes no time.

    Args:
        size: height and width in pixels, multiples of 4.
        batch_size: pictures in it.
        instances: of each picture; discs of a tenth to a third of the shorter side across.
        classes: labels are drawn from so many.
    """
    height, width = size
    chance = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch_size, height, width, 3), generator=chance, dtype=torch.uint8)
    rows, columns = height // MASK_STRIDE, width // MASK_STRIDE
    y, x = torch.arange(rows).view(1, rows, 1), torch.arange(columns).view(1, 1, columns)
    targets = []
    for _ in range(batch_size):
        draw = torch.rand(3, instances, 1, 1, generator=chance)
        radius = (0.05 + 0.12 * draw[2]) * min(rows, columns)
        masks = ((y - draw[0] * rows).square() + (x - draw[1] * columns).square() <= radius.square()).float()
        labels = torch.randint(0, classes, (instances,), generator=chance)
        targets.append(Target(labels=labels, masks=masks))
    while True:
        yield images, targets


def dataset_batches(
    recipe: Recipe, instances: CocoInstances, size: int, pad_colour: tuple[int, int, int], workers: int
) -> Iterator[Batch]:
    """Without end the batches that the recipe trains on, epoch after epoch; `ShortSideConfig` draws its own sizes."""
    dataset = TrainingSet(instances, size, recipe.augment, pad_colour)
    epoch = 0
    while True:
        yield from training_batches(dataset, recipe.schedule.batch_size, seed=0, epoch=epoch, workers=workers)
        epoch += 1


def _lap_between_parts(trainer: Trainer, watch: Stopwatch) -> None:
    """Take laps where one part of the step ends and the next begins."""

    def timed(function: Callable[..., Any], before: str, part: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            watch.lap(before)
            result = function(*arguments)
            watch.lap(part)
            return result

        return call

    def after(part: str) -> Callable[..., None]:
        return lambda *_: watch.lap(part)

    trainer.model.register_forward_pre_hook(after("input"))
    trainer.model.register_forward_hook(after("forward"))
    criterion = trainer.step.criterion
    criterion.matcher = cast(Any, timed(criterion.matcher, "loss", "matching"))
    trainer.step.criterion = cast(Criterion, timed(criterion, "loss", "loss"))
    trainer.state.optimizer.register_step_pre_hook(after("backward"))


def _high_water_mark() -> int:
    """The most memory that this process ever held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
