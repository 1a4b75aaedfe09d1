"""What belongs to one event loop, kept for each: connections and semaphores are of no use in another loop.

A client may be used by one `asyncio.run` after the other, by loops in several threads, and in a forked child. There
what the parent's loops have is kept untouched: to close it would take the connections out of the parent's hands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class PerLoop(Generic[_T]):
    """One thing for each event loop.

    Args:
        make: makes it, when a loop first asks for it.
    """

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._things: dict[asyncio.AbstractEventLoop, _T] = {}

    def get(self) -> _T:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        thing = self._things.get(loop)
        if thing is None:
            thing = self._things[loop] = self._make()
        return thing

    def take_ended(self) -> list[_T]:
        """Those of loops that are closed: they are given out once."""
        return [self._things.pop(loop) for loop in list(self._things) if loop.is_closed()]

    def take_own(self) -> list[_T]:
        """That of the running loop, if it has one, and those of loops that are closed."""
        own = self._things.pop(asyncio.get_running_loop(), None)
        return self.take_ended() + ([] if own is None else [own])
