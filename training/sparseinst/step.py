"""One step of the optimiser: passes forward and backward over the batches of all processes, and what stops a run."""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor, nn

from sparseinst.checkpoint import save_state
from sparseinst.data import Batch
from sparseinst.distributed import World, without_exchange
from sparseinst.freezing import set_training_mode
from sparseinst.losses import Counts, Criterion
from sparseinst.network import normalise
from sparseinst.nonfinite import Finding, examine
from sparseinst.optimise import Autocast, freeze
from sparseinst.run_state import STATE, RunState, TrainingError
from sparseinst_runtime import Contract

BAD_BATCH = "bad_batch.pt"


class Step(NamedTuple):
    """What a step gives: weighted loss terms over all its pictures, their sum as `loss`, and the gradients' L2 norm."""

    losses: dict[str, float]
    gradient_norm: float


class Stepper:
    """Makes steps with the parts of a run; however its batch is divided into passes and processes, a step is the same.

    Args:
        state: model, average, optimiser and position; the position is read, never moved.
        contract: pixel statistics.
        criterion: the loss.
        autocast: precision of the forward passes.
        world: the processes that share each step.
        seed: of the run.
        clip_norm: gradients are scaled down to this L2 norm; None leaves them.
        folder: where the batch is written that stops a run.
    """

    def __init__(
        self,
        state: RunState,
        contract: Contract,
        criterion: Criterion,
        autocast: Autocast,
        world: World,
        *,
        seed: int,
        clip_norm: float | None,
        folder: Path,
    ) -> None:
        self.state, self.model, self.scaler = state, state.model, state.scaler
        self.contract, self.criterion, self.autocast, self.world = contract, criterion, autocast, world
        self.seed, self.clip_norm, self.folder = seed, clip_norm, folder
        self.device = next(self.model.parameters()).device
        # What passes go through. `learn_all_but` makes it exchange gradients, which takes all processes at once.
        self.parallel: nn.Module = self.model

    def learn_all_but(self, frozen: tuple[str, ...]) -> None:
        """Freeze the parameters with these name prefixes, and let all others learn."""
        freeze(self.model, frozen)
        self.parallel = self.world.parallel(self.model, self.device)

    def __call__(self, group: list[Batch], lr: float) -> Step:
        """One step, over one batch for each pass of this process.

        Raises:
            TrainingError: loss or gradients are not finite; the weights are as before.
        """
        state, optimizer = self.state, self.state.optimizer
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr * parameters["scale"]
        self._set_chance()
        set_training_mode(self.model)
        whole = self._counts(group)
        sums: dict[str, float] = {}
        for index, batch in enumerate(group):
            last = index + 1 == len(group)
            with nullcontext() if last else without_exchange(self.parallel):
                terms = self._terms(self.parallel, batch, whole)
                # Terms add up over passes and processes, but gradients are averaged over processes.
                loss = torch.stack(list(terms.values())).sum() * self.world.size
                self.scaler.scale(loss).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        sums = dict(zip(sums, self.world.sum(list(sums.values())), strict=True))
        losses = {"loss": sum(sums.values()), **sums}
        self.scaler.unscale_(optimizer)
        learning = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in learning])
        step = Step(losses, norm.item())
        # fp16 overflows now and then: the scaler skips the step and halves its scale, which helps until it is tiny.
        bearable = math.isfinite(step.gradient_norm) or self.scaler.get_scale() > 1
        if not (math.isfinite(losses["loss"]) and bearable):
            self._stop(group, whole, lr, step)
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(learning, self.clip_norm, norm)
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if state.average is not None:
            state.average.update_parameters(self.model)
        return step

    def _set_chance(self) -> None:
        """Chance inside the network (skipped blocks) depends on seed, step and process alone: nothing to save."""
        torch.manual_seed((self.seed << 32) + self.state.position.iteration * self.world.size + self.world.rank)

    def _counts(self, group: list[Batch]) -> Counts:
        """Of all batches of the step, in all processes."""
        targets = [target for _, targets in group for target in targets]
        own = Counts.of(targets, self.model.config.decoder.instances)
        return Counts(*self.world.sum([own.instances, own.matched]))

    def _terms(self, model: nn.Module, batch: Batch, whole: Counts) -> dict[str, Tensor]:
        """The weighted loss terms of one pass."""
        images, targets = batch
        pixels = normalise(images.to(self.device, non_blocking=True), self.contract)
        wanted = [
            {"labels": t["labels"].to(self.device), "masks": t["masks"].to(self.device, non_blocking=True)}
            for t in targets
        ]
        with self.autocast.on():
            outputs = model(pixels.contiguous(memory_format=torch.channels_last))
        return self.criterion(outputs, wanted, whole)

    def _stop(self, group: list[Batch], whole: Counts, lr: float, step: Step) -> NoReturn:
        """Find the pass whose numbers are not finite, write it down and give up."""
        report: dict[str, Any] | None = None
        self._set_chance()
        for index, batch in enumerate(group):
            finding = examine(self.model, partial(self._terms, self.model, batch, whole), self.scaler.get_scale())
            if finding.anything:
                report = self._report(index, batch, finding)
                break
        reports = [other for other in self.world.gather(report) if other is not None]
        if not self.world.first:
            self.world.leave_quietly()
        report = reports[0] if reports else self._report(0, group[0], Finding())
        position, path = vars(self.state.position), self.folder / BAD_BATCH
        save_state(path, {**position, "lr": lr, **step._asdict(), "precision": str(self.autocast.dtype), **report})
        what = f"the norm of the gradients is {step.gradient_norm}"
        if not math.isfinite(step.losses["loss"]):
            what = f"the loss is {step.losses['loss']}"
        terms = ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items())
        precision = ", or with --precision fp32" if self.autocast.enabled else ""
        raise TrainingError(
            f"{what} at iteration {position['iteration']} ({terms}): {report['words']}. {path} holds the batch and all "
            f"names; {STATE} is of an earlier step: go on from it with --resume and with a lower --lr{precision}"
        )

    def _report(self, index: int, batch: Batch, finding: Finding) -> dict[str, Any]:
        """What `bad_batch.pt` says of a pass: tensors and plain values, to be loaded with weights_only."""
        images, targets = batch
        return {
            "images": images.cpu(),
            "targets": [{"labels": t["labels"].cpu(), "masks": t["masks"].cpu()} for t in targets],
            "process": self.world.rank,
            "pass": index,
            "words": finding.in_words(),
            **vars(finding),
        }
