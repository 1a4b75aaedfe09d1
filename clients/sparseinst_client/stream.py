"""Any number of pictures, so many under way at a time, results in their order.

A source is asked for its next picture only when there is room: `in_flight` more than results were taken, at most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sparseinst_client.core import OnError
from sparseinst_client.errors import SparseInstError
from sparseinst_client.pictures import Picture
from sparseinst_client.transport import Stop
from sparseinst_runtime.instances import Instances

# What one picture can be the cause of; anything else ends a stream whatever on_error says.
_OF_A_PICTURE = (SparseInstError, ValueError, TypeError, OSError)


def in_order(
    segment: Callable[[Picture], Instances], images: Iterable[Picture], in_flight: int, on_error: OnError, stop: Stop
) -> Iterator[Instances | Exception]:
    """Results in the order of the pictures, by threads.

    Args:
        segment: the work for one picture.
        images: the source; an error of its own is raised after the results of the pictures before it.
        in_flight: threads.
        on_error: "yield" puts the error of a picture in its place, "raise" ends with it.
        stop: set at the end, for calls that nobody waits for any more.
    """
    source, broken = iter(images), None
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="sparseinst-stream")
    under_way: deque[Any] = deque()
    try:
        while True:
            try:
                under_way.append(pool.submit(segment, next(source)))
            except StopIteration:
                break
            except Exception as error:
                broken = error
                break
            if len(under_way) == in_flight:
                yield _outcome(under_way.popleft().result, on_error)
        while under_way:
            yield _outcome(under_way.popleft().result, on_error)
        if broken is not None:
            raise broken
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


async def in_order_async(
    segment: Callable[[Picture], Awaitable[Instances]],
    images: Iterable[Picture] | AsyncIterable[Picture],
    in_flight: int,
    on_error: OnError,
) -> AsyncIterator[Instances | Exception]:
    """As `in_order`, by tasks; they are cancelled when the iterator is closed or its own task is."""
    source, broken = _each(images), None
    under_way: deque[asyncio.Future[Instances]] = deque()
    try:
        while True:
            try:
                under_way.append(asyncio.ensure_future(segment(await source.__anext__())))
            except StopAsyncIteration:
                break
            except Exception as error:
                broken = error
                break
            if len(under_way) == in_flight:
                await asyncio.wait([under_way[0]])
                yield _outcome(under_way.popleft().result, on_error)
        while under_way:
            await asyncio.wait([under_way[0]])
            yield _outcome(under_way.popleft().result, on_error)
        if broken is not None:
            raise broken
    finally:
        for task in under_way:
            task.cancel()
        if under_way:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(under_way)


def _outcome(result: Callable[[], Instances], on_error: OnError) -> Instances | Exception:
    try:
        return result()
    except _OF_A_PICTURE as error:
        if on_error == "raise":
            raise
        return error


async def _each(images: Iterable[Picture] | AsyncIterable[Picture]) -> AsyncIterator[Picture]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image
