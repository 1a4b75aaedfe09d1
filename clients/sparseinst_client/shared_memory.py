"""Pictures in memory that a Triton on the same machine maps, so that they need not travel; for inputs alone.

The replies' size is not known before they are there, and run lengths are small. A region belongs to one request at a
time. Whoever closes the client takes the regions away; when the process dies, Python's resource tracker does.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from sparseinst_client.aio_transport import AioTransport
from sparseinst_client.errors import (
    BadRequest,
    DeadlineExceeded,
    NotAllowed,
    NotServed,
    ServerFailed,
    ServerUnavailable,
    SharedMemoryRefused,
    SparseInstError,
)
from sparseinst_client.retry import Attempts
from sparseinst_client.transport import Transport
from sparseinst_client.wire import Shared, pack

_SMALLEST = 2**20  # bytes
_HELD = 0.01  # seconds until a server is asked once more to let go of a region
_FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, not a folder for temporary files


class Region:
    """A piece of shared memory.

    Attributes:
        name: under which a server knows it, and of its file in /dev/shm.
        size: in bytes.
        registered: whether the server knows it, as far as we know.

    Raises:
        OSError: there is not so much.
    """

    def __init__(self, size: int) -> None:
        self.name = f"sparseinst-client-{os.getpid()}-{secrets.token_hex(6)}"
        self.size, self.registered = size, False
        self._memory = SharedMemory(self.name, create=True, size=size)
        self.remove = weakref.finalize(self, _remove, self._memory, os.getpid())
        try:
            _reserve(self.name, size)
        except OSError as error:
            self.remove()
            hint = "make it larger (docker run --shm-size), or leave shared_memory out"
            sentence = f"{size} bytes of shared memory cannot be had ({error.strerror}); {hint}"
            raise OSError(error.errno, sentence, str(_FOLDER)) from error

    @property
    def key(self) -> str:
        """The name by which another process opens it."""
        return f"/{self.name}"

    def write(self, data: bytes) -> None:
        """Put data at the start."""
        assert self._memory.buf is not None  # not removed yet
        self._memory.buf[: len(data)] = data


class Regions:
    """The regions of one client, for one request each at a time; threads may share it."""

    def __init__(self) -> None:
        self._free: list[Region] = []
        self._lost: list[str] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, images: np.ndarray) -> Iterator[tuple[Region, Shared]]:
        """A region that holds a tensor, and what the request says of it.

        It is used again when the server has answered. Otherwise the server may still read it, and the region goes.
        """
        dtype, data = pack(images)
        region = self._take(len(data))
        try:
            region.write(data)
            yield region, Shared(region.name, len(data), dtype, images.shape)
        except SparseInstError as error:
            self._give_back(region, answered=not isinstance(error, (DeadlineExceeded, ServerUnavailable)))
            raise
        except BaseException:
            self._give_back(region, answered=False)
            raise
        self._give_back(region, answered=True)

    def clear(self) -> list[str]:
        """Take all regions away that no request has; gives the names that a server still knows."""
        with self._lock:
            regions, self._free = self._free, []
            known, self._lost = self._lost + [region.name for region in regions if region.registered], []
        for region in regions:
            region.remove()
        return known

    def _give_back(self, region: Region, *, answered: bool) -> None:
        with self._lock:
            if answered:
                self._free.append(region)
            else:
                self._lost += [region.name] if region.registered else []
                region.remove()

    def _take(self, size: int) -> Region:
        with self._lock:
            fitting = [region for region in self._free if region.size >= size]
            if fitting:
                region = min(fitting, key=lambda one: one.size)
                self._free.remove(region)
                return region
        return Region(max(_SMALLEST, 1 << (size - 1).bit_length()))


def unshare(transport: Transport, region: str, attempts: Attempts) -> None:
    """Have the server forget a region; one that has answered may not have let go of it yet, so again until it does.

    Raises:
        SparseInstError: it does not.
    """
    while True:
        try:
            return transport.ask(transport.wire.unshare(region), attempts.left())
        except ServerFailed as error:
            if not _still_held(error, attempts):
                raise
            time.sleep(_HELD)


async def unshare_async(transport: AioTransport, region: str, attempts: Attempts) -> None:
    """As `unshare`."""
    while True:
        try:
            return await transport.ask(transport.wire.unshare(region), attempts.left())
        except ServerFailed as error:
            if not _still_held(error, attempts):
                raise
            await asyncio.sleep(_HELD)


def _still_held(error: ServerFailed, attempts: Attempts) -> bool:
    return "currently in use" in str(error) and attempts.left() > _HELD


def refused(error: SparseInstError, url: str) -> SparseInstError:
    """What the error of a registration means."""
    if isinstance(error, (BadRequest, NotAllowed, ServerFailed)):
        hint = "it may be on another machine or have that API shut; leave shared_memory out, or open it there"
        return SharedMemoryRefused(f"{url} takes no shared memory of ours: {error}; {hint}")
    return error


def forgotten(error: BadRequest | NotServed, region: Region) -> SparseInstError:
    """What a refusal of a request means whose pictures lie in a region; a server that started anew knows none."""
    if "shared memory region" not in str(error).lower():
        return error
    region.registered = False
    return ServerUnavailable(f"the server has forgotten the shared memory, as after a restart: {error}")


def _reserve(name: str, size: int) -> None:
    """Take the memory now: that there is none left would show as a deadly signal when it is written to."""
    with suppress(FileNotFoundError), (_FOLDER / name).open("r+b") as file:  # other systems keep no files of it
        os.posix_fallocate(file.fileno(), 0, size)


def _remove(memory: SharedMemory, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child ends, and its parent goes on
    with suppress(BufferError):  # a view of it is still held; the file goes all the same
        memory.close()
    with suppress(FileNotFoundError):
        memory.unlink()
