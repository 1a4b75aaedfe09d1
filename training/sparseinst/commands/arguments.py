"""Types of arguments that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: int or float, above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse: "invalid positive int value: '0'"
    return number


def listed(kind: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A type for argparse: values with commas between them, at least one."""

    def values(text: str) -> tuple[T, ...]:
        parts = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        if not parts:
            raise ValueError
        return parts

    values.__name__ = f"list of {kind.__name__}"  # argparse: "invalid list of int value: ','"
    return values


def device(name: str | None) -> str:
    """The device to compute on, tried out; ValueError where there is none of that name."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}); wanted cpu or a GPU that is there") from error
    return name
