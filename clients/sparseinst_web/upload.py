"""Reads the body of a request with a bound on its size, while it arrives: nobody can make the gateway hold more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from sparseinst_web.refusal import cut_off, too_large

# Of a refused upload this much is read and dropped: a browser that is cut off while it sends never sees the answer.
_DROPPED = 8  # times the bound
_DROP_SECONDS = 5.0

_T = TypeVar("_T")


class Upload:
    """The body of one request, at most `max_bytes` of it."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._announced = request.headers.get("content-length", "0")
        self._chunks = request.stream()
        self._receive = request.receive
        self._max_bytes = max_bytes
        self.ended = False

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            Refusal: 413, it is larger by its own header or by what came; 400, the sender went away.
        """
        if self._announced.isdecimal() and int(self._announced) > self._max_bytes:
            raise too_large(self._max_bytes)
        received = bytearray()
        try:
            async for chunk in self._chunks:
                if len(received) + len(chunk) > self._max_bytes:
                    raise too_large(self._max_bytes)
                received += chunk
        except ClientDisconnect as error:
            raise cut_off() from error
        self.ended = True
        return bytes(received)

    async def while_wanted(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What `work` gives; it is cancelled as soon as the sender, who has sent all, goes away.

        Raises:
            Refusal: 400, that happened; nobody is there to read it.
        """
        # Not a cancel scope of anyio: what grpc.aio raises when it is cancelled, a scope takes for somebody else's.
        working, watching = asyncio.create_task(work), asyncio.create_task(self._gone())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise cut_off()
        finally:
            working.cancel()
            watching.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def drop(self) -> None:
        """Read what is still sent and keep none of it; gives up on what does not end."""
        dropped = 0
        with anyio.move_on_after(_DROP_SECONDS):
            try:
                async for chunk in self._chunks:
                    dropped += len(chunk)
                    if dropped > _DROPPED * self._max_bytes:
                        return
            except ClientDisconnect:
                return
            self.ended = True
