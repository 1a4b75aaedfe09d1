"""Send pictures to a server and time them, in two ways that measure different things.

Closed loop: so many callers, each sends when the last answer has arrived. A slow server slows its callers down, so this
gives what it can do at most, and how long one patient caller waits.

Open loop: requests come at times that were set beforehand, as from many people who do not know of each other. Latency
counts from the moment a request was due, not from when it could be sent: otherwise a server that stalls for a second
would be charged for one slow request, and not for all those that came meanwhile (coordinated omission).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from sparseinst_client.benchmark.workload import Sample
from sparseinst_client.client import Client
from sparseinst_client.errors import Overloaded, SparseInstError

TIMEOUT = 30.0  # seconds that a request may take before it counts as failed
BACK_OFF = (
    0.05  # seconds that a caller who was turned away waits in a closed loop; asking at once would be a load of its own
)
MESSAGES = 5  # different failures that are kept in words

# (n-th request of the level, seconds since its start) -> when it is due, or None when there is no more to send.
_Schedule = Callable[[int, float], "float | None"]
_Row = tuple[int, float, float, float, int]  # number, due, sent, done, outcome


class Outcome(IntEnum):
    """What became of a request; a server that has too much to do and says so is not one that breaks."""

    ANSWERED = 0
    REJECTED = 1
    FAILED = 2


@dataclass(frozen=True)
class Load:
    """What became of every request of one level; seconds since the level's start, in the order of being due.

    Attributes:
        due: float64 [n], when each should have been sent; when it was, in a closed loop.
        sent: float64 [n].
        done: float64 [n], when the answer or the error was there.
        outcome: int8 [n], of Outcome.
        messages: some of the failures, in words.
    """

    due: np.ndarray
    sent: np.ndarray
    done: np.ndarray
    outcome: np.ndarray
    messages: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.due)

    @property
    def latencies(self) -> np.ndarray:
        """Seconds from being due to the answer, of those that were answered."""
        answered = self.outcome == Outcome.ANSWERED
        return self.done[answered] - self.due[answered]

    @property
    def lag(self) -> np.ndarray:
        """Seconds by which each was sent late: no caller was free, or this program was too slow."""
        return self.sent - self.due

    @property
    def seconds(self) -> float:
        """Until the last one was done."""
        return float(self.done.max()) if len(self) else 0.0

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        return int(np.count_nonzero(self.outcome == outcome))


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times at which independent people come: a Poisson process, float64 [n], sorted, in [0, seconds).

    Args:
        rate: mean arrivals per second.
        seconds: length of the level.
        seed: of the times; another one for each level, so that no level inherits another's luck.
    """
    if not (rate > 0 and seconds > 0):
        raise ValueError(f"rate {rate} and {seconds} seconds; wanted both above 0")
    chance = np.random.default_rng(seed)
    # Given their number, the arrivals of a Poisson process are independent and uniform.
    return np.sort(chance.uniform(0, seconds, chance.poisson(rate * seconds)))


def open_loop(
    url: str,
    samples: Sequence[Sample],
    arrivals: np.ndarray,
    callers: int,
    on_done: Callable[[], None] = lambda: None,
) -> Load:
    """Send one request at each arrival, whatever became of those before.

    Args:
        url: of the server.
        samples: what to send, going round.
        arrivals: float64 [n] seconds, sorted.
        callers: requests that can be under way at once. When all wait for answers, the next request goes out late, and
            its latency says so.
        on_done: called after each request, from any thread.
    """

    def schedule(n: int, _now: float) -> float | None:
        return float(arrivals[n]) if n < len(arrivals) else None

    return _run(url, samples, callers, schedule, open_=True, on_done=on_done)


def closed_loop(
    url: str, samples: Sequence[Sample], callers: int, seconds: float, on_done: Callable[[], None] = lambda: None
) -> Load:
    """Keep so many requests under way, for so many seconds; those under way at the end are finished and counted.

    A caller who is turned away comes back after BACK_OFF.
    """

    def schedule(_n: int, now: float) -> float | None:
        return 0.0 if now < seconds else None

    return _run(url, samples, callers, schedule, open_=False, on_done=on_done)


@dataclass
class _Level:
    """What the callers of one level share."""

    url: str
    samples: Sequence[Sample]
    schedule: _Schedule
    open_: bool
    on_done: Callable[[], None]
    ready: threading.Barrier = field(init=False)
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    start: float = 0.0
    number: int = 0
    messages: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def begin(self) -> None:
        self.start = time.perf_counter()

    def next(self) -> tuple[int, float] | None:
        """Number and due time of the next request; every request goes to exactly one caller, in order."""
        with self.lock:
            due = None if self.stop.is_set() else self.schedule(self.number, self.now())
            if due is None:
                return None
            self.number += 1
            return self.number - 1, due

    def now(self) -> float:
        return time.perf_counter() - self.start

    def note(self, message: str) -> None:
        with self.lock:
            if len(self.messages) < MESSAGES:
                self.messages[message] = None

    def end(self) -> None:
        """Let every caller stop, those too that wait for others to connect."""
        self.stop.set()
        self.ready.abort()


def _run(
    url: str,
    samples: Sequence[Sample],
    callers: int,
    schedule: _Schedule,
    *,
    open_: bool,
    on_done: Callable[[], None],
) -> Load:
    level = _Level(url, samples, schedule, open_, on_done)
    level.ready = threading.Barrier(callers, action=level.begin)
    with ThreadPoolExecutor(callers, thread_name_prefix="caller") as pool:
        futures = [pool.submit(_caller, level) for _ in range(callers)]
        try:
            rows = sorted(row for future in futures for row in future.result())
        except BaseException:  # an interrupt, too, must end the others
            level.end()
            raise
    columns = np.array(rows, np.float64).reshape(-1, 5).T
    return Load(columns[1], columns[2], columns[3], columns[4].astype(np.int8), tuple(level.messages))


def _caller(level: _Level) -> list[_Row]:
    """One caller, with a connection of its own, and what became of its requests."""
    try:
        with Client(level.url, timeout=TIMEOUT, retries=0) as client:
            client.contract()  # connects; not part of any request's time
            level.ready.wait()
            return list(_requests(level, client))
    except threading.BrokenBarrierError:
        return []  # another caller could not connect, and says why
    except BaseException:
        level.end()
        raise


def _requests(level: _Level, client: Client) -> Iterator[_Row]:
    while (task := level.next()) is not None:
        number, due = task
        if level.stop.wait(max(0.0, due - level.now())):
            return
        sent, outcome = level.now(), Outcome.ANSWERED
        try:
            client.segment(level.samples[number % len(level.samples)].data)
        except Overloaded:
            outcome = Outcome.REJECTED
        except SparseInstError as error:
            outcome = Outcome.FAILED
            level.note(str(error))
        done = level.now()
        if outcome == Outcome.REJECTED and not level.open_:
            level.stop.wait(BACK_OFF)
        level.on_done()
        yield number, due if level.open_ else sent, sent, done, outcome
