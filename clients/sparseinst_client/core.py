"""What the blocking and the asyncio client have in common: their settings, and a request's way in and out of a call."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from sparseinst_client.address import Address
from sparseinst_client.pictures import Picture
from sparseinst_client.retry import RETRIES
from sparseinst_runtime.contract import Contract

CONCURRENCY = 64
OnError: TypeAlias = Literal["raise", "yield"]
GREY = np.full((32, 32, 3), 128, np.uint8)  # what `health` sends


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


class ClientSettings:
    """Base of both clients; holds and checks their settings, and lets them travel between processes.

    Args:
        url: `grpc://host:port` or `http://host:port`; with TLS `grpcs://` or `https://`.
        timeout: seconds that one call may take in all, unless the call says otherwise.
        model: the ensemble that takes encoded pictures.
        retries: how often a call asks again, within its timeout, where the server is away or overloaded; 0 for never.
            The pauses grow from a tenth of a second to two seconds, so 20 outlast a server's restart.
        concurrency: pictures or batches under way at a time, at most; further calls wait, within their timeout.
        headers: sent with every request, such as {"Authorization": "Bearer ..."}; over gRPC as metadata.
        ca: PEM file of the authorities that the server's certificate must come from; the usual ones when None.
        certificate: PEM file of a certificate to show to the server.
        key: PEM file of its private key.
        shared_memory: hand pictures over in memory that a server on the same machine maps, where it allows that.

    Raises:
        ValueError, TypeError: a wrong argument; nothing is sent before the first call.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        model: str = "sparseinst",
        retries: int = RETRIES,
        concurrency: int = CONCURRENCY,
        headers: Mapping[str, str] | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        shared_memory: bool = False,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ValueError(f"model is {model!r}; wanted the name of an ensemble, such as 'sparseinst'")
        self._timeout, self._model = seconds(timeout), model
        self._retries = whole("retries", retries, 0)
        self._concurrency = whole("concurrency", concurrency, 1)
        files = (Path(path) if path is not None else None for path in (ca, certificate, key))
        self._address = Address(url, {} if headers is None else headers, *files)
        self._shares = bool(shared_memory)
        self._contract: Contract | None = None
        self._open()

    def _open(self) -> None:
        """Make what the calls need, without a connection yet."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.url!r}, model={self._model!r})"

    def __getstate__(self) -> dict[str, Any]:
        """The settings; connections stay behind, and the copy opens its own."""
        address = self._address
        return {
            "url": address.url,
            "timeout": self._timeout,
            "model": self._model,
            "retries": self._retries,
            "concurrency": self._concurrency,
            "headers": dict(address.headers),
            "ca": address.ca,
            "certificate": address.certificate,
            "key": address.key,
            "shared_memory": self._shares,
        }

    def __setstate__(self, settings: dict[str, Any]) -> None:
        ClientSettings.__init__(self, **settings)

    @property
    def _where(self) -> str:
        return f"{self._model!r} at {self._address.url}"


def seconds(timeout: float) -> float:
    """A checked timeout; raises TypeError or ValueError."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is {timeout!r}; wanted seconds")
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout is {timeout!r}; wanted seconds, more than 0")
    return float(timeout)


def whole(name: str, value: int, least: int) -> int:
    """A checked number of something; raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; wanted a whole number, at least {least}")
    if value < least:
        raise ValueError(f"{name} is {value!r}; wanted a whole number, at least {least}")
    return value


def check_batch(images: Sequence[Picture]) -> None:
    """Refuse what is no list of pictures; raises TypeError."""
    _check_several(images)
    if not isinstance(images, Sequence):
        raise TypeError(f"images is a {type(images).__name__}; wanted a list of pictures, or use stream()")


def check_size(pictures: int, contract: Contract) -> None:
    """Refuse more pictures than a request holds; raises ValueError."""
    if pictures > contract.max_batch_size:
        raise ValueError(f"{pictures} pictures in one request; wanted at most {contract.max_batch_size}")


def optional_inputs(batch: int, score_threshold: float | None, max_instances: int | None) -> dict[str, np.ndarray]:
    """The optional tensors of a request of so many pictures; raises TypeError or ValueError."""
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


def picture_tensor(pictures: Sequence[bytes]) -> np.ndarray:
    """`image` of a request: object [B, 1] of encoded pictures."""
    return np.array(pictures, dtype=np.object_)[:, None]


def check_stream(images: object, in_flight: int, concurrency: int, on_error: str) -> None:
    """Refuse what a stream cannot do; raises TypeError or ValueError."""
    _check_several(images)
    if not isinstance(images, (Iterable, AsyncIterable)):
        raise TypeError(f"images is a {type(images).__name__}; wanted something that gives pictures, such as a list")
    whole("in_flight", in_flight, 1)
    if in_flight > concurrency:
        raise ValueError(f"in_flight is {in_flight}; the client has at most {concurrency} under way (concurrency)")
    if on_error not in {"raise", "yield"}:
        raise ValueError(f"on_error is {on_error!r}; wanted 'raise' or 'yield'")


def _check_several(images: object) -> None:
    """Refuse one picture where several belong: text and bytes would be taken for a list of letters."""
    if isinstance(images, (str, bytes, bytearray, memoryview, Path, np.ndarray)):
        raise TypeError(f"images is one {type(images).__name__}; wanted a list of pictures, or use segment()")
