"""The gateway's way to the SparseInst server: a few threads, a client in each, and a bound on who may wait for them.

Threads, because they serve both protocols: an HTTP client belongs to the thread that made it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from sparseinst_client import Client, ReplyError
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Header, check_header
from sparseinst_web.refusal import overloaded
from sparseinst_web.settings import Settings

_T = TypeVar("_T")


@dataclass(frozen=True)
class Segmented:
    """What the server found in one picture.

    Attributes:
        header: format, size and orientation of the picture.
        instances: those above the settings' floor, in the picture's own pixels.
        contract: of the model that found them.
        waited: seconds until a client was free.
        seconds: that the call to the server took.
    """

    header: Header
    instances: Instances
    contract: Contract
    waited: float
    seconds: float


class Segmenter:
    """Asks the server about pictures, at most `settings.concurrency` at the same time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="segment")
        self._mine = threading.local()
        self._inside = 0

    def close(self) -> None:
        """Take no more pictures; calls under way end with their own deadline."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places for pictures, from the first byte of an upload to the reply.

        Raises:
            Refusal: 503, all are taken.
        """
        if self._inside >= self._settings.concurrency + self._settings.waiting:
            raise overloaded()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def segment(self, data: bytes, deadline: float) -> Segmented:
        """The instances in an encoded picture.

        Args:
            data: a JPEG, PNG or WebP file.
            deadline: time.monotonic() at which there is no more use in it.

        Raises:
            PictureError: the picture is not taken, by its header.
            SparseInstError: the server did not do it.
        """
        asked = time.monotonic()
        return await self._run(lambda: self._segment(data, asked, deadline))

    async def contract(self, deadline: float) -> Contract:
        """The contract of the model that is served now.

        Raises:
            SparseInstError: the server did not say it.
        """
        return await self._run(lambda: self._contract(deadline))

    def _segment(self, data: bytes, asked: float, deadline: float) -> Segmented:
        header = check_header(data, self._settings.limits)
        client = self._client()
        start = time.monotonic()
        try:
            instances = client.segment(data, score_threshold=self._settings.floor, timeout=_left(deadline))
            seconds = time.monotonic() - start
            contract = client.contract(timeout=_left(deadline))
            return Segmented(header, instances, contract, start - asked, seconds)
        except ReplyError:  # perhaps another model is served now: its contract is read anew
            self._forget()
            raise

    def _contract(self, deadline: float) -> Contract:
        with Client(self._settings.url) as client:  # a new one: a client remembers the contract that it was given first
            return client.contract(timeout=_left(deadline))

    def _client(self) -> Client:
        if getattr(self._mine, "client", None) is None:
            self._mine.client = Client(self._settings.url, timeout=self._settings.deadline)
        client: Client = self._mine.client
        return client

    def _forget(self) -> None:
        self._mine.client.close()
        self._mine.client = None

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)
