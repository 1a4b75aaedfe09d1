"""Where numbers stop being finite: a pass is run again and watched, module by module, to report on a bad batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Finding:
    """What was not finite in a pass.

    Attributes:
        modules: names of modules whose output was not finite although all they got was, in the order they ran.
        losses_not_finite: names of loss terms.
        gradient_at: name of the module whose output had the first gradient that was not, on the way back.
        gradients: names of parameters whose gradient was not.
        parameters: names of parameters and buffers that are not themselves.
    """

    modules: list[str] = field(default_factory=list)
    losses_not_finite: list[str] = field(default_factory=list)
    gradient_at: str | None = None
    gradients: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether something of this pass was not finite."""
        return bool(self.modules or self.losses_not_finite or self.gradients or self.parameters)

    def in_words(self) -> str:
        """The cause that comes first, as the end of a sentence."""
        if self.parameters:
            return f"{len(self.parameters)} tensors of the weights are not finite already, {self.parameters[0]} first"
        if self.modules:
            return f"the first module with an output that is not finite is {self.modules[0]}"
        if self.losses_not_finite:
            return f"every module's output is finite, the loss {self.losses_not_finite[0]} is not"
        if self.gradient_at:
            return f"on the way back, the gradient first stops being finite at the output of {self.gradient_at}"
        if self.gradients:
            return f"the first gradient that is not finite is that of {self.gradients[-1]}"
        return "running the step again gave finite numbers"


def examine(model: nn.Module, terms: Callable[[], dict[str, Tensor]], scale: float = 1.0) -> Finding:
    """Run a pass again, forward and backward, and say what is not finite in it; gradients of parameters stay as are.

    Args:
        model: the network whose modules are watched.
        terms: runs the pass and returns the loss terms with gradient.
        scale: of the loss, as in training with fp16.
    """
    finding = Finding(parameters=[name for name, value in model.state_dict().items() if not _finite(value)])
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            handle = module.register_forward_hook(partial(_watch, finding, name or "the network"))
            hooks.callback(handle.remove)
        losses = terms()
    finding.losses_not_finite = [name for name, value in losses.items() if not _finite(value)]
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    loss = torch.stack(list(losses.values())).sum() * scale
    # Not backward(): that would add to .grad, and exchange gradients with other processes.
    gradients = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
    pairs = zip(learning, gradients, strict=True)
    finding.gradients = [name for name, gradient in pairs if gradient is not None and not _finite(gradient)]
    return finding


def _watch(finding: Finding, name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    if not all(map(_finite, _tensors(output))) and all(map(_finite, _tensors(inputs))):
        finding.modules.append(name)

    def backward(gradient: Tensor) -> None:
        if finding.gradient_at is None and not _finite(gradient):
            finding.gradient_at = name

    for tensor in _tensors(output):
        if tensor.requires_grad:
            tensor.register_hook(backward)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
