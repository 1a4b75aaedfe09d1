"""Work that waits for a few threads, and is refused at once where it would wait too long.

A queue that takes everything makes everybody late: at three times the rate that a server can do, each picture waits
longer than the one before. This one knows its own pace and says no in time, so that whoever was let in keeps a bound.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

BUSY = "the server is busy"  # how the sentence of a refusal begins; clients know it by that
ALWAYS = 8  # pictures that may wait however long they take: an engine that is slow is kept busy, too
NEW_PACE = 0.2  # weight of the newest pace in the average: a few pictures are enough to follow, one is no trend


class BacklogFullError(Exception):
    """Work that would wait too long; the message is a sentence for whoever sent it."""


class Backlog(Generic[T]):
    """Threads that do one piece of work after the other, first come, first served.

    Args:
        workers: a function for each thread, called there with every piece that the thread takes. It must not raise:
            that would end the thread.
        longest_wait: seconds that a piece may be expected to wait for its turn, more than 0.

    Raises:
        ValueError: no worker, or no time to wait.
    """

    def __init__(self, workers: Sequence[Callable[[T], None]], longest_wait: float) -> None:
        if not workers or not longest_wait > 0:
            raise ValueError(
                f"{len(workers)} workers, {longest_wait:g} s to wait; wanted at least one, and more than 0 s"
            )
        self._longest_wait = longest_wait
        self._queue: queue.SimpleQueue[tuple[T, int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0  # pictures
        self._pace = 0.0  # seconds from one picture's end to the next's while there is work; 0 before the first
        self._last_end = 0.0
        self._threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in workers]
        for thread in self._threads:
            thread.start()

    def put(self, work: T, pictures: int = 1, patience: float | None = None) -> None:
        """Let work wait for a thread.

        Args:
            work: what a worker is called with.
            pictures: how much work it is.
            patience: seconds that it can wait, where that is less than the longest wait.

        Raises:
            BacklogFullError: other work waits, and takes longer than that.
        """
        with self._lock:
            ahead, wait = self._waiting, self._waiting * self._pace
            longest = self._longest_wait if ahead >= ALWAYS else math.inf
            longest = longest if patience is None else min(patience, longest)
            if wait > longest:
                raise BacklogFullError(
                    f"{BUSY}: {ahead} pictures wait, about {wait:.1f} s of work, and a request may wait "
                    f"{longest:.1f} s; try again later, or another server"
                )
            self._waiting += pictures
        self._queue.put((work, pictures))

    def close(self) -> None:
        """Do what waits, then end the threads; nothing may be put afterwards."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, worker: Callable[[T], None]) -> None:
        while (entry := self._queue.get()) is not None:
            work, pictures = entry
            start = time.monotonic()
            with self._lock:
                self._waiting -= pictures
            worker(work)
            del work, entry  # a request that was answered must not live until the next one comes
            self._note(start, pictures)

    def _note(self, start: float, pictures: int) -> None:
        """Count the time since the last end, or since this piece's start where the threads had nothing to do."""
        with self._lock:
            end = time.monotonic()
            pace = (end - max(start, self._last_end)) / pictures
            self._pace += (pace - self._pace) * (NEW_PACE if self._pace else 1.0)
            self._last_end = end
