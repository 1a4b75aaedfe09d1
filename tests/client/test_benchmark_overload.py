"""Overload: three phases in one run, what was refused and how soon, and when the server was itself again."""

from __future__ import annotations

import numpy as np
import pytest

from sparseinst_client.benchmark.load import Load, Outcome
from sparseinst_client.benchmark.overload import SHARES, arrivals, phases, recovery

SECONDS, CAPACITY = 10.0, 50.0


def load_of(latency, outcome=lambda _due: Outcome.ANSWERED) -> Load:
    """One request every 20 ms through all phases; latency in seconds and outcome by when it was due."""
    due = np.arange(0, 3 * SECONDS, 0.02)
    took = np.array([latency(each) for each in due])
    return Load(due, due, due + took, np.array([outcome(each) for each in due], np.int8), ())


def during(due: float) -> bool:
    return SECONDS <= due < 2 * SECONDS


def test_arrivals_come_at_each_phases_rate_and_in_order():
    due = arrivals(CAPACITY, SECONDS)
    assert (np.diff(due) >= 0).all()
    counts = np.histogram(due, bins=np.arange(4) * SECONDS)[0]
    wanted = np.array(list(SHARES.values())) * CAPACITY * SECONDS
    assert counts == pytest.approx(wanted, abs=5 * np.sqrt(wanted.max()))


def test_a_request_belongs_to_the_phase_in_which_it_was_due():
    load = load_of(
        lambda due: 5.0 if during(due) else 0.03, lambda due: Outcome(int(during(due) and due % 0.04 < 0.01))
    )
    before, overload, after = phases(load, CAPACITY, SECONDS, "grpc")
    assert [level.load for level in (before, overload, after)] == [25.0, 150.0, 25.0]
    assert (before.rejected, after.rejected) == (0, 0)
    assert overload.rejected + overload.answered == overload.requests == 500
    assert overload.latency["p50_ms"] == pytest.approx(5000)
    assert before.latency["p99_ms"] == pytest.approx(30)
    assert overload.note == f"{overload.rejected / 500:.0%} refused, half of them within 5000 ms, 99 % within 5000 ms"
    assert overload.pictures_per_s == overload.answered / SECONDS, "not by the time until the last answer"


@pytest.mark.parametrize(("late", "seconds"), [(0.0, 0.0), (2.5, 3.0), (6.0, 6.0)])
def test_recovered_is_the_second_from_which_on_all_is_as_before(late, seconds):
    def latency(due: float) -> float:
        return 0.5 if SECONDS <= due < 2 * SECONDS + late else 0.03

    assert recovery(load_of(latency), SECONDS) == seconds


def test_one_refusal_late_is_no_recovery_before_it():
    refused = load_of(lambda _: 0.03, lambda due: Outcome.REJECTED if 27.0 <= due < 27.02 else Outcome.ANSWERED)
    assert recovery(refused, SECONDS) == 8.0


def test_a_server_that_stays_slow_never_recovers():
    assert recovery(load_of(lambda due: 0.5 if due >= SECONDS else 0.03), SECONDS) is None
