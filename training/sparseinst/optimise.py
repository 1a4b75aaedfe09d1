"""What a schedule means step by step: learning rates, parameter groups, what is frozen, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from sparseinst.network import SparseInst
from sparseinst.recipes import Schedule


def learning_rate(schedule: Schedule, iteration: int, total: int) -> float:
    """Factor on the peak learning rate at an optimiser step, in (0, 1]: linear warm-up, then cosine or steps."""
    warm = min(1.0, (iteration + 1) / max(schedule.warmup, 1))
    progress = iteration / max(total, 1)
    if schedule.decay == "cosine":
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
    return warm * 0.1 ** sum(progress >= milestone for milestone in schedule.milestones)


def build_optimizer(model: SparseInst, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW in four groups: backbone or head, with or without weight decay (norms go without)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((name.startswith("backbone."), "norm" in name), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "scale": schedule.backbone_lr_scale if is_backbone else 1.0,
                "weight_decay": 0.0 if is_norm else schedule.weight_decay,
            }
            for (is_backbone, is_norm), parameters in groups.items()
        ],
        lr=schedule.lr,
    )


def total_batch(schedule: Schedule, processes: int = 1) -> int:
    """Pictures for one step of the optimiser."""
    return schedule.batch_size * schedule.accumulate * processes


def divided(
    schedule: Schedule,
    *,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    processes: int = 1,
) -> tuple[Schedule, str]:
    """The schedule as this machine runs it: its total batch in other parts, or another total with another rate.

    A recipe names its learning rate for the total batch of `schedule`. Where `accumulate` is not given, it is chosen
    to keep that total. Where the total changes all the same, the learning rate changes in proportion.

    Args:
        schedule: the recipe's, for one process.
        batch_size: pictures for one pass of one process; None keeps the recipe's.
        accumulate: passes for one step; None chooses.
        lr: peak learning rate; given, nothing is scaled.
        processes: that share a step.

    Returns:
        The schedule, and a sentence that says how many pictures a step has and what became of the learning rate.
    """
    wanted, size = total_batch(schedule), batch_size or schedule.batch_size
    passes = accumulate or max(1, round(wanted / (size * processes)))
    total = size * passes * processes
    rate = lr or schedule.lr * total / wanted
    words = f"{total} pictures a step: {size} x {passes} passes x {processes} processes"
    if lr:
        words += f"; learning rate {lr:g} as given (the recipe: {schedule.lr:g} for {wanted})"
    elif total != wanted:
        words += f"; the recipe has {wanted}, so its learning rate {schedule.lr:g} becomes {rate:g} (--lr overrides)"
    else:
        words += f"; learning rate {rate:g}"
    return replace(schedule, batch_size=size, accumulate=passes, lr=rate), words


Precision = Literal["fp32", "amp"]


class Autocast:
    """Mixed precision of a run: bf16 where the device has it, else fp16 with loss scaling; in fp32 it does nothing.

    Matching, losses and the pooling by activation maps stay in fp32 by themselves.

    Attributes:
        dtype: of most products inside `on()`.
        scaler: scales the loss for fp16, and leaves it alone otherwise.
    """

    def __init__(self, device: torch.device, precision: Precision | None = None) -> None:
        """None is `amp` on a GPU and `fp32` elsewhere."""
        cuda = device.type == "cuda"
        self.enabled = precision == "amp" if precision else cuda
        self.device_type = device.type
        half = torch.float16 if cuda and not torch.cuda.is_bf16_supported() else torch.bfloat16
        self.dtype = half if self.enabled else torch.float32
        self.scaler = torch.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def on(self) -> torch.autocast:
        """The context for a forward pass."""
        # torch warns of fp32 as a target even where autocast is off
        return torch.autocast(self.device_type, self.dtype if self.enabled else None, enabled=self.enabled)


def average_with(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Update rule of the moving average, in place: young ones forget faster, so that the start does not linger."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)  # once for all tensors: on a GPU this waits
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for mine, theirs in zip(averaged, current, strict=True):
            mine.lerp_(theirs, weight)

    return update


def freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Stop the parameters with these name prefixes from learning, and let all others learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(prefixes) if prefixes else True)
        if not parameter.requires_grad:
            parameter.grad = None
