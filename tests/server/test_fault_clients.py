"""Clients that are slow or give up: the others are answered, and work that nobody waits for is dropped."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from under_load import Load, metric, same, wait_until

from sparseinst_client import Client, DeadlineExceeded, Overloaded

SLOW = 12  # connections; more than Triton has threads for HTTP
MANY = 16  # requests, about half a second of work
CANCELLED = "sparseinst_requests_cancelled_total"


def request(picture: bytes) -> tuple[bytes, bytes]:
    """Head and body of an HTTP request for one picture."""
    tensor = tritonclient.http.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[picture]], np.object_))
    body, json_size = tritonclient.http.InferenceServerClient.generate_request_body([tensor])
    head = (
        "POST /v2/models/sparseinst/infer HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nInference-Header-Content-Length: {json_size}\r\n\r\n"
    )
    return head.encode(), body


def connect(url: str, receive_buffer: int | None = None) -> socket.socket:
    """A plain connection; a small buffer lets the server send only what was read."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((urlsplit(url).hostname, urlsplit(url).port))
    connection.settimeout(30)
    return connection


@contextmanager
def meanwhile(step: Callable[[], None]) -> Iterator[None]:
    """Take a step every few milliseconds for as long as the block runs."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.005):
            step()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def rest(connection: socket.socket) -> bytes:
    """All that still comes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_those_who_send_a_byte_at_a_time_keep_nobody_waiting(server, expected, protocol):
    url = server.http_url if protocol == "http" else server.grpc_url
    # The head in one piece: this Triton takes a path that comes in pieces for another one, and says 404.
    head, words = request(next(iter(expected))) if protocol == "http" else (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(url)) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall(head)
        sent = 0

        def step() -> None:
            nonlocal sent
            for connection in slow if sent < len(words) else ():
                connection.sendall(words[sent : sent + 1])
            sent += 1

        with meanwhile(step), Load(url, expected, callers=2, retries=20) as load:
            assert load.goes_on(20)
        assert not load.failures
        assert not load.wrong
        if protocol == "http":
            slow[0].sendall(words[sent:])  # and whoever comes to an end is answered
            assert rest(slow[0]).startswith(b"HTTP/1.1 200")


def test_those_who_read_a_byte_at_a_time_keep_nobody_waiting(server, expected):
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server.http_url, receive_buffer=1)) for _ in range(SLOW)]
        for connection in slow:
            connection.sendall(b"".join(request(next(iter(expected)))))
        read = [b""] * SLOW

        def step() -> None:
            for i, connection in enumerate(slow):
                read[i] += connection.recv(1)

        with meanwhile(step), Load(server.http_url, expected, callers=2, retries=20) as load:
            assert load.goes_on(20)
        assert not load.failures
        assert not load.wrong
        assert all(0 < len(each) < 2000 for each in read)
        assert (read[0] + rest(slow[0])).startswith(b"HTTP/1.1 200"), "and they, too, get all of it"


def test_the_work_of_cancelled_calls_is_dropped(server, expected):
    picture = next(iter(expected))
    tensor = tritonclient.grpc.InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[picture]], np.object_))
    before = metric(server.metrics_url, CANCELLED)
    with tritonclient.grpc.InferenceServerClient(urlsplit(server.grpc_url).netloc) as triton:
        calls = [triton.async_infer("sparseinst", [tensor], lambda result, error: None) for _ in range(MANY)]
        time.sleep(0.05)  # they are in the server
        for call in calls:
            call.cancel()
    assert wait_until(lambda: metric(server.metrics_url, CANCELLED) - before >= MANY // 2, 5)
    with Client(server.grpc_url) as other:
        assert same(other.segment(picture), expected[picture])


def test_work_past_its_deadline_is_dropped_and_the_others_go_on(server, expected):
    picture, wanted = next(iter(expected.items()))
    names = (CANCELLED, "sparseinst_requests_refused_total")
    before = sum(metric(server.metrics_url, name) for name in names)
    with Client(server.grpc_url, retries=0) as client, ThreadPoolExecutor(MANY) as pool:
        client.contract()
        calls = [pool.submit(client.segment, picture, timeout=0.15) for _ in range(MANY)]
        late = [error for call in calls if (error := call.exception()) is not None]
        assert {type(error) for error in late} <= {DeadlineExceeded, Overloaded}
        assert len(late) > MANY // 3
        assert same(client.segment(picture, timeout=10), wanted)
    # But for those that were begun before their deadline: few, or more where the machine is busy.
    assert wait_until(lambda: sum(metric(server.metrics_url, name) for name in names) - before >= len(late) // 2, 5)
