"""A level: one load on the server for some seconds, and the row of figures that it gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseinst_client.benchmark.load import Load, Outcome
from sparseinst_client.benchmark.server import ENSEMBLE, Stage

IN_FLIGHT, RATE = "in flight", "requests/s"
QUANTILES = {"p50_ms": 0.50, "p90_ms": 0.90, "p95_ms": 0.95, "p99_ms": 0.99}
SHARE_WITHIN = 0.99  # of all requests that have to be answered within the bound


@dataclass(frozen=True)
class Level:
    """The figures of one level; what was not measured is None.

    Attributes:
        scenario: what it belongs to: "single-stream", "server", "offline", "concurrency", "rate" or "search".
        generator: what sent the requests: "client", which is this package, or "perf_analyzer".
        protocol: "grpc" or "http".
        load: requests kept under way, or due in a second.
        unit: which of the two, "in flight" or "requests/s".
        seconds: how long it took, until the last answer.
        requests: sent in all.
        answered: came back with instances.
        rejected: the server's queue was full, or a request waited in it for longer than it allows.
        failed: anything else.
        pictures_per_s: answered, by seconds.
        latency: milliseconds of those answered: mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, max_ms. Percentiles are
            latencies that occurred, never interpolated.
        lag_p99_ms: how late requests went out, at the 99th percentile, in an open loop; contained in latency.
        within: share of all requests that were answered within the bound, in [0, 1].
        holds: whether the level met the bound.
        stages: what each of Triton's models did meanwhile.
        note: what a reader has to know, a failure's message for example.
        command: what ran, where that was another program.
    """

    scenario: str
    generator: str
    protocol: str
    load: float
    unit: str
    seconds: float = 0.0
    requests: int = 0
    answered: int = 0
    rejected: int = 0
    failed: int = 0
    pictures_per_s: float = 0.0
    latency: Mapping[str, float] = field(default_factory=dict)
    lag_p99_ms: float | None = None
    within: float | None = None
    holds: bool | None = None
    stages: Mapping[str, Stage] = field(default_factory=dict)
    note: str = ""
    command: str = ""


def from_load(
    load: Load,
    *,
    scenario: str,
    protocol: str,
    amount: float,
    unit: str,
    stages: Mapping[str, Stage],
    bound_ms: float | None = None,
) -> Level:
    """The row of a level that `load` ran.

    Args:
        load: what became of its requests.
        scenario: see Level.
        protocol: see Level.
        amount: the level's load.
        unit: of `amount`.
        stages: what Triton counted meanwhile.
        bound_ms: latency that 99 % of all requests have to keep, those that were rejected or failed included.
    """
    milliseconds = 1000 * load.latencies
    answered = load.count(Outcome.ANSWERED)
    within = None
    if bound_ms is not None:
        within = float(np.count_nonzero(milliseconds <= bound_ms) / len(load)) if len(load) else 0.0
    return Level(
        scenario=scenario,
        generator="client",
        protocol=protocol,
        load=amount,
        unit=unit,
        seconds=load.seconds,
        requests=len(load),
        answered=answered,
        rejected=load.count(Outcome.REJECTED),
        failed=load.count(Outcome.FAILED),
        pictures_per_s=answered / load.seconds if answered else 0.0,
        latency=summarise(milliseconds),
        lag_p99_ms=float(1000 * np.quantile(load.lag, 0.99, method="higher")) if unit == RATE and len(load) else None,
        within=within,
        holds=None if within is None else within >= SHARE_WITHIN,
        stages=stages,
        note="; ".join(load.messages),
    )


def summarise(milliseconds: np.ndarray) -> dict[str, float]:
    """Mean, percentiles and maximum of latencies in milliseconds; empty where there are none."""
    if not len(milliseconds):
        return {}
    # "higher": a percentile is a latency that occurred, and not below it by interpolation where requests are few.
    quantiles = {name: float(np.quantile(milliseconds, q, method="higher")) for name, q in QUANTILES.items()}
    return {"mean_ms": float(milliseconds.mean()), **quantiles, "max_ms": float(milliseconds.max())}


def row(level: Level) -> dict[str, Any]:
    """The level as a flat row of a table; the same columns for every level of one server."""
    latency = {name: level.latency.get(name) for name in ("mean_ms", *QUANTILES, "max_ms")}
    stages = {}
    for name, stage in sorted(level.stages.items()):
        short = "ensemble" if name == ENSEMBLE else name.removeprefix(f"{ENSEMBLE}_")
        stages[f"{short}_total_ms"] = stage.total / stage.requests
        if name != ENSEMBLE:
            stages[f"{short}_queue_ms"] = stage.queue / stage.requests
            stages[f"{short}_compute_ms"] = stage.compute / stage.requests
            stages[f"{short}_mean_batch"] = stage.mean_batch
    return {
        "scenario": level.scenario,
        "generator": level.generator,
        "protocol": level.protocol,
        "load": level.load,
        "unit": level.unit,
        "seconds": level.seconds,
        "requests": level.requests,
        "answered": level.answered,
        "rejected": level.rejected,
        "failed": level.failed,
        "pictures_per_s": level.pictures_per_s,
        **latency,
        "lag_p99_ms": level.lag_p99_ms,
        "within": level.within,
        "holds": level.holds,
        **stages,
        "note": level.note,
        "command": level.command,
    }
