"""Wrong arguments are refused before anything is sent, saying what was got and wanted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from sparseinst_client import AsyncClient, Client, DeadlineExceeded, ReplyError, ServerUnavailable, SparseInstError
from sparseinst_client.pictures import display_size, encoded
from sparseinst_runtime.decode import decode

NOBODY = "grpc://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8001",
        "127.0.0.1:8001",
        "localhost",
        "",
        "grpc://localhost",
        "grpc://:8001",
        "http://localhost:port",
        "http://localhost:99999",
        "https://localhost",
        "ftp://localhost:8000",
        "http://localhost:8000/v2",
        "http://me:secret@localhost:8000",
    ],
)
def test_addresses_of_another_form_are_refused_with_the_forms_wanted(url):
    with pytest.raises(ValueError, match=r"grpc://host:port .* http://host:port"):
        Client(url)


@pytest.mark.parametrize(
    "url", ["grpc://localhost:8001", "http://localhost:8000", "http://localhost:8000/", "grpc://[::1]:8001"]
)
def test_both_forms_make_a_client_without_a_server(url):
    with Client(url):
        pass


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("url", "settings", "error", "said"),
    [
        (NOBODY, {"headers": {"a b": "c"}}, ValueError, "named 'a b'"),
        (NOBODY, {"headers": {"a": "c\r\nd: e"}}, ValueError, "header a cannot be sent"),
        (NOBODY, {"headers": [("a", "b")]}, TypeError, "headers is a list"),
        (NOBODY, {"headers": {"Trace-Bin": "b"}}, ValueError, "names that end in -bin"),
        ("grpcs://127.0.0.1:9", {"ca": __file__}, ValueError, "cannot be used"),
        (NOBODY, {"ca": __file__}, ValueError, "wanted grpcs:// or https://"),
        ("grpcs://127.0.0.1:9", {"ca": "missing.crt"}, ValueError, "no file missing.crt"),
        ("grpcs://127.0.0.1:9", {"certificate": __file__}, ValueError, "belong together"),
        ("https://127.0.0.1:9", {"ca": __file__}, ValueError, "cannot be used"),
        (NOBODY, {"concurrency": 0}, ValueError, "concurrency is 0"),
        (NOBODY, {"concurrency": 1.5}, TypeError, "concurrency is 1.5"),
        (NOBODY, {"model": ""}, ValueError, "model is ''"),
    ],
)
def test_settings_are_checked_when_the_client_is_made(kind, url, settings, error, said):
    with pytest.raises(error, match=re.escape(said)):
        kind(url, **settings)


@pytest.mark.parametrize("url", ["http://me:secret@localhost:8000", "http://me:secret@localhost:port"])
def test_a_password_in_an_address_is_not_repeated(url):
    with pytest.raises(ValueError, match="Authorization") as raised:
        Client(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_a_key_with_a_pass_phrase_is_refused_and_asks_nobody(scheme, tmp_path):
    key, certificate = tmp_path / "a.key", tmp_path / "a.crt"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=a"]
    names = ["-passout", "pass:secret", "-keyout", key, "-out", certificate]
    subprocess.run([*made, *names], check=True, capture_output=True)
    ask = (
        "import sys; from sparseinst_client import Client\n"
        "try: Client(sys.argv[1], certificate=sys.argv[2], key=sys.argv[3])\n"
        "except ValueError as error: print(error)"
    )
    command = [sys.executable, "-c", ask, f"{scheme}://127.0.0.1:9", certificate, key]
    # A session of its own has no terminal, but for this one, which nobody types at.
    leader, terminal = os.openpty()
    done = subprocess.run(command, stdin=terminal, capture_output=True, timeout=60, start_new_session=True, check=True)
    os.close(leader)
    os.close(terminal)
    assert b"cannot be used" in done.stdout


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "images", ["a.jpg", Path("a.jpg"), b"jpeg", bytearray(b"jpeg"), np.zeros((4, 4, 3), np.uint8), 7, None]
)
def test_a_stream_of_one_picture_is_refused_before_it_is_taken_for_its_letters(kind, images):
    with pytest.raises(TypeError, match=r"wanted a list of pictures|wanted something that gives pictures"):
        kind(NOBODY).stream(images)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"in_flight": 0}, "in_flight is 0"),
        ({"in_flight": 9}, "in_flight is 9; the client has at most 8"),
        ({"on_error": "ignore"}, "on_error is 'ignore'; wanted 'raise' or 'yield'"),
        ({"score_threshold": 2.0}, "score_threshold is 2.0"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_a_stream_checks_its_options_before_it_takes_a_picture(kind, options, said):
    client = kind(NOBODY, concurrency=8)
    with pytest.raises(ValueError, match=re.escape(said)):
        client.stream(iter(int, 1), **options)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeouts_are_positive_seconds(timeout):
    with pytest.raises(ValueError, match="timeout"):
        Client(NOBODY, timeout=timeout)
    with Client(NOBODY) as client, pytest.raises(ValueError, match="timeout"):
        client.segment(b"", timeout=timeout)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"score_threshold": -0.1}, ValueError),
        ({"score_threshold": 1.1}, ValueError),
        ({"score_threshold": float("nan")}, ValueError),
        ({"score_threshold": "0.5"}, TypeError),
        ({"score_threshold": True}, TypeError),
        ({"max_instances": 0}, ValueError),
        ({"max_instances": 2**31}, ValueError),
        ({"max_instances": 1.0}, TypeError),
        ({"timeout": "1"}, TypeError),
    ],
)
def test_options_are_checked_before_anything_is_sent(options, error):
    (name,) = options
    with Client(NOBODY) as client, pytest.raises(error, match=f"{name} is .* wanted"):
        client.segment(b"", **options)


@pytest.mark.parametrize(
    ("picture", "error"),
    [
        (12, TypeError),
        (None, TypeError),
        (np.zeros((4, 4, 3), np.float32), TypeError),
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((4, 4, 4), np.uint8), ValueError),
        (np.zeros((0, 4, 3), np.uint8), ValueError),
    ],
)
def test_what_is_no_picture_is_refused_in_words(picture, error):
    with pytest.raises(error, match=r"the picture is .*wanted"):
        encoded(picture)


def test_a_missing_file_is_the_callers_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        encoded(tmp_path / "missing.jpg")


@pytest.mark.parametrize("images", ["picture.jpg", Path("picture.jpg"), b"jpeg", np.zeros((4, 4, 3), np.uint8)])
def test_one_picture_is_not_a_batch(images):
    with Client(NOBODY) as client, pytest.raises(TypeError, match="use segment"):
        client.segment_batch(images)


def test_a_generator_is_not_a_batch():
    with Client(NOBODY) as client, pytest.raises(TypeError, match=r"a generator; wanted a list .* use stream"):
        client.segment_batch(path for path in ["a.jpg"])


def test_no_pictures_need_no_server():
    with Client(NOBODY) as client:
        assert client.segment_batch([]) == []


def test_arrays_travel_without_loss():
    picture = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(picture)), picture)
    np.testing.assert_array_equal(decode(encoded(picture[:, ::-1])), picture[:, ::-1])


def test_files_travel_as_they_are(tmp_path):
    data = cv2.imencode(".jpg", np.full((8, 8, 3), 100, np.uint8))[1].tobytes()
    path = tmp_path / "picture.jpg"
    path.write_bytes(data)
    assert encoded(path) == encoded(str(path)) == encoded(data) == encoded(bytearray(data)) == data


def test_the_size_of_a_picture_is_what_a_viewer_shows():
    assert display_size(encoded(np.zeros((30, 40, 3), np.uint8))) == (30, 40)
    assert display_size(b"no picture") is None


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_there_is_server_unavailable(scheme):
    with Client(f"{scheme}://127.0.0.1:9", timeout=5, retries=0) as client:
        for call in (client.ready, client.health, client.contract, lambda: client.segment(b"x")):
            with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:9"):
                call()


@pytest.fixture
def stranger():
    """Serves one connection after the other: takes what comes and answers with `answer`, or never when that is None."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    answers, open_connections = [], []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            open_connections.append(connection)
            if answers:
                connection.recv(65536)
                connection.sendall(answers[0])
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1], answers
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for connection in open_connections:
        connection.close()
    thread.join()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_never_answers_meets_the_deadline(scheme, stranger):
    port, _ = stranger
    with Client(f"{scheme}://127.0.0.1:{port}", timeout=30) as client:
        for _ in range(2):  # the second call shows that the first one left nothing locked
            with pytest.raises(DeadlineExceeded):
                client.contract(timeout=0.3)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"",
    ],
)
def test_a_server_of_something_else_is_a_sparseinst_error(answer, stranger):
    port, answers = stranger
    answers.append(answer)
    with Client(f"http://127.0.0.1:{port}", timeout=5, retries=0) as client:
        for call in (client.contract, client.health):
            with pytest.raises((ReplyError, ServerUnavailable)):
                call()


def test_a_grpc_client_at_an_http_server_is_a_sparseinst_error(stranger):
    port, answers = stranger
    answers.append(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    with Client(f"grpc://127.0.0.1:{port}", timeout=5, retries=0) as client, pytest.raises(SparseInstError):
        client.contract()


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_closed_client_says_so(scheme):
    client = Client(f"{scheme}://127.0.0.1:9")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.segment(b"x")
