"""Types of arguments that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type for argparse: int or float, above 0."""

    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"positive {kind.__name__}"  # argparse: "invalid positive int value: '0'"
    return number


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
