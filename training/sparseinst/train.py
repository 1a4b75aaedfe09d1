"""The training loop. Reads from top to bottom; everything it needs to go on after a kill is in `state.pt`.

    sparseinst train --recipe compact --annotations train.json --images train/ \
        --val-annotations val.json --val-images val/ --out runs/compact [--resume]

Writes into --out: `best.safetensors` and `last.safetensors` (weights with their contract), `state.pt` (to resume),
`log.jsonl` (a line for each step and each evaluation) and TensorBoard event files.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from sparseinst.checkpoint import load_state, save_state, save_weights
from sparseinst.data import (
    Batch,
    CocoInstances,
    TrainingSet,
    batches_per_epoch,
    evaluation_pictures,
    training_batches,
)
from sparseinst.evaluate import evaluate, torch_engine
from sparseinst.freezing import always_frozen, set_training_mode
from sparseinst.losses import Counts, Criterion
from sparseinst.network import SparseInst, normalise
from sparseinst.optimise import average_with, build_optimizer, freeze, learning_rate
from sparseinst.progress import training_progress
from sparseinst.recipes import Recipe
from sparseinst_runtime import Contract
from sparseinst_runtime.files import atomic_write

LOG = "log.jsonl"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class RunConfig:
    """How this machine runs a recipe; nothing here changes what is learned but `seed`.

    Attributes:
        out: folder for everything that is written.
        annotations: COCO JSON of the validation pictures.
        device: `cuda`, `cpu`, `cuda:1`.
        workers: processes that prepare batches.
        seed: of initial weights, order and augmentation.
        save_every: optimiser steps between two writes of `state.pt`; each epoch's end is saved as well.
        evaluate_every: epochs between two evaluations; the last epoch is always evaluated.
    """

    out: Path
    annotations: Path
    device: str = "cpu"
    workers: int = 2
    seed: int = 0
    save_every: int = 200
    evaluate_every: int = 1


@dataclass
class Position:
    """Where a run stands: the next step is `step` of epoch `epoch`, number `iteration` of all."""

    epoch: int = 0
    step: int = 0
    iteration: int = 0
    best_ap: float = -1.0


class Trainer:
    """One run of a recipe: owns model, average, optimiser and position, and writes them down."""

    def __init__(self, recipe: Recipe, contract: Contract, model: SparseInst, config: RunConfig) -> None:
        self.recipe, self.contract, self.config = recipe, contract, config
        self.device = torch.device(config.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)  # faster on CPU and GPU alike
        self.optimizer = build_optimizer(self.model, recipe.schedule)
        self.criterion = Criterion(recipe.losses)
        # bf16 where the GPU has it, else fp16 with loss scaling; fp32 on the CPU. Disabled, both do nothing.
        bf16 = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.half = torch.bfloat16 if bf16 else torch.float16
        self.mixed = self.device.type == "cuda"
        self.scaler = torch.GradScaler(self.device.type, enabled=self.mixed and not bf16)
        decay = recipe.schedule.ema
        self.average = AveragedModel(self.model, multi_avg_fn=average_with(decay)) if decay else None
        self.position = Position()
        config.out.mkdir(parents=True, exist_ok=True)

    @property
    def evaluated(self) -> SparseInst:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return cast(SparseInst, self.average.module) if self.average is not None else self.model

    def fit(self, train: CocoInstances, val: CocoInstances, console: Console) -> float:
        """Train from the present position to the end of the schedule; returns the best validation mask AP."""
        schedule, position = self.recipe.schedule, self.position
        steps = batches_per_epoch(self._dataset(train, 0), schedule.batch_size) // schedule.accumulate
        if steps == 0:
            raise TrainingError(
                f"{len(train)} pictures make no step of {schedule.accumulate} batches of {schedule.batch_size}; "
                "lower --batch-size or --accumulate"
            )
        total = steps * schedule.epochs
        if position.iteration == 0:
            atomic_write(self.config.out / LOG, "")
            self.save()  # from the first step on there is something to resume
        # purge_step: TensorBoard forgets what a killed run wrote after its last state
        with (
            SummaryWriter(str(self.config.out), purge_step=position.iteration + 1) as board,
            training_progress(console, total) as progress,
        ):
            while position.epoch < schedule.epochs:
                epoch = position.epoch
                freeze(self.model, schedule.phase_at(epoch).frozen)
                started = time.perf_counter()
                for group in self._groups(train, steps):
                    lr = schedule.lr * learning_rate(schedule, position.iteration, total)
                    losses = self._step(group, lr)
                    position.step += 1
                    position.iteration += 1
                    self._log({"iteration": position.iteration, "epoch": epoch, "lr": lr, **losses})
                    # From step to step: waiting for pictures counts, saving and evaluating do not.
                    rate = schedule.batch_size * schedule.accumulate / (time.perf_counter() - started)
                    scalars = {f"loss/{name}": value for name, value in losses.items()}
                    for name, value in (scalars | {"lr": lr, "images_per_second": rate}).items():
                        board.add_scalar(name, value, position.iteration)
                    progress(epoch, position.iteration, losses, rate)
                    if position.iteration % self.config.save_every == 0 and position.step < steps:
                        self.save()
                    started = time.perf_counter()
                position.epoch, position.step = epoch + 1, 0
                if position.epoch % self.config.evaluate_every == 0 or position.epoch == schedule.epochs:
                    ap = self._evaluate(val)
                    board.add_scalar("val/mask_ap", ap, position.iteration)
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
        )
        for _ in range(steps - position.step):
            yield list(islice(batches, schedule.accumulate))

    def _step(self, group: list[Batch], lr: float) -> dict[str, float]:
        """One step of the optimiser; returns the mean of each weighted loss term, and their sum as `loss`."""
        schedule = self.recipe.schedule
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr * parameters["scale"]
        # Chance inside the network (a backbone that skips blocks) depends on seed and step alone: nothing to save.
        torch.manual_seed((self.config.seed << 32) + self.position.iteration)
        set_training_mode(self.model)
        queries = self.recipe.network.decoder.instances
        whole = Counts.of([target for _, targets in group for target in targets], queries)
        sums: dict[str, float] = {}
        for images, targets in group:
            pixels = normalise(images.to(self.device, non_blocking=True), self.contract)
            wanted = [
                {"labels": t["labels"].to(self.device), "masks": t["masks"].to(self.device, non_blocking=True)}
                for t in targets
            ]
            with torch.autocast(self.device.type, self.half, enabled=self.mixed):
                outputs = self.model(pixels.contiguous(memory_format=torch.channels_last))
            terms = self.criterion(outputs, wanted, whole)
            self.scaler.scale(torch.stack(list(terms.values())).sum()).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        loss = sum(sums.values())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at iteration {self.position.iteration} ({sums}); "
                "resume from the last state with a lower --lr"
            )
        self.scaler.unscale_(self.optimizer)
        if schedule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return {"loss": loss, **sums}

    def _evaluate(self, val: CocoInstances) -> float:
        """Mask AP on the validation pictures; keeps the weights as last, and as best if they are."""
        engine = torch_engine(self.evaluated, self.contract, self.config.device)
        summary, _ = evaluate(engine, self.contract, str(self.config.annotations), evaluation_pictures(val))
        self._log({"iteration": self.position.iteration, "epoch": self.position.epoch, "val": summary.as_dict()})
        save_weights(self.config.out / "last.safetensors", self.evaluated, self.contract)
        if summary.ap > self.position.best_ap or not (self.config.out / "best.safetensors").exists():
            self.position.best_ap = summary.ap
            save_weights(self.config.out / "best.safetensors", self.evaluated, self.contract)
        return summary.ap

    def _log(self, row: dict[str, Any]) -> None:
        with (self.config.out / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write `state.pt`: everything that `resume` needs to go on exactly as if nothing had happened."""
        state = {
            "recipe": self.recipe.name,
            "arguments": self._arguments(),
            "contract": self.contract.to_json(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": vars(self.position).copy(),
        }
        save_state(self.config.out / "state.pt", state)

    def _arguments(self) -> dict[str, Any]:
        """What a resumed run must share with the killed one to go on as it would have; --lr may differ."""
        schedule = self.recipe.schedule
        return {
            "seed": self.config.seed,
            "epochs": schedule.epochs,
            "batch_size": schedule.batch_size,
            "accumulate": schedule.accumulate,
            "frozen": ", ".join(always_frozen(schedule)) or "nothing",
            "sides": list(getattr(self.recipe.augment, "sides", ())),
        }

    def resume(self) -> None:
        """Go back to what `state.pt` says; lines of the log behind it are dropped.

        Raises:
            TrainingError: there is no state, or it belongs to another recipe, other classes or other arguments.
        """
        path = self.config.out / "state.pt"
        if not path.is_file():
            raise TrainingError(f"nothing to resume at {path}; start without --resume")
        state = load_state(path)
        if (state["recipe"], state["contract"]) != (self.recipe.name, self.contract.to_json()):
            raise TrainingError(
                f"{path} is of recipe {state['recipe']!r} or of other classes; "
                "resume with the arguments it was started with"
            )
        then, now = state.get("arguments", {}), self._arguments()
        changed = [f"{name} {then[name]}, now {now[name]}" for name in then if then[name] != now[name]]
        if changed:
            raise TrainingError(f"{path} was made with {', '.join(changed)}; resume with what it was started with")
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the run did not scale, on the CPU or in bf16
            self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        log = self.config.out / LOG
        lines = log.read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]  # a kill may cut the last one off
        kept = [row for row in rows if row["iteration"] <= self.position.iteration]
        atomic_write(log, "".join(json.dumps(row) + "\n" for row in kept))
