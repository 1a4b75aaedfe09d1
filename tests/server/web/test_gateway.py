"""The gateway without a browser: what it takes, what it refuses and in which words."""

from __future__ import annotations

import http.client
import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from starlette.testclient import TestClient

import sparseinst_web
from sparseinst_client import errors
from sparseinst_web import create_app
from sparseinst_web.refusal import from_client
from sparseinst_web.security import HEADERS

from .conftest import running_gateway

STATIC = Path(sparseinst_web.__file__).parent / "static"


@pytest.fixture(scope="module")
def ask(settings):
    """The application, asked in this process."""
    with TestClient(create_app(settings)) as client:
        yield client


def refused(reply, status, code):
    """The sentence of a refusal."""
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    return error["message"]


def changed(settings, **values):
    return TestClient(create_app(replace(settings, **values)))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
def test_the_reply_holds_what_the_client_finds(settings, server, picture, expected, protocol):
    with changed(settings, url=getattr(server, protocol)) as ask:
        reply = ask.post("/api/segment", content=picture.read_bytes())
    assert reply.status_code == 200
    found = reply.json()
    assert [(one["class"], one["score"]) for one in found["instances"]] == [
        (name, pytest.approx(score, abs=1e-4)) for name, score, _ in expected
    ]
    for one, (name, _, mask) in zip(found["instances"], expected, strict=True):
        rle = {"size": [found["height"], found["width"]], "counts": one["counts"]}
        assert np.array_equal(coco_mask.decode(rle), mask)
        assert one["category_id"] == server.contract.category_ids[server.contract.classes.index(name)]
    assert re.fullmatch(r"upload;dur=[\d.]+, wait;dur=[\d.]+, server;dur=[\d.]+", reply.headers["server-timing"])


def test_the_model_is_the_contract(ask, server, settings):
    model = ask.get("/api/model").json()
    assert tuple(model["classes"]) == server.contract.classes
    assert model["score_threshold"] == server.contract.score_threshold
    assert model["max_bytes"] == settings.max_bytes


@pytest.mark.parametrize(
    "body",
    [b"", b"no picture at all", b"\xff\xd8\xff broken"],
    ids=["empty", "text", "broken"],
)
def test_what_is_no_picture_is_refused_in_words(ask, body):
    assert (
        "send" in (words := refused(ask.post("/api/segment", content=body), 400, "not_a_picture")) or "wanted" in words
    )


def test_a_picture_that_breaks_after_its_header_is_refused_by_the_server(ask, picture):
    data = picture.read_bytes()
    assert "cut off" in refused(ask.post("/api/segment", content=data[: len(data) // 2]), 400, "not_a_picture")


def test_an_announced_size_that_is_too_large_is_refused(ask, settings):
    reply = ask.post("/api/segment", content=bytes(settings.max_bytes + 1))
    assert "1 MiB" in refused(reply, 413, "too_large")


def test_an_upload_without_end_is_cut_off(gateway, settings):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 64 * settings.max_bytes:
            sent += 1 << 16
            yield b"\xff" * (1 << 16)

    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=15)
    try:
        connection.request(
            "POST", "/api/segment", endless(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
    except OSError:  # the gateway has closed the connection: that is what it is for
        pass
    else:
        pytest.fail(f"{sent} bytes were taken")
    finally:
        connection.close()
    assert sent < 32 * settings.max_bytes


def test_an_upload_that_is_twice_too_large_gets_its_answer(gateway, settings):
    connection = http.client.HTTPConnection(urlsplit(gateway).netloc, timeout=15)
    chunks = [bytes(settings.max_bytes // 2)] * 4
    connection.request(
        "POST", "/api/segment", iter(chunks), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    reply = connection.getresponse()
    assert (reply.status, json.load(reply)["error"]["code"]) == (413, "too_large")
    connection.close()


def test_a_server_that_is_down_is_a_bad_gateway_without_its_address(settings, picture):
    port = free_port()
    with changed(settings, url=f"grpc://127.0.0.1:{port}") as ask:
        for reply in (ask.post("/api/segment", content=picture.read_bytes()), ask.get("/api/model")):
            assert str(port) not in refused(reply, 502, "server_unavailable")
        assert ask.get("/healthz").status_code == 200


def test_a_server_that_never_answers_is_given_up_at_the_deadline(settings, picture):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with changed(settings, url=url, deadline=0.4) as ask:
            assert "0.4 s" in refused(ask.post("/api/segment", content=picture.read_bytes()), 504, "deadline_exceeded")


def test_an_upload_that_never_ends_is_given_up_at_the_deadline(server):
    with running_gateway(server.grpc_url, "--deadline", "0.4") as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=15) as connection:
            connection.sendall(b"POST /api/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_browser_that_leaves_ends_its_call_to_the_server(picture, capfd, protocol):
    data = picture.read_bytes()
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        running_gateway(f"{protocol}://127.0.0.1:{deaf.getsockname()[1]}") as address,
    ):
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as browser:
            head = f"POST /api/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
            browser.sendall(head.encode() + data)
            call, _ = deaf.accept()
    call.close()
    assert "503" not in capfd.readouterr().err  # what a gateway says that stops while a call is under way


@pytest.mark.slow  # 5 s of waiting for it
def test_a_call_under_way_is_answered_when_the_gateway_stops(picture, capfd):
    data = picture.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with running_gateway(f"grpc://127.0.0.1:{deaf.getsockname()[1]}") as address:
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=15)
            connection.request("POST", "/api/segment", data)
            call, _ = deaf.accept()
        call.close()
    connection.close()
    assert "503: stopping" in (said := capfd.readouterr().err)
    assert "Traceback" not in said


def test_more_pictures_than_places_are_told_to_come_back(settings, picture):
    with changed(settings, concurrency=1, waiting=0) as ask:
        with ask.app.state.segmenter.place():
            reply = ask.post("/api/segment", content=picture.read_bytes())
            refused(reply, 503, "overloaded")
            assert int(reply.headers["retry-after"]) >= 1
        assert ask.post("/api/segment", content=picture.read_bytes()).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadRequest, 400),
        (errors.Overloaded, 503),
        (errors.DeadlineExceeded, 504),
        (errors.ServerUnavailable, 502),
        (errors.ServerFailed, 502),
        (errors.ReplyError, 502),
    ],
)
def test_every_error_of_the_client_has_its_status(error, status):
    refusal = from_client(error("at grpc://10.1.2.3:8001"), 30)
    assert refusal.status == status
    assert "10.1.2.3" in refusal.detail
    assert error is errors.BadRequest or "10.1.2.3" not in refusal.message


def test_other_sites_are_closed_out_unless_named(settings, picture):
    data, other = picture.read_bytes(), {"Origin": "https://lab.example.org"}
    preflight = other | {"Access-Control-Request-Method": "POST"}
    with changed(settings) as ask:
        refused(ask.post("/api/segment", content=data, headers=other), 403, "other_origin")
        assert ask.post("/api/segment", content=data, headers={"Origin": "http://testserver"}).status_code == 200
        assert "access-control-allow-origin" not in ask.options("/api/segment", headers=preflight).headers
    with changed(settings, origins=("https://lab.example.org",)) as ask:
        reply = ask.post("/api/segment", content=data, headers=other)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://lab.example.org")
        assert ask.options("/api/segment", headers=preflight).status_code == 200
        refused(ask.post("/api/segment", content=data, headers={"Origin": "https://other.org"}), 403, "other_origin")


@pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/api/model", "/api/examples/no.jpg", "/nowhere"])
def test_every_answer_has_the_security_headers(ask, path):
    reply = ask.get(path)
    assert {name: reply.headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize("name", ["..%2Finstances.json", "%2e%2e%2f%2e%2e%2fpyproject.toml", "none.jpg"])
def test_examples_are_those_of_the_folder_alone(ask, name):
    refused(ask.get(f"/api/examples/{name}"), 404, "not_found")
    assert ask.get("/api/examples/scene_00.jpg").headers["content-type"] == "image/jpeg"


def test_a_wrong_method_is_refused_in_json(ask):
    reply = ask.get("/api/segment")
    refused(reply, 405, "wrong_method")
    assert "POST" in reply.headers["allow"]


def test_the_page_asks_nobody_else_for_anything():
    addresses = {
        (path.name, address)
        for path in STATIC.rglob("*")
        if path.is_file()
        for address in re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"']*", path.read_text(encoding="utf-8"))
    }
    assert {address for _, address in addresses} <= {"http://www.w3.org/2000/svg"}  # a name, not a place


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
        ({"waiting": -1}, "waiting is -1"),
        ({"origins": ("https://lab.example.org/page",)}, "without a path"),
        ({"examples": Path("nowhere")}, "a folder of pictures"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(settings, **wrong)
