"""The client: pictures in, Instances out, whatever the protocol.

    with Client("grpc://127.0.0.1:8001") as client:
        instances = client.segment("picture.jpg")
        names = [client.classes[label] for label in instances.labels]

The class names come from the server, with the contract of the model that it serves.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from sparseinst_client.errors import ReplyError, SparseInstError
from sparseinst_client.pictures import Picture, display_size, encoded
from sparseinst_client.reply import read_reply
from sparseinst_client.retry import RETRIES, Attempts, persist
from sparseinst_client.transport import connect
from sparseinst_runtime.contract import Contract, ContractError
from sparseinst_runtime.instances import Instances


@dataclass(frozen=True)
class Health:
    """What a server says of itself and what a real picture through it says.

    Attributes:
        server: its name and version, "triton 2.51.0".
        model: the model that was asked for.
        ready: what the server claims about itself and the model.
        answers: whether a picture sent through the model came back with a valid reply. This is the one to trust: a
            Triton whose Python backend died goes on to claim that it is ready.
        seconds: how long that took.
        problem: why there is no answer, else empty.
    """

    server: str
    model: str
    ready: bool
    answers: bool
    seconds: float
    problem: str = ""


class Client:
    """A connection to one model of one server.

    Over gRPC threads may share a client; over HTTP each thread needs its own.

    Args:
        url: `grpc://host:port` or `http://host:port`.
        timeout: seconds that one call may take in all, unless the call says otherwise.
        model: the ensemble that takes encoded pictures.
        retries: how often a call asks again, within its timeout, where the server is away or overloaded; 0 for never.
            The pauses grow from a tenth of a second to two seconds, so 20 outlast a server's restart.

    Raises:
        ValueError, TypeError: a wrong argument; nothing is sent before the first call.
    """

    def __init__(self, url: str, *, timeout: float = 30.0, model: str = "sparseinst", retries: int = RETRIES) -> None:
        self._timeout = _seconds(timeout)
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise TypeError(f"retries is {retries!r}; wanted a number of further attempts, 0 for none")
        if retries < 0:
            raise ValueError(f"retries is {retries!r}; wanted 0 or more further attempts")
        self._retries = retries
        if not isinstance(model, str) or not model:
            raise ValueError(f"model is {model!r}; wanted the name of an ensemble, such as 'sparseinst'")
        self._model = model
        self._transport = connect(url)
        self._contract: Contract | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; later calls raise RuntimeError."""
        if not self._closed.is_set():
            self._closed.set()
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
            ServerUnavailable, DeadlineExceeded, Overloaded, ServerFailed, ReplyError: as their names say.
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
                says which one it is.
            score_threshold: for all pictures.
            max_instances: for each picture.
            timeout: seconds for the whole call.

        Returns:
            One Instances for each picture, in order.
        """
        deadline = time.monotonic() + self._limit(timeout)
        options = _optional_inputs(len(images), score_threshold, max_instances)
        return self._segment(images, options, Attempts(self._retries, deadline))

    def contract(self, *, timeout: float | None = None) -> Contract:
        """The contract of the model that is served: classes, sizes, thresholds. Asked for once, then remembered.

        Raises:
            ReplyError: the model's configuration holds no valid contract.
        """
        return self._agreed(Attempts(self._retries, time.monotonic() + self._limit(timeout)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, from the server."""
        return self.contract().classes

    def ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server says that it and the model are ready; `health` finds out whether that is true.

        Raises:
            ServerUnavailable, DeadlineExceeded: nobody answers.
        """
        return self._transport.ready(self._model, self._limit(timeout))

    def health(self, *, timeout: float | None = None) -> Health:
        """Ask the server how it is and send a small grey picture all the way through.

        Raises:
            ServerUnavailable, DeadlineExceeded: nobody answers. A server that answers without serving the model is
                not an error here: see `Health.answers`.
        """
        limit = self._limit(timeout)
        server, ready = self._transport.server(limit), self._transport.ready(self._model, limit)
        start, problem = time.monotonic(), ""
        try:
            self._segment([np.full((32, 32, 3), 128, np.uint8)], {}, Attempts(0, start + limit))
        except SparseInstError as error:
            problem = str(error)
        return Health(server, self._model, ready, not problem, time.monotonic() - start, problem)

    def _segment(
        self, images: Sequence[Picture], options: Mapping[str, np.ndarray], attempts: Attempts
    ) -> list[Instances]:
        if isinstance(images, (str, bytes, np.ndarray)):
            raise TypeError(f"images is one {type(images).__name__}; wanted a list of pictures, or use segment()")
        if not images:
            return []
        contract = self._agreed(attempts)
        if len(images) > contract.max_batch_size:
            raise ValueError(f"{len(images)} pictures in one request; wanted at most {contract.max_batch_size}")
        data = [encoded(image) for image in images]
        inputs = {**options, "image": np.array(data, dtype=np.object_)[:, None]}
        tensors = persist(lambda left: self._transport.infer(self._model, inputs, left), attempts, self._closed)
        return read_reply(tensors, [display_size(picture) for picture in data], contract)

    def _agreed(self, attempts: Attempts) -> Contract:
        if self._contract is None:
            parameters = persist(lambda left: self._transport.parameters(self._model, left), attempts, self._closed)
            text = parameters.get("contract")
            if text is None:
                where = f"the configuration of {self._model!r} at {self._transport.url}"
                raise ReplyError(f"{where} holds no contract; assemble its repository with sparseinst-export")
            try:
                self._contract = Contract.from_json(text, source=f"the contract from {self._transport.url}")
            except ContractError as error:
                raise ReplyError(str(error)) from error
        return self._contract

    def _limit(self, timeout: float | None) -> float:
        if self._closed.is_set():
            raise RuntimeError("this client is closed; make a new one")
        return self._timeout if timeout is None else _seconds(timeout)


def _seconds(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {timeout!r}; wanted seconds")
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout is {timeout!r}; wanted seconds, more than 0")
    return float(timeout)


def _optional_inputs(batch: int, score_threshold: float | None, max_instances: int | None) -> dict[str, np.ndarray]:
    inputs = {}
    if score_threshold is not None:
        if isinstance(score_threshold, bool) or not isinstance(score_threshold, (int, float, np.floating)):
            raise TypeError(f"score_threshold is {score_threshold!r}; wanted a number in [0, 1]")
        if not 0 <= score_threshold <= 1:  # NaN is in no interval
            raise ValueError(f"score_threshold is {score_threshold!r}; wanted a number in [0, 1]")
        inputs["score_threshold"] = np.full((batch, 1), score_threshold, np.float32)
    if max_instances is not None:
        if isinstance(max_instances, bool) or not isinstance(max_instances, (int, np.integer)):
            raise TypeError(f"max_instances is {max_instances!r}; wanted an integer, at least 1")
        if not 1 <= max_instances <= np.iinfo(np.int32).max:
            raise ValueError(f"max_instances is {max_instances!r}; wanted at least 1, at most 2^31 - 1")
        inputs["max_instances"] = np.full((batch, 1), max_instances, np.int32)
    return inputs
