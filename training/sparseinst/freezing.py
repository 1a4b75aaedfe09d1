"""What does not learn: prefixes of parameter names, as a user gives them and as a schedule's phases have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from sparseinst.recipes import Schedule


def freeze_always(schedule: Schedule, model: nn.Module, prefixes: Sequence[str]) -> Schedule:
    """The schedule with parameters frozen in all of its phases, besides those that a phase freezes itself.

    Args:
        schedule: of the run.
        model: whose parameters are meant.
        prefixes: names of modules (`backbone`, `decoder.mask_branch.`), of parameters, or beginnings of such names.

    Raises:
        ValueError: a prefix that no parameter has, or a phase in which nothing would learn.
    """
    names = [name for name, _ in model.named_parameters()]
    always = tuple(_resolved(prefix, names) for prefix in prefixes)
    phases = tuple(replace(phase, frozen=(*phase.frozen, *always)) for phase in schedule.phases)
    for number, phase in enumerate(phases, start=1):
        if all(name.startswith(phase.frozen) for name in names):
            raise ValueError(
                f"nothing is left to learn in phase {number} of {len(phases)} when {', '.join(phase.frozen)} is frozen"
            )
    return replace(schedule, phases=phases)


def always_frozen(schedule: Schedule) -> tuple[str, ...]:
    """The prefixes that all phases share, sorted."""
    return tuple(sorted(set.intersection(*(set(phase.frozen) for phase in schedule.phases))))


def learning_count(model: nn.Module, schedule: Schedule) -> int:
    """Number of parameters that learn in at least one phase."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not all(name.startswith(phase.frozen) for phase in schedule.phases)
    )


def set_training_mode(model: nn.Module) -> None:
    """Training mode, but for modules of which no parameter learns: their batch norms keep statistics, nothing drops."""
    model.train()
    _rest(model)


def _rest(module: nn.Module) -> None:
    if any(parameter.requires_grad for parameter in module.parameters()):
        for child in module.children():
            _rest(child)
    elif next(module.parameters(), None) is not None:
        module.eval()


def _resolved(prefix: str, names: Sequence[str]) -> str:
    """`backbone` means `backbone.` where there is such a module, so that `features.1` is not `features.10` as well."""
    module = f"{prefix.rstrip('.')}."
    for candidate in (module, prefix):
        if any(name.startswith(candidate) for name in names):
            return candidate
    parent, _, _ = prefix.rstrip(".").rpartition(".")
    while parent and not any(name.startswith(f"{parent}.") for name in names):
        parent, _, _ = parent.rpartition(".")
    below = f"; below {parent}: {', '.join(_children(names, parent + '.'))}" if parent else ""
    raise ValueError(
        f"no parameter's name starts with {prefix!r}; wanted the beginning of one, on the top level "
        f"{', '.join(_children(names, ''))}{below}"
    )


def _children(names: Sequence[str], parent: str) -> list[str]:
    return list(dict.fromkeys(name[len(parent) :].split(".")[0] for name in names if name.startswith(parent)))
