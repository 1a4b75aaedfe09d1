"""Everything a gateway refuses, as a status, a word for programs and a sentence for people.

A browser may belong to anybody: what the server said in detail (its address, what broke) goes to the log, not out.
"""

from __future__ import annotations

from starlette.responses import JSONResponse

from sparseinst_client.errors import (
    BadRequest,
    DeadlineExceeded,
    Overloaded,
    ServerUnavailable,
    SparseInstError,
)

RETRY_AFTER = 1  # seconds; a full queue of pictures drains within one


class Refusal(Exception):  # noqa: N818 - it is an answer, not an error
    """A request that gets no result.

    Attributes:
        status: HTTP status.
        code: one word for programs, such as `too_large`.
        message: what was got, what was wanted and what to do, for people.
        detail: for the log alone.
        hang_up: whether the connection is of no more use, because the sender has not ended.
    """

    def __init__(self, status: int, code: str, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.detail = status, code, message, detail
        self.hang_up = False

    def response(self) -> JSONResponse:
        """`{"error": {"code", "message"}}`; with 503 a Retry-After."""
        headers = {"Retry-After": str(RETRY_AFTER)} if self.status == 503 else {}
        if self.hang_up:
            headers["Connection"] = "close"
        body = {"error": {"code": self.code, "message": self.message}}
        return JSONResponse(body, self.status, headers=headers)


def too_large(max_bytes: int) -> Refusal:
    """The picture has more bytes than are taken."""
    size = f"{max_bytes / 2**20:.3g} MiB"
    return Refusal(413, "too_large", f"the picture has more than {size}; send a smaller file")


def cut_off() -> Refusal:
    """The sender went away."""
    return Refusal(400, "cut_off", "the sender went away before the answer; send the whole file and wait")


def overloaded(detail: str = "") -> Refusal:
    """Too many pictures are under way."""
    return Refusal(503, "overloaded", "too many pictures are under way; try again in a moment", detail)


def stopping() -> Refusal:
    """The gateway goes down."""
    return Refusal(503, "stopping", "the gateway stops; try again when it is back")


def too_slow(seconds: float, detail: str = "") -> Refusal:
    """The deadline passed before the server answered."""
    message = f"the server did not answer within {seconds:g} s; try again later"
    return Refusal(504, "deadline_exceeded", message, detail)


def upload_too_slow(seconds: float) -> Refusal:
    """The deadline passed before the picture had arrived."""
    return Refusal(408, "upload_too_slow", f"the picture did not arrive within {seconds:g} s; send a smaller file")


def from_client(error: SparseInstError, deadline: float) -> Refusal:
    """What a browser is told about an error of the client."""
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, BadRequest):  # about the picture, in words made for whoever sent it
        return Refusal(400, "not_a_picture", str(error), detail)
    if isinstance(error, Overloaded):
        return overloaded(detail)
    if isinstance(error, DeadlineExceeded):
        return too_slow(deadline, detail)
    if isinstance(error, ServerUnavailable):
        message = "the inference server cannot be reached, or does not serve the model now; try again later"
        return Refusal(502, "server_unavailable", message, detail)
    return Refusal(502, "server_failed", "the inference server failed on this request; its log knows more", detail)
