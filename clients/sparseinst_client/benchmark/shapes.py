"""How many users there are as a load test goes on: a step, a ramp, a spike. Plain functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SHAPES = ("constant", "step", "ramp", "spike")


@dataclass(frozen=True)
class Plan:
    """The numbers that a shape is made of.

    Attributes:
        users: most users at a time, at least 1.
        seconds: length of the whole test, above 0.
        steps: stairs of `step`, at least 1.
        base: users of `spike` before and after it, from 0 to `users`.
    """

    users: int
    seconds: float
    steps: int = 5
    base: int = 1

    def __post_init__(self) -> None:
        if not (self.users >= 1 and self.seconds > 0 and self.steps >= 1 and 0 <= self.base <= self.users):
            raise ValueError(
                f"got {self}; wanted at least 1 user and 1 step, more than 0 seconds, and a base of 0 to all users"
            )


def users_at(shape: str, plan: Plan, time: float) -> int | None:
    """How many users there should be so many seconds after the start; None when the test is over.

    constant: all users, always. step: stairs of equal length up to all users. ramp: one after the other up to all users
    over four fifths of the time, then all of them. spike: the base, all users in the middle fifth, the base again.

    Raises:
        ValueError: there is no such shape.
    """
    shapes: dict[str, Callable[[Plan, float], int]] = {
        "constant": lambda plan, _share: plan.users,
        "step": lambda plan, share: math.ceil(plan.users * (math.floor(share * plan.steps) + 1) / plan.steps),
        "ramp": lambda plan, share: max(1, math.floor(plan.users * min(1.0, share / 0.8))),
        "spike": lambda plan, share: plan.users if 0.4 <= share < 0.6 else plan.base,
    }
    if shape not in shapes:
        raise ValueError(f"shape {shape!r}; wanted one of {', '.join(SHAPES)}")
    return shapes[shape](plan, time / plan.seconds) if time < plan.seconds else None
