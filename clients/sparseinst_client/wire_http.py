"""The calls in HTTP: KServe's protocol, version 2, with Triton's binary tensors behind a JSON header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import numpy as np

from sparseinst_client.errors import ReplyError
from sparseinst_client.wire import (
    MAX_DESCRIPTION,
    MAX_REPLY,
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

_LENGTH = "Inference-Header-Content-Length"
# What a reply of another form than expected raises on the way through it.
_MISFITS = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)


class HttpWire:
    """See `Wire`."""

    def infer(self, model: str, inputs: Inputs) -> Call[dict[str, np.ndarray]]:
        """POST v2/models/M/infer."""
        described, bodies = [], []
        for name, value in inputs.items():
            if isinstance(value, Shared):
                dtype = value.dtype
                where = {"shared_memory_region": value.region, "shared_memory_byte_size": value.size}
            else:
                dtype, data = pack(value)
                where = {"binary_data_size": len(data)}
                bodies.append(data)
            described.append({"name": name, "datatype": dtype, "shape": list(value.shape), "parameters": where})
        header = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        headers = {_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        body = b"".join([header, *bodies])
        return Call(f"POST /v2/models/{quote(model, safe='')}/infer", body, _read_tensors, headers, MAX_REPLY)

    def served(self, model: str) -> Call[Served]:
        """GET v2/models/M/config."""
        return Call(f"GET /v2/models/{quote(model, safe='')}/config", b"", _read_config)

    def server(self) -> Call[str]:
        """GET v2."""
        return Call("GET /v2", b"", _read_server)

    def server_ready(self) -> Call[bool]:
        """GET v2/health/ready."""
        return Call("GET /v2/health/ready", b"", _is_ok, refusals=True)

    def model_ready(self, model: str) -> Call[bool]:
        """GET v2/models/M/ready."""
        return Call(f"GET /v2/models/{quote(model, safe='')}/ready", b"", _is_ok, refusals=True)

    def share(self, region: str, key: str, size: int) -> Call[None]:
        """POST v2/systemsharedmemory/region/R/register."""
        body = json.dumps({"key": key, "offset": 0, "byte_size": size}).encode()
        return Call(f"POST /v2/systemsharedmemory/region/{quote(region, safe='')}/register", body, _nothing)

    def unshare(self, region: str) -> Call[None]:
        """POST v2/systemsharedmemory/region/R/unregister."""
        return Call(f"POST /v2/systemsharedmemory/region/{quote(region, safe='')}/unregister", b"", _nothing)


def refusal(body: bytes) -> str | None:
    """The server's sentence in the body of a status that is no success; None where there is none."""
    try:
        sentence = json.loads(body)["error"]
    except _MISFITS:
        return None
    return sentence if isinstance(sentence, str) else None


def _nothing(_data: bytes, _reply: Reply) -> None:
    return None


def _is_ok(_data: bytes, reply: Reply) -> bool:
    return reply.status == HTTPStatus.OK


def _read_server(data: bytes, _reply: Reply) -> str:
    try:
        server = json.loads(data)
        return f"{server['name']} {server['version']}"
    except _MISFITS as error:
        raise ReplyError("the reply does not say the server's name and version: is it a Triton server?") from error


def _read_config(data: bytes, _reply: Reply) -> Served:
    try:
        config = json.loads(data)
        parameters = {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()}
        inputs, outputs = (
            {str(tensor["name"]): _spec(tensor) for tensor in config[side]} for side in ("input", "output")
        )
        return Served(parameters, int(config["max_batch_size"]), inputs, outputs)
    except _MISFITS as error:
        raise ReplyError("the reply is no configuration of a model: is it a Triton server?") from error


def _spec(tensor: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(tensor["name"]), str(tensor["data_type"]).removeprefix("TYPE_"), shape_of(tensor["dims"]))


def _read_tensors(data: bytes, reply: Reply) -> dict[str, np.ndarray]:
    try:
        length = int(reply.headers[_LENGTH])
    except (KeyError, ValueError) as error:
        raise ReplyError("the reply holds no binary tensors: is it a Triton server?") from error
    if not 0 <= length <= min(len(data), MAX_DESCRIPTION):
        raise ReplyError(f"the reply describes its tensors in {length} bytes of {len(data)}; at most {MAX_DESCRIPTION}")
    tensors, at, view = [], length, memoryview(data)
    try:
        for output in json.loads(data[:length])["outputs"]:
            size = int(output["parameters"]["binary_data_size"])
            if not 0 <= size <= len(data) - at:
                raise ReplyError(f"the reply ends before a tensor of {size} bytes does")
            contents = view[at : at + size]
            tensors.append(Raw(str(output["name"]), str(output["datatype"]), shape_of(output["shape"]), contents))
            at += size
    except _MISFITS as error:
        raise ReplyError("the reply describes its tensors in a way that cannot be read") from error
    if at != len(data):
        raise ReplyError(f"the reply holds {len(data) - at} bytes more than its tensors have")
    return unpack(tensors)
