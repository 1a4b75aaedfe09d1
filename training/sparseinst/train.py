"""The training loop. Reads from top to bottom; everything it needs to go on after a kill is in `state.pt`.

    sparseinst train --recipe compact --annotations train.json --images train/ \
        --val-annotations val.json --val-images val/ --out runs/compact [--resume]
    torchrun --nproc-per-node 8 -m sparseinst train ...                    one process for each GPU

Writes into --out: `best.safetensors` and `last.safetensors` (weights with their contract), `state.pt` (to resume),
`log.jsonl` (a line for each step and each evaluation), TensorBoard event files, and `bad_batch.pt` where the loss
stopped being finite. See docs/training.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from torch.optim.swa_utils import AveragedModel

from sparseinst.checkpoint import save_weights
from sparseinst.data import (
    Batch,
    CocoInstances,
    TrainingSet,
    batches_per_epoch,
    evaluation_files,
    training_batches,
)
from sparseinst.distributed import World
from sparseinst.evaluate import evaluate, torch_engine
from sparseinst.freezing import always_frozen
from sparseinst.losses import Criterion
from sparseinst.network import SparseInst
from sparseinst.optimise import Autocast, Precision, average_with, build_optimizer, learning_rate, total_batch
from sparseinst.recipes import Recipe
from sparseinst.run_log import RunLog
from sparseinst.run_state import Origin, Position, RunState, TrainingError
from sparseinst.step import Stepper
from sparseinst_runtime import Contract

__all__ = ["RunConfig", "Trainer", "TrainingError"]


@dataclass(frozen=True)
class RunConfig:
    """How this machine runs a recipe; nothing here changes what is learned but `seed`, and `precision` a little.

    Attributes:
        out: folder for everything that is written.
        annotations: COCO JSON of the validation pictures.
        device: `cuda`, `cpu`, `cuda:1`.
        workers: processes that prepare batches, for each process that trains.
        seed: of initial weights, order and augmentation.
        save_every: optimiser steps between two writes of `state.pt`; each epoch's end is saved as well.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
        precision: `fp32` or `amp`; None is `amp` on a GPU and `fp32` elsewhere.
    """

    out: Path
    annotations: Path
    device: str = "cpu"
    workers: int = 2
    seed: int = 0
    save_every: int = 200
    evaluate_every: int = 1
    precision: Precision | None = None


class Trainer:
    """One run of a recipe: owns model, average, optimiser and position, and writes them down."""

    def __init__(
        self, recipe: Recipe, contract: Contract, model: SparseInst, config: RunConfig, world: World | None = None
    ) -> None:
        self.recipe, self.contract, self.config, self.world = recipe, contract, config, world or World()
        device = torch.device(config.device)
        self.model = model.to(device).to(memory_format=torch.channels_last)  # faster on CPU and GPU alike
        schedule, autocast = recipe.schedule, Autocast(device, config.precision)
        optimizer = build_optimizer(self.model, schedule)
        decay = schedule.ema
        self.average = AveragedModel(self.model, multi_avg_fn=average_with(decay)) if decay else None
        self.position = Position()
        self.state = RunState(self.model, self.average, optimizer, autocast.scaler, self.position)
        self.step = Stepper(
            self.state,
            contract,
            Criterion(recipe.losses),
            autocast,
            self.world,
            seed=config.seed,
            clip_norm=schedule.clip_norm,
            folder=config.out,
        )
        self.origin = Origin(
            recipe.name,
            contract.to_json(),
            config.seed,
            schedule.epochs,
            schedule.batch_size,
            schedule.accumulate,
            self.world.size,
            ", ".join(always_frozen(schedule)) or "nothing",
            getattr(recipe.augment, "sides", ()),
        )
        config.out.mkdir(parents=True, exist_ok=True)
        self.log = RunLog(config.out, active=self.world.first)

    @property
    def evaluated(self) -> SparseInst:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return cast(SparseInst, self.average.module) if self.average is not None else self.model

    def fit(self, train: CocoInstances, val: CocoInstances, console: Console) -> float:
        """Train from the present position to the end of the schedule; returns the best validation mask AP."""
        schedule, position = self.recipe.schedule, self.position
        batches = batches_per_epoch(self._dataset(train, 0), schedule.batch_size, self.world.size)
        steps = batches // schedule.accumulate
        pictures = total_batch(schedule, self.world.size)
        if steps == 0:
            raise TrainingError(
                f"{len(train)} pictures make no step of {pictures} ({schedule.accumulate} passes of "
                f"{schedule.batch_size} in {self.world.size} processes); lower --batch-size or --accumulate"
            )
        total = steps * schedule.epochs
        if position.iteration == 0:
            self.log.begin()
            self.save()  # from the first step on there is something to resume
        frozen: tuple[str, ...] | None = None
        with self.log.opened(console, position.iteration, total):
            while position.epoch < schedule.epochs:
                epoch = position.epoch
                if schedule.phase_at(epoch).frozen != frozen:
                    frozen = schedule.phase_at(epoch).frozen
                    self.step.learn_all_but(frozen)
                for group in self._groups(train, steps):
                    lr = schedule.lr * learning_rate(schedule, position.iteration, total)
                    step = self.step(group, lr)
                    position.step += 1
                    position.iteration += 1
                    self.log.step(position.iteration, epoch, lr=lr, pictures=pictures, **step._asdict())
                    if position.iteration % self.config.save_every == 0 and position.step < steps:
                        self.save()
                    self.log.go_on()
                position.epoch, position.step = epoch + 1, 0
                if position.epoch % self.config.evaluate_every == 0 or position.epoch == schedule.epochs:
                    ap = self._evaluate(val)
                    console.print(
                        f"epoch {position.epoch}/{schedule.epochs}: val mask AP {ap:.4f}, best {position.best_ap:.4f}"
                    )
                self.save()
        return position.best_ap

    def _dataset(self, instances: CocoInstances, epoch: int) -> TrainingSet:
        size = self.recipe.schedule.phase_at(epoch).size
        return TrainingSet(instances, size, self.recipe.augment, self.contract.pad_colour)

    def _groups(self, instances: CocoInstances, steps: int) -> Iterator[list[Batch]]:
        """What is left of the present epoch: for each optimiser step, `accumulate` batches; a remainder is dropped."""
        schedule, position = self.recipe.schedule, self.position
        batches = training_batches(
            self._dataset(instances, position.epoch),
            schedule.batch_size,
            seed=self.config.seed,
            epoch=position.epoch,
            start_batch=position.step * schedule.accumulate,
            workers=self.config.workers,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        for _ in range(steps - position.step):
            yield list(islice(batches, schedule.accumulate))

    def _evaluate(self, val: CocoInstances) -> float:
        """Mask AP on the validation pictures, measured by the first process; keeps the weights as last, and as best."""
        if not self.world.first:
            return self.world.share(0.0)
        out, position = self.config.out, self.position
        self.state.require_finite(out)
        engine = torch_engine(self.evaluated, self.contract, self.config.device)
        summary, _ = evaluate(engine, self.contract, str(self.config.annotations), evaluation_files(val))
        self.log.evaluation(position.iteration, position.epoch, summary.as_dict())
        save_weights(out / "last.safetensors", self.evaluated, self.contract)
        if summary.ap > position.best_ap or not (out / "best.safetensors").exists():
            position.best_ap = summary.ap
            save_weights(out / "best.safetensors", self.evaluated, self.contract)
        return self.world.share(summary.ap)

    def save(self) -> None:
        """Write `state.pt`: everything that `resume` needs to go on exactly as if nothing had happened."""
        if self.world.first:
            self.state.save(self.config.out, self.origin)

    def resume(self) -> None:
        """Go back to what `state.pt` says; lines of the log behind it are dropped.

        Raises:
            TrainingError: there is no state, or it belongs to another recipe, other classes or other arguments.
        """
        self.state.load(self.config.out, self.origin)
        self.log.rewind(self.position.iteration)
