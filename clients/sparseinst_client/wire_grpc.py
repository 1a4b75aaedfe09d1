"""The calls in gRPC: KServe's protocol, version 2, from tritonclient's protocol buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import model_config_pb2, service_pb2

from sparseinst_client.errors import ReplyError
from sparseinst_client.wire import (
    MAX_DESCRIPTION,
    MAX_REPLY,
    MAX_TENSORS,
    Call,
    Inputs,
    Raw,
    Reply,
    Served,
    Shared,
    pack,
    shape_of,
    unpack,
)
from sparseinst_runtime.contract import TensorSpec

_RAW_FIELD = 6  # raw_output_contents of ModelInferResponse
_T = TypeVar("_T")


class GrpcWire:
    """See `Wire`."""

    def infer(self, model: str, inputs: Inputs) -> Call[dict[str, np.ndarray]]:
        """ModelInfer."""
        request = service_pb2.ModelInferRequest(model_name=model)
        for name, value in inputs.items():
            tensor = request.inputs.add(name=name, shape=value.shape)
            if isinstance(value, Shared):
                tensor.datatype = value.dtype
                tensor.parameters["shared_memory_region"].string_param = value.region
                tensor.parameters["shared_memory_byte_size"].int64_param = value.size
            else:
                tensor.datatype, data = pack(value)
                request.raw_input_contents.append(data)
        return Call(_method("ModelInfer"), request.SerializeToString(), _read_tensors, limit=MAX_REPLY)

    def served(self, model: str) -> Call[Served]:
        """ModelConfig."""
        return _call("ModelConfig", service_pb2.ModelConfigRequest(name=model), "ModelConfigResponse", _read_config)

    def server(self) -> Call[str]:
        """ServerMetadata."""
        request = service_pb2.ServerMetadataRequest()
        return _call("ServerMetadata", request, "ServerMetadataResponse", lambda reply: f"{reply.name} {reply.version}")

    def server_ready(self) -> Call[bool]:
        """ServerReady."""
        return _call("ServerReady", service_pb2.ServerReadyRequest(), "ServerReadyResponse", lambda reply: reply.ready)

    def model_ready(self, model: str) -> Call[bool]:
        """ModelReady."""
        request = service_pb2.ModelReadyRequest(name=model)
        return _call("ModelReady", request, "ModelReadyResponse", lambda reply: reply.ready)

    def share(self, region: str, key: str, size: int) -> Call[None]:
        """SystemSharedMemoryRegister."""
        request = service_pb2.SystemSharedMemoryRegisterRequest(name=region, key=key, offset=0, byte_size=size)
        return Call(_method("SystemSharedMemoryRegister"), request.SerializeToString(), _nothing)

    def unshare(self, region: str) -> Call[None]:
        """SystemSharedMemoryUnregister."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=region)
        return Call(_method("SystemSharedMemoryUnregister"), request.SerializeToString(), _nothing)


def _method(name: str) -> str:
    return f"/inference.GRPCInferenceService/{name}"


def _call(name: str, request: Message, reply: str, read: Callable[[Any], _T]) -> Call[_T]:
    kind = getattr(service_pb2, reply)
    return Call(_method(name), request.SerializeToString(), lambda data, _: read(_parse(kind, data)))


def _nothing(_data: bytes, _reply: Reply) -> None:
    return None


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise ReplyError(f"the reply is no {kind.__name__}: {error}") from error


def _read_config(reply: Any) -> Served:
    config = reply.config
    return Served(
        {key: value.string_value for key, value in config.parameters.items()},
        config.max_batch_size,
        {tensor.name: _spec(tensor) for tensor in config.input},
        {tensor.name: _spec(tensor) for tensor in config.output},
    )


def _spec(tensor: Any) -> TensorSpec:
    known = model_config_pb2.DataType.DESCRIPTOR.values_by_number
    dtype = known[tensor.data_type].name if tensor.data_type in known else f"TYPE_{tensor.data_type}"
    return TensorSpec(tensor.name, dtype.removeprefix("TYPE_"), tuple(tensor.dims))


def _read_tensors(data: bytes, _reply: Reply) -> dict[str, np.ndarray]:
    _check_parts(data)
    reply = _parse(service_pb2.ModelInferResponse, data)
    if len(reply.outputs) != len(reply.raw_output_contents):
        got = f"{len(reply.outputs)} tensors and the contents of {len(reply.raw_output_contents)}"
        raise ReplyError(f"the reply describes {got}; wanted as many")
    try:
        return unpack(
            Raw(output.name, output.datatype, shape_of(output.shape), memoryview(contents))
            for output, contents in zip(reply.outputs, reply.raw_output_contents, strict=True)
        )
    except ValueError as error:
        raise ReplyError(f"the reply describes a tensor that cannot be: {error}") from error


def _check_parts(data: bytes) -> None:
    """Look at the outermost fields of a ModelInferResponse before it is parsed.

    Parsed, a field of two bytes may take fifty; contents of tensors alone take what they have. So these may be large,
    and everything else together may not.
    """
    at, described, contents = 0, 0, 0
    while at < len(data):
        tag, begin = _varint(data, at)
        length, begin = _varint(data, begin)
        at = begin + length
        if tag >> 3 == _RAW_FIELD:
            contents += 1
        else:
            described += length + 2
        if tag & 7 != 2 or at > len(data):  # every field of it is delimited by its length
            raise ReplyError("the reply is no ModelInferResponse")
        if contents > MAX_TENSORS or described > MAX_DESCRIPTION:
            wanted = f"at most {MAX_TENSORS} tensors, described in {MAX_DESCRIPTION} bytes"
            raise ReplyError(f"the reply describes more than a model of ours gives; wanted {wanted}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of protocol buffers in seven bits a byte, lowest first, and where it ends."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ReplyError("the reply is no ModelInferResponse")
