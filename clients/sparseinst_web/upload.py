"""Reads the body of a request with a bound on its size, while it arrives: nobody can make the gateway hold more."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from sparseinst_web.refusal import Refusal, too_large

_DRAINED = 8  # times the bound that is read and dropped, so that a browser that still sends gets to see the answer


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request, at most `max_bytes`.

    Raises:
        Refusal: 413, it is larger by its own header or by what came; 400, the sender went away.
    """
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError as error:
        raise Refusal(400, "bad_request", "Content-Length is no number; send the bytes of one picture") from error
    received = bytearray()
    dropped = 0
    too_much = announced > max_bytes
    try:
        async for chunk in request.stream():
            if too_much or len(received) + len(chunk) > max_bytes:
                too_much = True
                received.clear()
                dropped += len(chunk)
                if dropped > _DRAINED * max_bytes:
                    break
            else:
                received += chunk
    except ClientDisconnect as error:
        raise Refusal(400, "bad_request", "the upload was cut off; send the whole file") from error
    if too_much:
        raise too_large(max_bytes)
    return bytes(received)
