"""Work that waits for threads: all of it is done once, in order, and what would wait too long is refused at once."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest

from sparseinst_runtime.backlog import ALWAYS, BUSY, Backlog, BacklogFullError


class Gate:
    """A worker that notes what it is given, and holds each piece until it is let through."""

    def __init__(self) -> None:
        self.done, self.held, self.open = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, work) -> None:
        self.held.release()
        assert self.open.acquire(timeout=30)
        self.done.append(work)

    def let(self, pieces: int) -> None:
        self.open.release(pieces)


@pytest.fixture
def gate():
    return Gate()


def test_all_work_is_done_once_and_in_order(gate):
    backlog = Backlog([gate], longest_wait=60)
    for number in range(20):
        backlog.put(number)
    gate.let(20)
    backlog.close()
    assert gate.done == list(range(20))


def test_closing_does_what_waits(gate):
    gate.let(9)
    backlog = Backlog([gate] * 3, longest_wait=60)
    for number in range(9):
        backlog.put(number)
    backlog.close()
    assert sorted(gate.done) == list(range(9))


def slow_backlog(gate, longest_wait: float) -> Backlog:
    """One that has learned that a picture takes a tenth of a second, and has nothing to do."""
    backlog = Backlog([gate], longest_wait)
    backlog._pace = 0.1
    return backlog


def test_what_would_wait_too_long_is_refused_and_what_was_let_in_is_done(gate):
    backlog = slow_backlog(gate, longest_wait=0.85)
    backlog.put("first")
    gate.held.acquire()  # it is with the worker: nothing waits
    let_in, refused = [], None
    for number in range(100):
        try:
            backlog.put(number)
            let_in.append(number)
        except BacklogFullError as error:
            refused = error
            break
    assert let_in == list(range(9)), "nine wait 0.9 s, and nobody who comes then may"
    assert str(refused).startswith(BUSY)
    assert "try again later" in str(refused)
    gate.let(1 + len(let_in))
    backlog.close()
    assert gate.done == ["first", *let_in]


def test_a_slow_engine_is_kept_busy(gate):
    backlog = slow_backlog(gate, longest_wait=0.001)
    backlog.put("first")
    gate.held.acquire()
    for number in range(ALWAYS):
        backlog.put(number)
    with pytest.raises(BacklogFullError):
        backlog.put("one more")
    gate.let(1 + ALWAYS)
    backlog.close()
    assert gate.done == ["first", *range(ALWAYS)]


def test_who_cannot_wait_as_long_is_refused_earlier(gate):
    backlog = slow_backlog(gate, longest_wait=60)
    for number in range(4):
        backlog.put(number)
    with pytest.raises(BacklogFullError, match=r"may wait 0\.2 s"):
        backlog.put("hurried", patience=0.2)
    backlog.put("patient")
    gate.let(5)
    backlog.close()
    assert gate.done == [0, 1, 2, 3, "patient"]


def test_a_batch_counts_as_its_pictures(gate):
    backlog = slow_backlog(gate, longest_wait=0.7)
    backlog.put("one")
    gate.held.acquire()  # it is with the worker: nothing waits
    backlog.put("eight", pictures=8)
    with pytest.raises(BacklogFullError, match="8 pictures wait"):
        backlog.put("next")
    gate.let(2)
    backlog.close()


def test_the_pace_is_that_of_all_workers_together(monkeypatch):
    """Two that take a second for each picture, half a second apart, give one every half second."""
    backlog = Backlog([print, print], longest_wait=60)
    for end in np.arange(1, 20, 0.5):
        monkeypatch.setattr(time, "monotonic", lambda end=end: end)
        backlog._note(end - 1, pictures=1)
    monkeypatch.undo()
    backlog.close()
    assert backlog._pace == pytest.approx(0.5, rel=1e-3)


def test_time_without_work_is_not_counted(monkeypatch):
    backlog = Backlog([print], longest_wait=60)
    for end in (1, 100, 1000):
        monkeypatch.setattr(time, "monotonic", lambda end=end: end)
        backlog._note(end - 0.25, pictures=1)
    monkeypatch.undo()
    backlog.close()
    assert backlog._pace == pytest.approx(0.25)


def test_work_that_is_done_is_let_go(gate):
    """A request must not stay alive, with its memory at the server, until the next one comes."""

    class Work:
        pass

    backlog = Backlog([gate], longest_wait=60)
    work = Work()
    alive = weakref.ref(work)
    backlog.put(work)
    gate.held.acquire()
    del work
    gate.let(1)
    limit = time.monotonic() + 30
    gate_done = gate.done
    while not gate_done:
        assert time.monotonic() < limit
        time.sleep(0.001)
    gate_done.clear()
    while alive() is not None:
        assert time.monotonic() < limit, "the backlog holds on to what is done"
        time.sleep(0.001)
    backlog.close()


@pytest.mark.parametrize(("workers", "wait"), [([], 1.0), ([print], 0.0), ([print], float("nan"))])
def test_a_backlog_that_could_do_nothing_is_refused(workers, wait):
    with pytest.raises(ValueError, match="wanted at least one"):
        Backlog(workers, wait)
