"""The client: pictures in, Instances out, whatever the protocol. `AsyncClient` is its twin for asyncio.

    with Client("grpc://127.0.0.1:8001") as client:
        instances = client.segment("picture.jpg")
        names = [client.classes[label] for label in instances.labels]

The class names come from the server, with the contract of the model that it serves.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import numpy as np

from sparseinst_client.agreement import agree
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
from sparseinst_client.pictures import Picture, display_size, encoded
from sparseinst_client.reply import read_reply
from sparseinst_client.retry import Attempts, persist
from sparseinst_client.shared_memory import Region, Regions, forgotten, refused, unshare
from sparseinst_client.stream import in_order
from sparseinst_client.transport import Stop, connect
from sparseinst_client.wire import Call
from sparseinst_runtime.contract import Contract
from sparseinst_runtime.instances import Instances

_T = TypeVar("_T")
_GOODBYE = 2.0  # seconds for the server to forget shared memory, when the client closes


class Client(ClientSettings):
    """A connection to one model of one server; threads may share it.

    `ClientSettings` tells of the arguments. A client can be pickled: the copy has its settings, headers among them, and
    opens connections of its own.
    """

    def _open(self) -> None:
        self._transport = connect(self._address)
        self._regions = Regions() if self._shares else None
        self._slots = threading.BoundedSemaphore(self._concurrency)
        self._stop = Stop()
        self._streams: weakref.WeakSet[Stop] = weakref.WeakSet()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with ServerUnavailable, later ones raise RuntimeError."""
        if self._stop.is_set():
            return
        for stop in (self._stop, *self._streams):
            stop.set()
        goodbye = Attempts(0, time.monotonic() + _GOODBYE)
        for region in self._regions.clear() if self._regions is not None else ():
            with suppress(SparseInstError):  # the memory is gone from this side; the server may be gone, too
                unshare(self._transport, region, goodbye)
        self._transport.close()

    def segment(
        self,
        image: Picture,
        *,
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> Instances:
        """The instances in one picture, best score first, in the picture's own pixels.

        Args:
            image: path of a JPEG, PNG or WebP file; or the bytes of one; or RGB pixels uint8 [H,W,3].
            score_threshold: instances at or below it are left out, in [0, 1]; the model's own when None.
            max_instances: the best so many, at least 1; all when None.
            timeout: seconds for the whole call; the client's own when None.

        Raises:
            ValueError, TypeError, OSError: an argument is wrong or the file cannot be read; nothing was sent.
            BadRequest: the server refused the picture or a value, in its own words.
            ServerUnavailable, DeadlineExceeded, Overloaded, NotAllowed, SharedMemoryRefused, ServerFailed, ReplyError:
                as their names say.
        """
        return self.segment_batch(
            [image], score_threshold=score_threshold, max_instances=max_instances, timeout=timeout
        )[0]

    def segment_batch(
        self,
        images: Sequence[Picture],
        *,
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> list[Instances]:
        """The instances of several pictures, of any sizes, in one request; arguments and errors as for `segment`.

        Args:
            images: at most `contract().max_batch_size` pictures. One bad picture fails the request, and the message
                says which one it is; `stream` keeps the others.
            score_threshold: for all pictures.
            max_instances: for each picture.
            timeout: seconds for the whole call.

        Returns:
            One Instances for each picture, in order.
        """
        check_batch(images)
        options = optional_inputs(len(images), score_threshold, max_instances)
        attempts = Attempts(self._retries, time.monotonic() + self._limit(timeout))
        return self._segment(images, options, attempts, self._stop)

    @overload
    def stream(
        self,
        images: Iterable[Picture],
        *,
        in_flight: int = ...,
        on_error: Literal["raise"] = ...,
        score_threshold: float | None = ...,
        max_instances: int | None = ...,
        timeout: float | None = ...,
    ) -> Iterator[Instances]: ...

    @overload
    def stream(
        self,
        images: Iterable[Picture],
        *,
        in_flight: int = ...,
        on_error: Literal["yield"],
        score_threshold: float | None = ...,
        max_instances: int | None = ...,
        timeout: float | None = ...,
    ) -> Iterator[Instances | Exception]: ...

    def stream(
        self,
        images: Iterable[Picture],
        *,
        in_flight: int = 8,
        on_error: OnError = "raise",
        score_threshold: float | None = None,
        max_instances: int | None = None,
        timeout: float | None = None,
    ) -> Iterator[Any]:
        """The instances of any number of pictures, one after the other in their order, several under way at a time.

        Args:
            images: the source; no more than `in_flight` pictures are taken from it ahead of the results.
            in_flight: pictures under way at a time, at most; no more than the client's `concurrency`.
            on_error: "raise" ends the stream with the first picture that fails; "yield" gives its error in its place,
                an exception among the Instances, and goes on. An error of the source itself always ends the stream,
                after the pictures before it.
            score_threshold: for all pictures.
            max_instances: for each picture.
            timeout: seconds for each picture.

        Returns:
            An iterator. Closing it, as leaving a `for` loop does, ends the calls under way.
        """
        check_stream(images, in_flight, self._concurrency, on_error)
        options = optional_inputs(1, score_threshold, max_instances)
        limit, stop = self._limit(timeout), Stop()
        self._streams.add(stop)

        def segment(image: Picture) -> Instances:
            self._limit(None)
            return self._segment([image], options, Attempts(self._retries, time.monotonic() + limit), stop)[0]

        return in_order(segment, images, in_flight, on_error, stop)

    def contract(self, *, timeout: float | None = None) -> Contract:
        """The contract of the model that is served: classes, sizes, thresholds. Asked for once, then remembered.

        Raises:
            ReplyError: the model's configuration holds no valid contract, or other tensors than this client's.
        """
        return self._agreed(Attempts(self._retries, time.monotonic() + self._limit(timeout)), self._stop)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, from the server."""
        return self.contract().classes

    def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it and the model are ready; `health` finds out whether that is true.

        Raises:
            ServerUnavailable, DeadlineExceeded: nobody answers.
        """
        return self._ready(Attempts(0, time.monotonic() + self._limit(timeout)))

    def health(self, *, timeout: float | None = None) -> Health:
        """Ask the server how it is and send a small grey picture all the way through, without retries.

        Raises:
            ServerUnavailable, DeadlineExceeded: nobody answers. A server that answers without serving the model is
                not an error here: see `Health.answers`.
        """
        attempts = Attempts(0, time.monotonic() + self._limit(timeout))
        server = self._ask(self._transport.wire.server(), attempts)
        ready = self._ready(attempts)
        start, problem = time.monotonic(), ""
        try:
            self._segment([GREY], {}, attempts, self._stop)
        except SparseInstError as error:
            problem = str(error)
        return Health(server, self._model, ready, not problem, time.monotonic() - start, problem)

    def _segment(
        self, images: Sequence[Picture], options: Mapping[str, np.ndarray], attempts: Attempts, stop: Stop
    ) -> list[Instances]:
        if not images:
            return []
        contract = self._agreed(attempts, stop)
        check_size(len(images), contract)
        data = [encoded(image) for image in images]
        pictures, wire = picture_tensor(data), self._transport.wire
        if self._regions is None:
            call = wire.infer(self._model, {**options, "image": pictures})
            tensors = persist(lambda left: self._infer(call, left, stop), attempts, stop)
        else:
            with self._regions.lend(pictures) as (region, shared):
                call = wire.infer(self._model, {**options, "image": shared})
                tensors = persist(lambda left: self._infer_shared(call, left, stop, region), attempts, stop)
        return read_reply(tensors, [display_size(picture) for picture in data], contract)

    def _infer(self, call: Call[_T], left: float, stop: Stop) -> _T:
        with self._slot(left) as rest:
            return self._call(call, rest, stop)

    def _call(self, call: Call[_T], left: float, stop: Stop) -> _T:
        """One attempt; closing the client ends all of them by itself."""
        return self._transport.ask(call, left, stop if stop is not self._stop else None)

    def _infer_shared(self, call: Call[_T], left: float, stop: Stop, region: Region) -> _T:
        if not region.registered:
            try:
                self._call(self._transport.wire.share(region.name, region.key, region.size), left, stop)
            except SparseInstError as error:
                raise refused(error, self._transport.url) from error
            region.registered = True
        try:
            return self._infer(call, left, stop)
        except (BadRequest, NotServed) as error:
            raise forgotten(error, region) from error

    @contextmanager
    def _slot(self, left: float) -> Iterator[float]:
        """One of the places for calls under way; gives the seconds that are left."""
        deadline = time.monotonic() + left
        if not self._slots.acquire(timeout=left):
            raise DeadlineExceeded(f"{self._concurrency} calls were under way (concurrency), none ended in {left:g} s")
        try:
            yield max(deadline - time.monotonic(), 1e-3)
        finally:
            self._slots.release()

    def _agreed(self, attempts: Attempts, stop: Stop) -> Contract:
        if self._contract is None:
            call = self._transport.wire.served(self._model)
            served = persist(lambda left: self._call(call, left, stop), attempts, stop)
            self._contract = agree(served, self._where)
        return self._contract

    def _ready(self, attempts: Attempts) -> bool:
        wire = self._transport.wire
        return self._ask(wire.server_ready(), attempts) and self._ask(wire.model_ready(self._model), attempts)

    def _ask(self, call: Call[_T], attempts: Attempts) -> _T:
        return persist(lambda left: self._transport.ask(call, left), attempts, self._stop)

    def _limit(self, timeout: float | None) -> float:
        if self._stop.is_set():
            raise RuntimeError("this client is closed; make a new one")
        return self._timeout if timeout is None else seconds(timeout)
