"""What can go wrong between a client and its server, one class for each thing that a caller may do about it.

`from_status` is the only place that knows how gRPC and HTTP spell these; nothing of tritonclient reaches a caller.
"""

# ruff: noqa: N818 - errors.DeadlineExceeded needs no second "Error" to be understood

from __future__ import annotations

import re

from sparseinst_runtime.backlog import BUSY


class SparseInstError(Exception):
    """Base of every error that a server, or the way to it, can cause; the message is a sentence for people."""


class ServerUnavailable(SparseInstError):
    """Nobody answers at the address, or the model is not loaded there; trying again later may help."""


class NotServed(ServerUnavailable):
    """The server does not know the model: its name is wrong, or it was unloaded."""


class DeadlineExceeded(SparseInstError):
    """No complete reply within the time that the caller gave."""


class Overloaded(SparseInstError):
    """The server's queue is full: wait and try again, more slowly."""


class BadRequest(SparseInstError):
    """The server refused this request, in the server's own words; the same request will be refused again."""


class NotAllowed(SparseInstError):
    """The server wants other headers, or a certificate, for this, or does not do it for anybody."""


class ServerFailed(SparseInstError):
    """The server broke while it worked on the request; its log knows more."""


class SharedMemoryRefused(SparseInstError):
    """The server does not read pictures from memory that it shares with the client."""


class ReplyError(SparseInstError):
    """A reply that does not keep the contract: never used, nothing of it is returned."""


# What Triton puts before a sentence of ours on its way out of an ensemble.
_PREFIX = re.compile(r"^(in ensemble '[^']*', |\[request id: [^\]]*\] ?)+")

# UNAVAILABLE of a server that is there and does not take more: Triton's queue is full, its limit passed, or ours did.
_REFUSALS = ("queue size", "timeout expired", BUSY)

# What gRPC on this side says of replies that are larger than our limit, or compressed.
_NOT_TAKEN = ("client: received message larger than max", "compression algorithm")

# What to look at where nobody answers, or in another protocol.
PORTS = "is a server running there, and is this its port for the protocol? Triton's are 8000 for http, 8001 for grpc"

_MAX_SENTENCE = 2000  # characters: a stranger's message ends up in logs and on screens

# HTTP statuses by the name of the gRPC code that means the same.
_GRPC_NAME = {
    "400": "INVALID_ARGUMENT",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "NOT_FOUND",
    "408": "DEADLINE_EXCEEDED",
    "413": "INVALID_ARGUMENT",
    "429": "RESOURCE_EXHAUSTED",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "DEADLINE_EXCEEDED",
}


def from_status(status: str, message: str | None, url: str) -> SparseInstError:  # noqa: PLR0911 - one for each class
    """The error for a status that came back in place of a result.

    Args:
        status: "StatusCode.INVALID_ARGUMENT" as gRPC spells it, "400" as HTTP does.
        message: the server's sentence, None where there is none.
        url: where the request went, for errors about the way there.
    """
    name = status.removeprefix("StatusCode.")
    name = _GRPC_NAME.get(name, name)
    unexplained = f"status {status} without a reason; is there a proxy in between?"
    sentence = _PREFIX.sub("", message or unexplained).strip()[:_MAX_SENTENCE]
    said = sentence.lower()
    if any(words in said for words in _NOT_TAKEN):
        return ReplyError(f"{url} sent a reply that this client does not take: {sentence}")
    if name in {"UNAUTHENTICATED", "PERMISSION_DENIED"} or "protocol is restricted" in said:
        return NotAllowed(f"{url} does not allow this, or wants other headers or a certificate: {sentence}")
    if name == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"no reply from {url} in time: {sentence}")
    if name == "RESOURCE_EXHAUSTED" and "larger than max" in said:
        return BadRequest(f"the message is too large: {sentence}; send smaller or fewer pictures")
    if name == "RESOURCE_EXHAUSTED" or (name == "UNAVAILABLE" and any(words in said for words in _REFUSALS)):
        return Overloaded(f"{url} has more requests than it can take ({sentence}); wait and try again")
    if name == "NOT_FOUND" and "no available versions" not in said:  # that one is on its way up or down
        return NotServed(f"{url} does not serve this: {sentence}")
    if name in {"UNAVAILABLE", "CANCELLED", "NOT_FOUND"}:
        hint = f"; {PORTS}" if "failed to connect" in said else ""
        return ServerUnavailable(f"{url} cannot be reached, or does not serve this now: {sentence}{hint}")
    if name in {"INVALID_ARGUMENT", "UNIMPLEMENTED", "OUT_OF_RANGE", "FAILED_PRECONDITION"}:
        return BadRequest(sentence)
    return ServerFailed(f"{url} failed on this request ({name}): {sentence}")
