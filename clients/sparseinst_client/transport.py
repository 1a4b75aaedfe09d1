"""The ways of a blocking call to a Triton server: gRPC, and HTTP by way of an event loop in the background.

Every call has a deadline in seconds that covers all of it, and raises nothing but SparseInstError for what a server,
or the way to it, can cause. Threads may share a transport.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import grpc
import numpy as np

from sparseinst_client.address import Address
from sparseinst_client.aio_transport import CHANNEL, AioHttpTransport, closed, read_reply_bytes
from sparseinst_client.errors import ServerUnavailable, from_status
from sparseinst_client.wire import Call, Inputs, Wire
from sparseinst_client.wire_grpc import GrpcWire
from sparseinst_client.wire_http import HttpWire

_T = TypeVar("_T")


class Stop(threading.Event):
    """Ends, once it is set, the calls that were made with it, from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self._lock, self._cancels = threading.Lock(), dict[int, Callable[[], object]]()

    def set(self) -> None:
        """End the calls under way and the pauses between them."""
        super().set()
        with self._lock:
            cancels = list(self._cancels.values())
        for cancel in cancels:
            cancel()

    @contextmanager
    def ends(self, cancel: Callable[[], object]) -> Iterator[None]:
        """Call `cancel` when this is set before the block is left."""
        with self._lock:
            self._cancels[id(cancel)] = cancel
        try:
            if self.is_set():
                cancel()
            yield
        finally:
            with self._lock:
                del self._cancels[id(cancel)]


class Transport(Protocol):
    """Calls to one server; `url` names it in messages, `wire` spells the calls."""

    url: str
    wire: Wire

    def ask(self, call: Call[_T], timeout: float, stop: Stop | None = None) -> _T:
        """The answer to a call; `stop` ends it."""

    def infer(self, model: str, inputs: Inputs, timeout: float) -> dict[str, np.ndarray]:
        """Run a model on arrays with a leading batch dimension; gives every output by its name."""

    def close(self) -> None:
        """Close the connections; calls under way end, and the transport cannot be used afterwards."""


def connect(address: Address | str) -> Transport:
    """The transport for an address; opens no connection yet.

    Raises:
        ValueError, TypeError: the address has another form.
    """
    address = Address(address) if not isinstance(address, Address) else address
    return GrpcTransport(address) if address.speaks_grpc else HttpTransport(address)


class GrpcTransport:
    """gRPC: one HTTP/2 connection for all threads."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.wire: Wire = GrpcWire()
        self._metadata = tuple((name.lower(), value) for name, value in address.headers.items())
        if address.tls:
            self._channel = grpc.secure_channel(address.netloc, address.grpc_credentials(), CHANNEL)
        else:
            self._channel = grpc.insecure_channel(address.netloc, CHANNEL)
        self._closed = False

    def ask(self, call: Call[_T], timeout: float, stop: Stop | None = None) -> _T:
        """One unary call."""
        method = self._channel.unary_unary(call.target)
        try:
            if stop is None:
                data = method(call.body, timeout=timeout, metadata=self._metadata)
            else:
                data = _stoppable(method.future(call.body, timeout=timeout, metadata=self._metadata), stop)
        except grpc.FutureCancelledError:
            raise ServerUnavailable(f"the call to {self.url} was cancelled") from None
        except grpc.RpcError as error:
            raise from_status(str(error.code()), error.details(), self.url) from None
        except ValueError:  # gRPC's word for a channel that was closed before the call
            if self._closed:
                raise closed(self.url) from None
            raise
        return read_reply_bytes(call, data, self.url)

    def infer(self, model: str, inputs: Inputs, timeout: float) -> dict[str, np.ndarray]:
        """One ModelInfer call."""
        return self.ask(self.wire.infer(model, inputs), timeout)

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._channel.close()


class HttpTransport:
    """HTTP: connections are kept and shared by the threads."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self.wire: Wire = HttpWire()
        self._inner = AioHttpTransport(address)
        weakref.finalize(self, _leave, self._inner)  # whoever does not close it

    def ask(self, call: Call[_T], timeout: float, stop: Stop | None = None) -> _T:
        """One exchange."""
        return _run(self._inner.ask(call, timeout), stop)

    def infer(self, model: str, inputs: Inputs, timeout: float) -> dict[str, np.ndarray]:
        """One POST, tensors in binary."""
        return self.ask(self.wire.infer(model, inputs), timeout)

    def close(self) -> None:
        """Close the connections."""
        _run(self._inner.close(), None)


def _stoppable(future: Any, stop: Stop | None) -> Any:
    try:
        if stop is None:
            return future.result()
        with stop.ends(future.cancel):
            return future.result()
    except BaseException:  # an interrupt, for one: nobody waits for the answer any more
        future.cancel()
        raise


def _run(work: Coroutine[Any, Any, _T], stop: Stop | None) -> _T:
    try:
        result: _T = _stoppable(asyncio.run_coroutine_threadsafe(work, _background()), stop)
    except asyncio.CancelledError:
        raise ServerUnavailable("the call was cancelled") from None
    return result


def _leave(inner: AioHttpTransport) -> None:
    loop = _loops.get(os.getpid())
    if loop is not None and loop.is_running():
        closed = asyncio.run_coroutine_threadsafe(inner.close(), loop)
        if threading.current_thread().name != _THREAD:  # a garbage collector runs anywhere
            with suppress(Exception):
                closed.result(1)


_THREAD = "sparseinst-http"
_loops: dict[int, asyncio.AbstractEventLoop] = {}
_loops_lock = threading.Lock()


def _background() -> asyncio.AbstractEventLoop:
    """The event loop of this process for HTTP, in a thread of its own; a forked child starts another.

    It polls: what epoll waits for is kept in the kernel and shared with a forked child, who would, by letting go of its
    copies of the connections, make the parent deaf to its own.
    """
    with _loops_lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.SelectorEventLoop(selectors.PollSelector())
            threading.Thread(target=loop.run_forever, name=_THREAD, daemon=True).start()
        return loop
