"""What a schedule means step by step: learning rates, parameter groups, what is frozen, the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
