"""Too many at once: what a server does at three times the rate that it can do, and how soon it is itself again.

Three phases without a pause, Poisson arrivals, open loop: half of what the server can do, three times what it can do,
half again. A server that takes everything in makes everybody late, and for long: what it took has to wait.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparseinst_client.benchmark.levels import RATE, Level, from_load
from sparseinst_client.benchmark.load import Load, Outcome, poisson_arrivals

SHARES = {"calm before": 0.5, "overload": 3.0, "calm after": 0.5}  # of the pictures/s that the server can do
SECOND = 1.0  # windows that recovery is judged by


def arrivals(capacity: float, seconds: float) -> np.ndarray:
    """When requests are due: float64 [n] seconds, sorted, each phase as long as the others.

    Args:
        capacity: pictures/s that the server can do.
        seconds: of each phase.
    """
    phases = [
        i * seconds + poisson_arrivals(share * capacity, seconds, seed=i) for i, share in enumerate(SHARES.values())
    ]
    return np.concatenate(phases)


def phases(load: Load, capacity: float, seconds: float, protocol: str) -> list[Level]:
    """A level for each phase, with the requests that were due in it.

    Args:
        load: what became of all requests.
        capacity: as for `arrivals`.
        seconds: as for `arrivals`.
        protocol: "grpc" or "http".
    """
    levels = []
    for i, (name, share) in enumerate(SHARES.items()):
        part = _due_in(load, i * seconds, (i + 1) * seconds)
        # Answers of one phase come while the next goes on: its rate is by the phase's own seconds.
        level = from_load(
            part, scenario=f"overload: {name}", protocol=protocol, amount=share * capacity, unit=RATE, stages={}
        )
        note = "; ".join(filter(None, [_refusals(part), level.note]))
        levels.append(replace(level, seconds=seconds, pictures_per_s=level.answered / seconds, note=note))
    return levels


def recovery(load: Load, seconds: float) -> float | None:
    """Seconds from the end of the overload until nobody is refused, and the median is that of the calm before.

    Judged second by second: recovered is the first one from which on no request that is due is refused or fails, and
    half of them are answered within twice the median of the calm before.

    Returns:
        None where that never came to be.
    """
    before = _due_in(load, 0, seconds).latencies
    calm, recovered = np.median(before) if len(before) else np.inf, None
    for begin in np.arange(2 * seconds, 3 * seconds, SECOND):
        window = _due_in(load, begin, begin + SECOND)
        good = window.count(Outcome.ANSWERED) == len(window) and (
            not len(window) or np.median(window.latencies) <= 2 * calm
        )
        if not good:
            recovered = None
        elif recovered is None:
            recovered = float(begin - 2 * seconds)
    return recovered


def _due_in(load: Load, begin: float, end: float) -> Load:
    chosen = (load.due >= begin) & (load.due < end)
    return Load(load.due[chosen], load.sent[chosen], load.done[chosen], load.outcome[chosen], load.messages)


def _refusals(part: Load) -> str:
    """How soon requests were refused, in words; counted from when they went out."""
    refused = part.outcome == Outcome.REJECTED
    if not refused.any():
        return ""
    milliseconds = 1000 * (part.done - part.sent)[refused]
    half, most = (np.quantile(milliseconds, q, method="higher") for q in (0.5, 0.99))
    return f"{refused.mean():.0%} refused, half of them within {half:.0f} ms, 99 % within {most:.0f} ms"
