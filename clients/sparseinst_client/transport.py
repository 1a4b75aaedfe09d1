"""The two ways to a Triton server, gRPC and HTTP, behind one small interface of named arrays.

Every call has a deadline in seconds that covers all of it, and raises nothing but SparseInstError for what a server,
or the way to it, can cause.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import gevent
import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from sparseinst_client.errors import DeadlineExceeded, ReplyError, ServerUnavailable, from_status

MAX_REPLY_BYTES = 64 * 2**20  # a batch of eight with a hundred ragged masks each stays well below

# Pictures go out whatever their size: the server has the limits. The ping finds connections that a NAT dropped, and is
# rare enough for a server's default patience (two pings without data). Where nobody listened, a channel tries again as
# soon as our retries ask it to: gRPC's own pauses, of seconds, would let them fail without a look.
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 2),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

_T = TypeVar("_T")


class Transport(Protocol):
    """Calls to one server; `url` names it in messages."""

    url: str

    def infer(self, model: str, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """Run a model on arrays with a leading batch dimension; gives every output by its name."""

    def parameters(self, model: str, timeout: float) -> dict[str, str]:
        """The `parameters` of a model's configuration."""

    def server(self, timeout: float) -> str:
        """Name and version of the server, "triton 2.51.0"."""

    def ready(self, model: str, timeout: float) -> bool:
        """Whether server and model say that they are ready."""

    def close(self) -> None:
        """Close the connection; the transport cannot be used afterwards."""


def connect(url: str) -> Transport:
    """The transport for `grpc://host:port` or `http://host:port`; opens no connection yet.

    Raises:
        ValueError: the address has another form.
    """
    wanted = "wanted grpc://host:port (Triton's default port: 8001) or http://host:port (8000)"
    if not isinstance(url, str):
        raise TypeError(f"url is {url!r}; {wanted}")
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port is not None and "@" not in parts.netloc
    except ValueError as error:
        raise ValueError(f"url is {url!r} ({error}); {wanted}") from error
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in {"grpc", "http"} or not complete or extra:
        raise ValueError(f"url is {url!r}; {wanted}")
    return (GrpcTransport if parts.scheme == "grpc" else HttpTransport)(f"{parts.scheme}://{parts.netloc}")


class GrpcTransport:
    """gRPC; threads may share it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = tritonclient.grpc.InferenceServerClient(urlsplit(url).netloc, channel_args=_CHANNEL)

    def infer(self, model: str, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """One ModelInfer call."""
        tensors = _fill(tritonclient.grpc.InferInput, inputs)
        result = self._ask(lambda: self._client.infer(model, tensors, client_timeout=timeout))
        return _read(self.url, result, lambda: [output.name for output in result.get_response().outputs])

    def parameters(self, model: str, timeout: float) -> dict[str, str]:
        """From the model's configuration."""
        reply = self._ask(lambda: self._client.get_model_config(model, client_timeout=timeout))
        return {key: value.string_value for key, value in reply.config.parameters.items()}

    def server(self, timeout: float) -> str:
        """From the server's metadata."""
        reply = self._ask(lambda: self._client.get_server_metadata(client_timeout=timeout))
        return f"{reply.name} {reply.version}"

    def ready(self, model: str, timeout: float) -> bool:
        """The protocol's own readiness; a model whose backend died may still claim it."""
        server_ready = self._ask(lambda: self._client.is_server_ready(client_timeout=timeout))
        return bool(server_ready and self._ask(lambda: self._client.is_model_ready(model, client_timeout=timeout)))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _ask(self, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except InferenceServerException as error:
            raise from_status(error.status(), error.message(), self.url) from None


class HttpTransport:
    """HTTP; belongs to the thread that made it, because the sockets underneath belong to that thread's event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._thread = threading.get_ident()
        self._client = self._open()

    def infer(self, model: str, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """One POST, tensors in binary."""
        tensors = _fill(tritonclient.http.InferInput, inputs)
        result = self._ask(lambda: self._client.infer(model, tensors), timeout)
        return _read(self.url, result, lambda: [output["name"] for output in result.get_response()["outputs"]])

    def parameters(self, model: str, timeout: float) -> dict[str, str]:
        """From the model's configuration."""
        config = self._ask(lambda: self._client.get_model_config(model), timeout)
        try:
            return {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()}
        except (AttributeError, KeyError, TypeError) as error:
            raise ReplyError(f"{self.url} sent a configuration of {model!r} that cannot be read") from error

    def server(self, timeout: float) -> str:
        """From the server's metadata."""
        reply = self._ask(self._client.get_server_metadata, timeout)
        try:
            return f"{reply['name']} {reply['version']}"
        except (KeyError, TypeError) as error:
            raise ReplyError(f"{self.url} does not say its name and version: is it a Triton server?") from error

    def ready(self, model: str, timeout: float) -> bool:
        """The protocol's own readiness; a model whose backend died may still claim it."""

        def ask() -> bool:
            return bool(self._client.is_server_ready() and self._client.is_model_ready(model))

        return self._ask(ask, timeout)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _open(self) -> Any:
        # No time limit on the sockets: `_ask` limits the whole call, a server that drips bytes included.
        netloc = urlsplit(self.url).netloc
        return tritonclient.http.InferenceServerClient(netloc, connection_timeout=None, network_timeout=None)

    def _ask(self, call: Callable[[], _T], timeout: float) -> _T:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "an HTTP client works in the thread that made it; make one for each thread, or use grpc://"
            )
        deadline = gevent.Timeout(timeout)
        try:
            with deadline:
                return call()
        except InferenceServerException as error:
            raise from_status(error.status(), error.message(), self.url) from None
        except gevent.Timeout as expired:
            self._renew()
            if expired is not deadline:
                raise
            raise DeadlineExceeded(f"no reply from {self.url} within {timeout:g} s") from None
        except OSError as error:
            self._renew()
            raise ServerUnavailable(f"{self.url} cannot be reached: {error}") from error
        except Exception as error:
            # What is left is a reply that tritonclient choked on: not HTTP, not JSON, sizes that do not add up.
            self._renew()
            raise ReplyError(f"{self.url} sent a reply that cannot be read: {error}") from error
        except BaseException:
            self._renew()
            raise

    def _renew(self) -> None:
        # A call that was cut off may leave its connection taken, and there is only one.
        self._client.close()
        self._client = self._open()


def _fill(tensor_type: Any, inputs: Mapping[str, np.ndarray]) -> list[Any]:
    tensors = []
    for name, array in inputs.items():
        tensor = tensor_type(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    return tensors


def _read(url: str, result: Any, names: Callable[[], list[str]]) -> dict[str, np.ndarray]:
    try:
        return {name: result.as_numpy(name) for name in names()}
    except Exception as error:
        # tritonclient trusts shapes, dtypes and sizes of a reply and fails in as many ways as they can be wrong.
        raise ReplyError(f"{url} sent a reply whose tensors do not fit their own description: {error}") from error
