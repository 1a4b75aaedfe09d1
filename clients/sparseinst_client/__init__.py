"""Python client of a SparseInst server: pictures in, instances out, over gRPC or HTTP.

Client, AsyncClient and errors; `sparseinst_client.draw` paints overlays, `sparseinst_client.cli` is the command line.
"""

from sparseinst_client.aio import AsyncClient
from sparseinst_client.client import Client
from sparseinst_client.core import Health
from sparseinst_client.errors import (
    BadRequest,
    DeadlineExceeded,
    NotAllowed,
    NotServed,
    Overloaded,
    ReplyError,
    ServerFailed,
    ServerUnavailable,
    SharedMemoryRefused,
    SparseInstError,
)
from sparseinst_runtime.instances import Instances

__all__ = [
    "AsyncClient",
    "BadRequest",
    "Client",
    "DeadlineExceeded",
    "Health",
    "Instances",
    "NotAllowed",
    "NotServed",
    "Overloaded",
    "ReplyError",
    "ServerFailed",
    "ServerUnavailable",
    "SharedMemoryRefused",
    "SparseInstError",
]
