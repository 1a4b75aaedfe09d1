"""The client for asyncio: as `Client`, to be awaited. Cancelling a task ends its calls.

async with AsyncClient("grpc://127.0.0.1:8001") as client:
    instances = await client.segment("picture.jpg")
    async for instances in client.stream(paths):
        ...
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import numpy as np

from sparseinst_client.agreement import agree
from sparseinst_client.aio_transport import connect
from sparseinst_client.core import (
    GREY,
    ClientSettings,
    Health,
    OnError,
    check_batch,
    check_size,
    check_stream,
    optional_inputs,
    picture_tensor,
    seconds,
)
from sparseinst_client.errors import BadRequest, DeadlineExceeded, NotServed, SparseInstError
from sparseinst_client.loops import PerLoop
from sparseinst_client.pictures import Picture, display_size, encoded
from sparseinst_client.reply import read_reply
from sparseinst_client.retry import Attempts
from sparseinst_client.shared_memory import Region, Regions, forgotten, refused, unshare_async
from sparseinst_client.stream import in_order_async
from sparseinst_client.wire import Call
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances

_T = TypeVar("_T")
_GOODBYE = 2.0  # seconds for the server to forget shared memory, when the client closes


class AsyncClient(ClientSettings):
    """A connection to one model of one server, for the tasks of an event loop; in another loop it opens another.

    `ClientSettings` tells of the arguments, `Client` of each method in more words.
    """

    def _open(self) -> None:
        self._transport = connect(self._address)
        self._regions = Regions() if self._shares else None
        self._slots = PerLoop(lambda: asyncio.Semaphore(self._concurrency))
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with ServerUnavailable, later ones raise RuntimeError."""
        if self._closed:
            return
        self._closed = True
        goodbye = Attempts(0, time.monotonic() + _GOODBYE)
        for region in self._regions.clear() if self._regions is not None else ():
            with suppress(SparseInstError):  # the memory is gone from this side; the server may be gone, too
                await unshare_async(self._transport, region, goodbye)
        await self._transport.close()

    async def segment(
        self,
        image: Picture,
        *,
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> Instances:
        """The instances in one picture; arguments and errors as for `Client.segment`."""
        batch = await self.segment_batch(
            [image], score_threshold=score_threshold, max_instances=max_instances, timeout=timeout
        )
        return batch[0]

    async def segment_batch(
        self,
        images: Sequence[Picture],
        *,
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> list[Instances]:
        """The instances of several pictures in one request; as `Client.segment_batch`."""
        check_batch(images)
        options = optional_inputs(len(images), score_threshold, max_instances)
        return await self._segment(images, options, self._attempts(timeout))

    @overload
    def stream(
        self,
        images: Iterable[Picture] | AsyncIterable[Picture],
        *,
        in_flight: int = ...,
        on_error: Literal["raise"] = ...,
        score_threshold: float | None = ...,
        max_instances: int | None = ...,
        timeout: float | None = ...,
    ) -> AsyncIterator[Instances]: ...

    @overload
    def stream(
        self,
        images: Iterable[Picture] | AsyncIterable[Picture],
        *,
        in_flight: int = ...,
        on_error: Literal["yield"],
        score_threshold: float | None = ...,
        max_instances: int | None = ...,
        timeout: float | None = ...,
    ) -> AsyncIterator[Instances | Exception]: ...

    def stream(
        self,
        images: Iterable[Picture] | AsyncIterable[Picture],
        *,
        in_flight: int = 8,
        on_error: OnError = "raise",
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        """The instances of any number of pictures in their order, for `async for`; as `Client.stream`.

        A loop that is left early leaves the iterator to asyncio, which closes it soon; `aclosing` does so at once.
        """
        check_stream(images, in_flight, self._concurrency, on_error)
        options = optional_inputs(1, score_threshold, max_instances)
        self._attempts(timeout)  # refuses a wrong timeout, or a closed client, now

        async def segment(image: Picture) -> Instances:
            return (await self._segment([image], options, self._attempts(timeout)))[0]

        return in_order_async(segment, images, in_flight, on_error)

    async def contract(self, *, timeout: float | None = None) -> Contract:
        """The contract of the model that is served; asked for once, then remembered. As `Client.contract`."""
        return await self._agreed(self._attempts(timeout))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, from the server; known once `contract` or any result was awaited.

        Raises:
            RuntimeError: it is not known yet.
        """
        if self._contract is None:
            raise RuntimeError("the classes are not known yet; `await client.contract()` asks the server for them")
        return self._contract.classes

    async def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it and the model are ready; as `Client.ready`."""
        return await self._ready(self._attempts(timeout, retries=0))

    async def health(self, *, timeout: float | None = None) -> Health:
        """Ask the server how it is and send a small grey picture all the way through; as `Client.health`."""
        attempts = self._attempts(timeout, retries=0)
        server = await self._ask(self._transport.wire.server(), attempts)
        ready = await self._ready(attempts)
        start, problem = time.monotonic(), ""
        try:
            await self._segment([GREY], {}, attempts)
        except SparseInstError as error:
            problem = str(error)
        return Health(server, self._model, ready, not problem, time.monotonic() - start, problem)

    async def _segment(
        self, images: Sequence[Picture], options: Mapping[str, np.ndarray], attempts: Attempts
    ) -> list[Instances]:
        if not images:
            return []
        contract = await self._agreed(attempts)
        check_size(len(images), contract)
        # In threads: files are read, and arrays are packed.
        data = list(await asyncio.gather(*(asyncio.to_thread(encoded, image) for image in images)))
        pictures, wire = picture_tensor(data), self._transport.wire
        if self._regions is None:
            call = wire.infer(self._model, {**options, "image": pictures})
            tensors = await self._persist(lambda left: self._infer(call, left), attempts)
        else:
            with self._regions.lend(pictures) as (region, shared):
                call = wire.infer(self._model, {**options, "image": shared})
                tensors = await self._persist(lambda left: self._infer_shared(call, left, region), attempts)
        return read_reply(tensors, [display_size(picture) for picture in data], contract)

    async def _infer(self, call: Call[_T], left: float) -> _T:
        async with self._slot(left) as rest:
            return await self._transport.ask(call, rest)

    async def _infer_shared(self, call: Call[_T], left: float, region: Region) -> _T:
        if not region.registered:
            try:
                await self._transport.ask(self._transport.wire.share(region.name, region.key, region.size), left)
            except SparseInstError as error:
                raise refused(error, self._transport.url) from error
            region.registered = True
        try:
            return await self._infer(call, left)
        except (BadRequest, NotServed) as error:
            raise forgotten(error, region) from error

    @asynccontextmanager
    async def _slot(self, left: float) -> AsyncIterator[float]:
        deadline = time.monotonic() + left
        self._slots.take_ended()
        slots = self._slots.get()
        try:
            await asyncio.wait_for(slots.acquire(), left)
        except asyncio.TimeoutError:
            sentence = f"{self._concurrency} calls were under way (concurrency), none ended in {left:g} s"
            raise DeadlineExceeded(sentence) from None
        try:
            yield max(deadline - time.monotonic(), 1e-3)
        finally:
            slots.release()

    async def _agreed(self, attempts: Attempts) -> Contract:
        if self._contract is None:
            served = await self._ask(self._transport.wire.served(self._model), attempts)
            self._contract = agree(served, self._where)
        return self._contract

    async def _ready(self, attempts: Attempts) -> bool:
        wire = self._transport.wire
        return await self._ask(wire.server_ready(), attempts) and await self._ask(
            wire.model_ready(self._model), attempts
        )

    async def _ask(self, call: Call[_T], attempts: Attempts) -> _T:
        return await self._persist(lambda left: self._transport.ask(call, left), attempts)

    async def _persist(self, call: Callable[[float], Awaitable[_T]], attempts: Attempts) -> _T:
        """As `retry.persist`."""
        while True:
            try:
                return await call(attempts.left())
            except SparseInstError as error:
                pause = attempts.pause_after(error)
                if self._closed:
                    raise
            await asyncio.sleep(pause)

    def _attempts(self, timeout: float | None, retries: int | None = None) -> Attempts:
        if self._closed:
            raise RuntimeError("this client is closed; make a new one")
        limit = self._timeout if timeout is None else seconds(timeout)
        return Attempts(self._retries if retries is None else retries, time.monotonic() + limit)
