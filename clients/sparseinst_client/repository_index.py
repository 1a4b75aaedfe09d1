"""What a server has in its model repository, over either protocol: names, versions, and whether they are ready."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from sparseinst_client.address import Address
from sparseinst_client.errors import NotServed, ReplyError
from sparseinst_client.transport import connect
from sparseinst_client.wire import Call, Reply

_METHOD = "/inference.GRPCInferenceService/RepositoryIndex"
_PATH = "POST /v2/repository/index"


@dataclass(frozen=True)
class ServedModel:
    """A model in a server's repository.

    Attributes:
        name: of the model.
        version: empty for a model that was never loaded.
        state: READY, UNAVAILABLE, LOADING or UNLOADING, in the server's words; empty where it has none.
        reason: why it is not ready, empty otherwise.
    """

    name: str
    version: str
    state: str
    reason: str

    @property
    def ready(self) -> bool:
        """Whether the server says that it can be asked."""
        return self.state == "READY"


def served_models(address: Address, timeout: float) -> list[ServedModel]:
    """Every model and version in the server's repository, by name and version.

    Args:
        address: of the server.
        timeout: seconds for the call.

    Raises:
        NotAllowed: the server does not let clients see its repository.
        SparseInstError: as `Client.segment`.
    """
    call: Call[list[ServedModel]]
    if address.speaks_grpc:
        body = service_pb2.RepositoryIndexRequest().SerializeToString()
        call = Call(_METHOD, body, _read_grpc)
    else:
        call = Call(_PATH, b"{}", _read_http, {"Content-Type": "application/json"})
    transport = connect(address)
    try:
        found = transport.ask(call, timeout)
    finally:
        transport.close()
    return sorted(found, key=lambda model: (model.name, model.version))


def ready_models(address: Address, names: Iterable[str], timeout: float) -> list[ServedModel]:
    """What a server that hides its repository says of models of these names, in their order.

    Args:
        address: of the server.
        names: of the models; whether one is not ready or not there at all, such a server does not say.
        timeout: seconds for each call.

    Raises:
        SparseInstError: as `Client.segment`.
    """
    transport = connect(address)
    found = []
    try:
        for name in names:
            try:
                ready = transport.ask(transport.wire.model_ready(name), timeout)
            except NotServed:
                ready = False
            found.append(ServedModel(name, "", "READY" if ready else "", "" if ready else "not ready, or not there"))
    finally:
        transport.close()
    return found


def _read_grpc(data: bytes, _reply: Reply) -> list[ServedModel]:
    try:
        models = service_pb2.RepositoryIndexResponse.FromString(data).models
    except DecodeError as error:
        raise ReplyError(f"the reply is no index of a repository: {error}") from error
    return [ServedModel(model.name, model.version, model.state, model.reason) for model in models]


def _read_http(data: bytes, _reply: Reply) -> list[ServedModel]:
    try:
        rows: list[Any] = json.loads(data)
        fields = ("name", "version", "state", "reason")
        return [ServedModel(*(str(row.get(field, "")) for field in fields)) for row in rows]
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ReplyError("the reply is no index of a repository: is it a Triton server?") from error
