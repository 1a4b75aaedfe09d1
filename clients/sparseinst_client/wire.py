"""What travels between a client and Triton, whatever carries it: a call as bytes, its reply as checked arrays.

Nothing here opens a connection. `wire_grpc` and `wire_http` spell the calls for their protocol; both read replies of
strangers, and say no while a reply is still no more than the bytes that came.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from sparseinst_client.errors import ReplyError
from sparseinst_runtime.contract import TensorSpec

MAX_REPLY = 64 * 2**20  # bytes; a batch of eight with a hundred ragged masks each stays well below
MAX_SMALL = 2**20  # bytes of every other reply; a contract of a thousand classes is a twentieth of it
MAX_DESCRIPTION = 2**16  # bytes that describe the tensors of a reply; six take less than a thousand
MAX_TENSORS = 64
MAX_STRINGS = 2**16  # in one tensor: an empty one costs 4 bytes on the way and 16 here
_DTYPES = {"FP32": np.float32, "INT32": np.int32, "UINT8": np.uint8, "BYTES": np.object_}

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """A tensor that lies in memory that the server sees, too, instead of travelling.

    Attributes:
        region: the name under which the server knows that memory.
        size: bytes that the tensor takes from its start.
        dtype: Triton's name, "BYTES".
        shape: with the batch dimension.
    """

    region: str
    size: int
    dtype: str
    shape: tuple[int, ...]


Inputs: TypeAlias = Mapping[str, "np.ndarray | Shared"]


@dataclass(frozen=True)
class Served:
    """What a server says of a model.

    Attributes:
        parameters: of its configuration.
        max_batch_size: pictures in a request, at most.
        inputs: name, dtype and shape without the batch dimension, by name; -1 stands for any length.
        outputs: likewise.
    """

    parameters: Mapping[str, str]
    max_batch_size: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class Call(Generic[T]):
    """One question.

    Attributes:
        target: the gRPC method, or HTTP's verb and path.
        body: what is sent.
        read: makes the answer of the reply's bytes and headers.
        headers: of the request; HTTP only.
        limit: bytes of the reply, at most.
        refusals: read the reply whatever its status says; HTTP only.
    """

    target: str
    body: bytes
    read: Callable[[bytes, Reply], T]
    headers: Mapping[str, str] = field(default_factory=dict)
    limit: int = MAX_SMALL
    refusals: bool = False


@dataclass(frozen=True)
class Reply:
    """What came with a reply's body; gRPC has a status of its own and passes 200."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Wire(Protocol):
    """The calls of one protocol."""

    def infer(self, model: str, inputs: Inputs) -> Call[dict[str, np.ndarray]]:
        """Run a model on arrays with a leading batch dimension; gives every output by its name."""

    def served(self, model: str) -> Call[Served]:
        """A model's configuration."""

    def server(self) -> Call[str]:
        """Name and version of the server, "triton 2.51.0"."""

    def server_ready(self) -> Call[bool]:
        """Whether the server says that it is ready."""

    def model_ready(self, model: str) -> Call[bool]:
        """Whether it says so of a model, which may claim it although its backend died."""

    def share(self, region: str, key: str, size: int) -> Call[None]:
        """Have the server map the system shared memory `key`, of `size` bytes."""

    def unshare(self, region: str) -> Call[None]:
        """Have the server forget it."""


def pack(array: np.ndarray) -> tuple[str, bytes]:
    """Triton's name of an array's dtype, and its bytes as they travel."""
    dtype = np_to_triton_dtype(array.dtype)
    if dtype is None:
        raise TypeError(f"an array of {array.dtype} cannot be sent")
    if dtype != "BYTES":
        return dtype, np.ascontiguousarray(array).tobytes()
    return dtype, serialize_byte_tensor(array).item() if array.size else b""


@dataclass(frozen=True)
class Raw:
    """A tensor of a reply as it came."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def unpack(tensors: Iterable[Raw]) -> dict[str, np.ndarray]:
    """The arrays of a reply, by name; numbers as views of the reply, strings as an object array of bytes.

    Raises:
        ReplyError: a tensor whose bytes are not what its dtype and shape say; before memory is taken for it.
    """
    arrays: dict[str, np.ndarray] = {}
    for tensor in tensors:
        what = f"{tensor.name[:40]!r} as {tensor.dtype[:40]} {list(tensor.shape[:8])}"
        if tensor.name in arrays or len(arrays) == MAX_TENSORS:
            raise ReplyError(f"the reply holds {what} twice, or more than {MAX_TENSORS} tensors")
        dtype = _DTYPES.get(tensor.dtype)
        if dtype is None or len(tensor.shape) > 8 or any(side < 0 for side in tensor.shape):
            raise ReplyError(f"the reply holds {what}; wanted one of {', '.join(_DTYPES)} with sides of 0 or more")
        count = math.prod(tensor.shape)
        if dtype is np.object_:
            arrays[tensor.name] = _strings(tensor, count, what)
            continue
        if count * np.dtype(dtype).itemsize != len(tensor.data):
            raise ReplyError(f"the reply holds {what} in {len(tensor.data)} bytes, which do not fit")
        arrays[tensor.name] = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    return arrays


def _strings(tensor: Raw, count: int, what: str) -> np.ndarray:
    """Each string is its length in four bytes, lowest first, and then itself."""
    data, at = tensor.data, 0
    if count > MAX_STRINGS or 4 * count > len(data):
        raise ReplyError(f"the reply holds {what} in {len(data)} bytes; wanted at most {MAX_STRINGS} strings")
    strings = np.empty(count, np.object_)
    for index in range(count):
        if at + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, at)
        at += 4 + length
        if at > len(data):
            break
        strings[index] = bytes(data[at - length : at])
    else:
        if at == len(data):
            return strings.reshape(tensor.shape)
    raise ReplyError(f"the reply holds {what} in {len(data)} bytes that are not so many strings")


def shape_of(value: Any) -> tuple[int, ...]:
    """A shape from a reply; numbers that JSON spells as text are taken, too.

    Raises:
        TypeError, ValueError: it is none.
    """
    sides = tuple(int(side) for side in value)
    if not all(-(2**31) <= side < 2**31 for side in sides):
        raise ValueError(f"a side is none: {sides[:8]}")
    return sides
