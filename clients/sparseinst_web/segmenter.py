"""The gateway's way to the SparseInst server: one client for all requests, and a bound on who may wait for it.

A browser that goes away, or a deadline that passes, cancels the call to the server with it: no work goes on for nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from sparseinst_client import AsyncClient, ReplyError, ServerUnavailable
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances
from sparseinst_runtime.limits import Header, check_header
from sparseinst_web.refusal import overloaded
from sparseinst_web.settings import Settings


@dataclass(frozen=True)
class Segmented:
    """What the server found in one picture.

    Attributes:
        header: format, size and orientation of the picture.
        instances: those above the settings' floor, in the picture's own pixels.
        contract: of the model that found them.
        waited: seconds until the server was asked.
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
        self._calls = asyncio.Semaphore(settings.concurrency)
        self._asking = asyncio.Lock()
        self._inside = 0
        self._shared = self._new()
        self._contract: Contract | None = None  # what was served when a browser last asked

    async def close(self) -> None:
        """Take no more pictures; calls under way end."""
        await self._shared.client.close()

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
        async with self._calls, self._lent() as client:
            # In a thread: the header of a hostile file takes a while to read.
            header = await asyncio.to_thread(check_header, data, self._settings.limits)
            start = time.monotonic()
            instances = await client.segment(data, score_threshold=self._settings.floor, timeout=_left(deadline))
            seconds = time.monotonic() - start
            contract = await client.contract(timeout=_left(deadline))
            return Segmented(header, instances, contract, start - asked, seconds)

    async def contract(self, deadline: float) -> Contract:
        """The contract of the model that is served now.

        Raises:
            SparseInstError: the server did not say it.
        """
        async with (
            self._asking,
            self._new().client as client,
        ):  # a client remembers the first contract that it was given
            contract = await client.contract(timeout=_left(deadline))
        if contract != self._contract:
            await self._forget(self._shared)
            self._contract = contract
        return contract

    def _new(self) -> _Shared:
        # The page asks again by itself, and knows better than we when there is no more use in it.
        return _Shared(AsyncClient(self._settings.url, timeout=self._settings.deadline, retries=0))

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[AsyncClient]:
        """The client that all requests share; one that was forgotten closes with its last request."""
        shared = self._shared
        shared.users += 1
        try:
            yield shared.client
        # Perhaps another model is served now, whose contract is read anew; or another server, to be looked for at once.
        except (ReplyError, ServerUnavailable):
            await self._forget(shared)
            raise
        finally:
            shared.users -= 1
            if shared is not self._shared and not shared.users:
                await shared.client.close()

    async def _forget(self, shared: _Shared) -> None:
        if shared is self._shared:
            self._shared = self._new()
            if not shared.users:
                await shared.client.close()


@dataclass
class _Shared:
    """A client and how many requests use it."""

    client: AsyncClient
    users: int = 0


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)
