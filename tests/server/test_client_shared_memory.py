"""Pictures through shared memory and TLS, by a real Triton that has both open; and nothing is left in /dev/shm."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from under_load import same, wait_until

from sparseinst_client import AsyncClient, BadRequest, Client, ServerUnavailable
from sparseinst_client.retry import Attempts
from sparseinst_client.shared_memory import unshare
from sparseinst_server import Doors, Tls, TritonServer

SHM = Path("/dev/shm")


def regions() -> set[str]:
    return {path.name for path in SHM.glob("sparseinst-client-*")}


def registered(server) -> list[dict]:
    """The regions that a server knows, and keeps in memory."""
    with urlopen(f"{server.http_url}/v2/systemsharedmemory/status") as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def certificates(repo_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "ours"
    script = repo_root / "deploy" / "tls" / "make_certificates.sh"
    subprocess.run([script, folder], check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def open_server(repository, serve_python, certificates):
    tls = Tls(certificates / "server.crt", certificates / "server.key", certificates / "ca.crt")
    with TritonServer(repository, python=serve_python, doors=Doors(open=("shared-memory",), tls=tls)) as running:
        yield running


@pytest.fixture(scope="module", params=["grpcs", "http"])
def settings(request, open_server, certificates) -> dict:
    if request.param == "http":  # Triton speaks no TLS there
        return {"url": open_server.http_url, "shared_memory": True}
    identity = {"certificate": certificates / "client.crt", "key": certificates / "client.key"}
    return {"url": open_server.grpc_url, "ca": certificates / "ca.crt", "shared_memory": True, **identity}


def test_shared_memory_gives_the_same_and_goes_with_the_client(settings, open_server, expected):
    before = regions()
    with Client(**settings) as client:
        for picture, wanted in expected.items():
            assert same(client.segment(picture), wanted)
        assert len(regions() - before) == 1  # one after the other: one region
        for found, wanted in zip(
            client.stream(list(expected) * 4, in_flight=4), list(expected.values()) * 4, strict=True
        ):
            assert same(found, wanted)
        assert 1 < len(regions() - before) <= 4
        with pytest.raises(BadRequest):
            client.segment(b"no picture")
        for found, wanted in zip(client.segment_batch(list(expected)), expected.values(), strict=True):
            assert same(found, wanted)
    assert regions() == before
    for picture in list(expected) * 5:  # closed as soon as there is an answer
        with Client(**settings) as client:
            client.segment(picture)
    assert registered(open_server) == []


def test_shared_memory_under_asyncio(settings, expected):
    before = regions()

    async def work():
        async with AsyncClient(**settings) as client:
            found = await asyncio.gather(*(client.segment(picture) for picture in expected))
            assert 1 <= len(regions() - before) <= 3
            return found

    for found, wanted in zip(asyncio.run(work()), expected.values(), strict=True):
        assert same(found, wanted)
    assert regions() == before


def test_a_picture_larger_than_a_region_gets_a_larger_one(settings, scenes):
    noise = bytes(range(256)) * 2**13  # 2 MiB behind the picture's end
    picture = (scenes / "images" / "scene_00.jpg").read_bytes()
    with Client(**settings) as client:
        assert same(client.segment(picture + noise), client.segment(picture))


def test_a_server_that_forgot_the_memory_is_told_again(settings, expected):
    (picture, wanted), *_ = expected.items()
    with Client(**settings) as client:
        client.segment(picture)
        (region,) = client._regions._free
        unshare(client._transport, region.name, Attempts(0, time.monotonic() + 10))
        assert same(client.segment(picture), wanted)


_DIES = """
import os, signal, sys
from sparseinst_client import Client
client = Client(sys.argv[1], shared_memory=True)
client.segment(sys.argv[2])
print([name for name in os.listdir("/dev/shm") if name.startswith(f"sparseinst-client-{os.getpid()}-")], flush=True)
os.kill(os.getpid(), int(sys.argv[3]))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, 0])  # 0: it ends without closing its client
def test_a_client_that_dies_leaves_no_memory_behind(open_server, scenes, sent):
    before = regions()
    command = [
        sys.executable,
        "-c",
        _DIES,
        open_server.http_url,
        str(scenes / "images" / "scene_00.jpg"),
        str(int(sent)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -int(sent), done.stderr
    assert "sparseinst-" in done.stdout
    assert wait_until(lambda: regions() == before, 10)


def test_without_its_certificate_nobody_gets_in(open_server, certificates, expected):
    picture = next(iter(expected))
    with (
        Client(open_server.grpc_url, ca=certificates / "ca.crt", retries=0) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.segment(picture)
    plain = open_server.grpc_url.replace("grpcs", "grpc")
    with Client(plain, retries=0) as client, pytest.raises(ServerUnavailable):
        client.segment(picture)
