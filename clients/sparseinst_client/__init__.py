"""Python client of a SparseInst server: pictures in, instances out, over gRPC or HTTP.

Client and errors; `sparseinst_client.draw` paints overlays, `sparseinst_client.cli` is the command line.
"""

from sparseinst_client.client import Client, Health
from sparseinst_client.errors import (
    BadRequest,
    DeadlineExceeded,
    NotServed,
    Overloaded,
    ReplyError,
    ServerFailed,
    ServerUnavailable,
    SparseInstError,
)

__all__ = [
    "BadRequest",
    "Client",
    "DeadlineExceeded",
    "Health",
    "NotServed",
    "Overloaded",
    "ReplyError",
    "ServerFailed",
    "ServerUnavailable",
    "SparseInstError",
]
