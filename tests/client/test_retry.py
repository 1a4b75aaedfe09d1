"""Asking again: how often, how long after, never beyond the deadline, and never what would be refused again."""

from __future__ import annotations

import threading
import time

import pytest

from sparseinst_client import (
    BadRequest,
    Client,
    DeadlineExceeded,
    NotServed,
    Overloaded,
    ReplyError,
    ServerFailed,
    ServerUnavailable,
)
from sparseinst_client.retry import FIRST_PAUSE, LONGEST_PAUSE, Attempts, persist

NOBODY = "grpc://127.0.0.1:9"  # the discard port: nothing listens there


def pauses(retries: int) -> list[float]:
    attempts = Attempts(retries, time.monotonic() + 1000)
    return [attempts.pause_after(Overloaded("full")) for _ in range(retries)]


def test_pauses_are_drawn_below_a_bound_that_doubles_up_to_the_longest():
    drawn = [pauses(8) for _ in range(300)]
    for number, column in enumerate(zip(*drawn, strict=True)):
        bound = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE)
        assert max(column) <= bound
        assert max(column) > 0.9 * bound  # of 300 draws none so high: less than 1e-13
        assert min(column) < 0.1 * bound


def calls(*outcomes):
    """A call that raises or gives one outcome after the other, and the seconds that it was given."""
    left, rest = [], list(outcomes)

    def call(seconds):
        left.append(seconds)
        outcome = rest.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return call, left


def test_what_passes_is_asked_again_until_it_is_answered_with_ever_less_time():
    call, left = calls(ServerUnavailable("away"), Overloaded("full"), "answer")
    assert persist(call, Attempts(4, time.monotonic() + 60), threading.Event()) == "answer"
    assert 60 >= left[0] > left[1] > left[2] > 50


@pytest.mark.parametrize("kind", [BadRequest, DeadlineExceeded, NotServed, ReplyError, ServerFailed])
def test_what_would_be_refused_again_is_asked_once(kind):
    error = kind("no")
    call, left = calls(error, "answer")
    with pytest.raises(kind) as raised:
        persist(call, Attempts(4, time.monotonic() + 60), threading.Event())
    assert raised.value is error
    assert len(left) == 1


@pytest.mark.parametrize(("retries", "times"), [(0, 1), (1, 2), (3, 4)])
def test_attempts_are_bounded_and_the_last_error_says_how_many_there_were(retries, times):
    call, left = calls(*[ServerUnavailable("away")] * 9)
    with pytest.raises(ServerUnavailable, match=r"away( \(asked \d times\))?$") as raised:
        persist(call, Attempts(retries, time.monotonic() + 60), threading.Event())
    assert len(left) == times
    assert (f"asked {times} times" in str(raised.value)) == (retries > 0)


def test_no_pause_reaches_beyond_the_deadline():
    start = time.monotonic()
    call, left = calls(*[ServerUnavailable("away")] * 1000)
    with pytest.raises(ServerUnavailable):
        persist(call, Attempts(1000, start + 0.3), threading.Event())
    assert time.monotonic() < start + 0.3 + 0.2
    assert min(left) > 0


def test_closing_the_client_ends_a_pause():
    closed = threading.Event()
    call, left = calls(*[ServerUnavailable("away")] * 1000)
    threading.Timer(0.2, closed.set).start()
    start = time.monotonic()
    with pytest.raises(ServerUnavailable):
        persist(call, Attempts(1000, start + 600), closed)
    assert time.monotonic() < start + 30
    assert len(left) < 1000


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_client_asks_nobody_five_times_or_once(scheme):
    with Client(f"{scheme}://127.0.0.1:9") as client, pytest.raises(ServerUnavailable, match="asked 5 times"):
        client.segment(b"x")
    with Client(f"{scheme}://127.0.0.1:9", retries=0) as client, pytest.raises(ServerUnavailable) as raised:
        client.segment(b"x")
    assert "asked" not in str(raised.value)


@pytest.mark.parametrize(
    ("retries", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_a_number_of_retries_is_one(retries, error):
    with pytest.raises(error, match=r"retries is .* wanted"):
        Client(NOBODY, retries=retries)
