"""Asking again: what a server could not take now, because it restarts or is overloaded, it may take a little later.

Segmenting changes nothing in a server, so a request may go out twice. Pauses are drawn at random between nothing and a
bound that doubles ("full jitter"): callers that were turned away together do not come back together. All attempts and
pauses lie inside the deadline of the call, and a refused picture, a bad value or a broken reply is never tried again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from sparseinst_client.errors import NotServed, Overloaded, ServerUnavailable, SparseInstError

RETRIES = 4
FIRST_PAUSE = 0.1  # seconds, the bound of the first pause
LONGEST_PAUSE = 2.0  # seconds, where the bound stops doubling

_T = TypeVar("_T")


class Attempts:
    """The attempts of one call.

    Args:
        retries: attempts after the first one, at least 0.
        deadline: time.monotonic() at which the call is over.
    """

    def __init__(self, retries: int, deadline: float) -> None:
        self._retries, self._deadline, self._failed = retries, deadline, 0

    def left(self) -> float:
        """Seconds until the deadline, never none at all: the attempt itself finds out that it is too late."""
        return max(self._deadline - time.monotonic(), 1e-3)

    def pause_after(self, error: SparseInstError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            SparseInstError: the one that was given, where another attempt would not help, or there is none left.
        """
        passes = isinstance(error, (Overloaded, ServerUnavailable)) and not isinstance(error, NotServed)
        if not (passes and self._retries):
            raise error
        bound = min(FIRST_PAUSE * 2**self._failed, LONGEST_PAUSE)
        self._failed += 1
        pause = random.uniform(0, bound)
        if self._failed > self._retries or time.monotonic() + pause >= self._deadline:
            times = "once" if self._failed == 1 else f"{self._failed} times"
            raise type(error)(f"{error} (asked {times})") from error
        return pause


def persist(call: Callable[[float], _T], attempts: Attempts, closed: threading.Event) -> _T:
    """The result of `call(seconds left)`, tried again as `attempts` allows.

    Args:
        call: one attempt.
        attempts: how often, and until when.
        closed: set by whoever wants no further attempt; ends a pause at once.

    Raises:
        SparseInstError: what the last attempt raised.
    """
    while True:
        try:
            return call(attempts.left())
        except SparseInstError as error:
            if closed.wait(attempts.pause_after(error)):
                raise
