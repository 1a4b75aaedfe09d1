"""Find the highest rate that holds: widen until one rate holds and a higher one does not, then narrow between them."""

from __future__ import annotations

import math
from collections.abc import Callable

WIDEN = 1.5  # a level far above what a server can do takes long and says little


def highest_rate(
    holds: Callable[[float], bool],
    start: float,
    *,
    resolution: float = 0.05,
    floor: float = 0.1,
    ceiling: float = 1e5,
) -> float | None:
    """The highest rate that holds, to within `resolution`.

    Measurements scatter, and a search stops at the luckiest one. So the rate that is found has to hold once more; where
    it does not, it goes down, first by `resolution` and then by ever more, until one holds twice.

    Args:
        holds: measures at a rate and says whether it held. Below a rate that holds, all are taken to hold.
        start: the first rate to try, a guess.
        resolution: relative distance between the answer and a rate that did not hold.
        floor: the lowest rate to try.
        ceiling: the highest.

    Returns:
        A rate that held twice; None where not even the floor does.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (0 < floor <= start <= ceiling and math.isfinite(ceiling) and resolution > 0):
        raise ValueError(
            f"got floor {floor}, start {start}, ceiling {ceiling}, resolution {resolution}; "
            "wanted 0 < floor <= start <= ceiling, a finite ceiling and a resolution above 0"
        )
    held, failed, rate = None, None, start
    while held is None or failed is None:
        if holds(rate):
            held = rate
            if rate == ceiling:
                break
            rate = min(rate * WIDEN, ceiling)
        else:
            failed = rate
            if rate == floor:
                return None
            rate = max(rate / WIDEN, floor)
    while failed is not None and failed / held > 1 + resolution:
        rate = math.sqrt(held * failed)
        if holds(rate):
            held = rate
        else:
            failed = rate
    twice, step = holds(held), 1 + resolution
    while not twice:
        if held == floor:
            return None
        held, step = max(held / step, floor), step + resolution
        twice = holds(held) and holds(held)
    return held
