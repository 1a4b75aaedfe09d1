"""The machine runs short: shared memory, file descriptors, and a wall clock that jumps. The first needs root."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import psutil
import pytest
from under_load import Load, metric, same, supervised, triton_under, wait_until

from sparseinst_client import Client, DeadlineExceeded, ServerFailed
from sparseinst_server import TritonServer

NAMESPACE = ["unshare", "--mount", "sh", "-c"]
SHARED_MEMORY = "mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {python} -m sparseinst_server"


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where a process may have no /dev/shm of its own."""
    tried = subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace for a small /dev/shm: {tried.stderr.strip()}")


def in_small_shared_memory(size: str, python: Path) -> list[str]:
    """The command of a server whose /dev/shm is its own, and so small."""
    return [*NAMESPACE, f'{SHARED_MEMORY.format(size=size, python=python)} "$@"', "sh"]


@pytest.mark.usefixtures("namespaces")
def test_too_little_shared_memory_to_start_is_said_in_words(repository, serve_python, tmp_path):
    command = in_small_shared_memory("512k", serve_python)
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    ended = subprocess.run(
        [*command, f"--repository={repository}", f"--log={tmp_path / 'log'}", *ports],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert re.search(
        r"Triton did not start: .*shared memory .* requested size .* No space left on device", ended.stderr
    )


@pytest.mark.usefixtures("namespaces")
def test_full_shared_memory_fails_large_pictures_alone_and_only_while_it_is_full(
    repository, serve_python, expected, tmp_path
):
    small, wanted = next(iter(expected.items()))
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1200, 3), np.uint8)
    large = cv2.imencode(".png", noise)[1].tobytes()  # 3.6 MB: more than the first megabyte of a stub
    command = in_small_shared_memory("24m", serve_python)
    with supervised(serve_python, repository, f"--log={tmp_path / 'log'}", command=command) as server:
        filler = Path("/proc", str(triton_under(server.pid).pid), "root", "dev", "shm", "filler")
        with Client(server.url["grpc"], retries=0) as client:
            fill(filler)
            for _ in range(3):
                with pytest.raises(ServerFailed, match="shared memory"):
                    client.segment(large)
                assert same(client.segment(small), wanted)
            filler.unlink()
            assert client.segment(large).image_size == (1000, 1200)
            assert same(client.segment(small), wanted)
        assert not server.said, "nothing had to be repaired"


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def test_without_file_descriptors_connections_go_on_and_new_ones_come_back(repository, serve_python, expected):
    picture, wanted = next(iter(expected.items()))
    with (
        TritonServer(repository, python=serve_python) as server,
        Client(server.grpc_url) as before,
        ExitStack() as stack,
    ):
        assert same(before.segment(picture), wanted)
        triton = triton_under(server.pid)
        triton.rlimit(psutil.RLIMIT_NOFILE, (triton.num_fds() + 10, triton.rlimit(psutil.RLIMIT_NOFILE)[1]))
        address = urlsplit(server.http_url)
        for _ in range(50):
            stack.enter_context(closing(socket.create_connection((address.hostname, address.port))))
        with Client(server.http_url) as new:
            with pytest.raises(DeadlineExceeded, match=r"no reply from .* within"):
                new.segment(picture, timeout=2)
            assert same(before.segment(picture), wanted)
            stack.close()
            assert same(new.segment(picture), wanted)


@pytest.mark.slow
def test_a_jump_of_the_wall_clock_costs_no_request(repository, serve_python, expected, tmp_path):
    """A day ahead; back is not tried, since libfaketime turns waits that go by the other clock, too, and they stay."""
    libfaketime = pytest.importorskip("libfaketime", reason="no libfaketime to turn Triton's clock with")
    day, offset = 86400, tmp_path / "offset"
    offset.write_text("+0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", str(next(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))))
        patch.setenv("FAKETIME_TIMESTAMP_FILE", str(offset))
        patch.setenv("FAKETIME_NO_CACHE", "1")
        patch.setenv("DONT_FAKE_MONOTONIC", "1")
        server = TritonServer(repository, python=serve_python).__enter__()
    try:
        with Load(server.grpc_url, expected, callers=2) as load:
            assert load.goes_on()
            offset.write_text(f"+{day}")
            assert load.goes_on(40)
        beats = "sparseinst_worker_heartbeat_timestamp_seconds"
        assert wait_until(lambda: metric(server.metrics_url, beats) > time.time() + 0.9 * day, 10), "the clock jumped"
    finally:
        server.stop()
    assert not load.failures
    assert not load.wrong
