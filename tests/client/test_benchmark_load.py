"""Arrivals, the accounting of requests, and the search for the highest rate that holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseinst_client.benchmark.levels import IN_FLIGHT, RATE, from_load, row, summarise
from sparseinst_client.benchmark.load import Load, Outcome, poisson_arrivals
from sparseinst_client.benchmark.search import highest_rate
from sparseinst_client.benchmark.server import Stage


@pytest.mark.parametrize("rate", [3.0, 40.0, 900.0])
def test_arrivals_are_a_poisson_process_of_the_asked_rate(rate):
    seconds = 20_000 / rate
    arrivals = poisson_arrivals(rate, seconds, seed=1)
    assert arrivals[0] >= 0
    assert arrivals[-1] < seconds
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all()
    assert abs(len(arrivals) - 20_000) < 5 * math.sqrt(20_000)
    # Exponential gaps: deviation equals mean, and a gap above t has the probability exp(-rate t).
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)
    for t in (0.5, 1.0, 2.0):
        assert (gaps > t / rate).mean() == pytest.approx(math.exp(-t), abs=0.02)
    # No memory: one gap says nothing about the next.
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.05


def test_counts_of_arrivals_scatter_as_they_do_for_independent_people():
    counts = np.array([len(poisson_arrivals(50, 1, seed)) for seed in range(400)])
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.35)
    assert len(np.unique(counts)) > 10, "another seed, another level"


def test_the_same_seed_gives_the_same_arrivals():
    assert np.array_equal(poisson_arrivals(30, 5, 7), poisson_arrivals(30, 5, 7))


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (1, 0), (math.nan, 1)])
def test_arrivals_of_no_rate_or_no_time_are_refused(rate, seconds):
    with pytest.raises(ValueError, match="wanted both above 0"):
        poisson_arrivals(rate, seconds, 0)


def load(due, sent, done, outcome):
    columns = [np.array(values, np.float64) for values in (due, sent, done)]
    return Load(*columns, np.array(outcome, np.int8))


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent():
    # A server that stalls for a second: the second request waits for a caller, and is charged for it.
    stalled = load(due=[0.0, 0.1], sent=[0.0, 1.0], done=[1.0, 1.05], outcome=[0, 0])
    assert stalled.latencies == pytest.approx([1.0, 0.95])
    assert stalled.lag == pytest.approx([0.0, 0.9])


def test_rejected_and_failed_requests_break_the_bound_and_leave_the_percentiles_alone():
    n = 200
    due = np.arange(n) / 100
    outcome = np.zeros(n, np.int8)
    outcome[:2], outcome[2] = Outcome.REJECTED, Outcome.FAILED
    level = from_load(
        load(due, due, due + 0.02, outcome),
        scenario="server",
        protocol="grpc",
        amount=100.0,
        unit=RATE,
        stages={},
        bound_ms=50,
    )
    assert (level.answered, level.rejected, level.failed) == (197, 2, 1)
    assert level.latency["p99_ms"] == pytest.approx(20)
    assert level.within == pytest.approx(197 / 200)
    assert level.holds is False, "98.5 % is less than 99 %"
    assert level.pictures_per_s == pytest.approx(197 / (due[-1] + 0.02))


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=300))
@settings(deadline=None)
def test_percentiles_are_latencies_that_occurred_and_never_flatter(values):
    summary = summarise(np.array(values))
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
        assert summary[name] in values
        # At least that share of all requests was as fast.
        assert np.mean(np.array(values) <= summary[name]) >= share - 1e-9
    assert summary["max_ms"] == max(values)


def test_a_level_without_any_request_has_no_figures():
    level = from_load(
        load([], [], [], []), scenario="server", protocol="grpc", amount=1.0, unit=RATE, stages={}, bound_ms=1
    )
    assert level.latency == {}
    assert level.pictures_per_s == 0
    assert level.holds is False


def test_stage_columns_are_means_per_request():
    stage = Stage(requests=4, total=40, queue=8, compute=32, batches={1: 2, 2: 1})
    one = load([0], [0], [0.01], [0])
    level = from_load(
        one, scenario="offline", protocol="http", amount=1, unit=IN_FLIGHT, stages={"sparseinst_network": stage}
    )
    columns = row(level)
    assert columns["network_total_ms"] == 10
    assert columns["network_queue_ms"] == 2
    assert columns["network_mean_batch"] == pytest.approx(4 / 3)


@given(capacity=st.floats(0.2, 5e4), start=st.floats(0.2, 5e4))
@settings(deadline=None, max_examples=60)
def test_the_search_finds_a_known_capacity_from_any_start(capacity, start):
    found = highest_rate(lambda rate: rate <= capacity, start, resolution=0.05)
    assert found is not None
    assert found <= capacity
    assert capacity / found <= 1.05 + 1e-9


def test_the_search_takes_few_levels():
    tried = []
    highest_rate(lambda rate: not tried.append(rate) and rate <= 137, 68)
    assert len(tried) <= 8


def test_nothing_holds_where_not_even_the_lowest_rate_does():
    assert highest_rate(lambda _rate: False, 10, floor=0.5) is None


def test_a_search_that_never_holds_twice_gives_up_soon():
    tried = []

    def holds(rate):  # once each, as on a machine that others use too
        tried.append(rate)
        return rate < 100 and tried.count(rate) == 1

    assert highest_rate(holds, 50) is None
    assert len(tried) < 60


def test_the_search_ends_where_everything_holds():
    assert highest_rate(lambda _rate: True, 10, ceiling=1000) == 1000


def test_a_rate_that_held_by_luck_once_is_not_taken():
    seen = []

    def holds(rate):
        seen.append(rate)
        return rate <= 100 or (110 < rate < 130 and seen.count(rate) == 1)

    assert highest_rate(holds, 50) <= 100


@pytest.mark.parametrize("wrong", [{"start": 0}, {"start": 5, "floor": 6}, {"start": 5, "resolution": 0}])
def test_impossible_searches_are_refused(wrong):
    with pytest.raises(ValueError, match="wanted 0 < floor <= start"):
        highest_rate(lambda _rate: True, **wrong)
