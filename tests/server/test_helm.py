"""What the chart has Triton's containers do, done to the real server: its flags, its closed doors, its probe."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest
from chart import CHART, deployment, needs_helm, triton
from under_load import Load, stubs_that_answer, triton_under, wait_until

from sparseinst_server import TritonServer, locate

FILES = CHART / "files"
EVERYTHING = CHART / "ci" / "everything.yaml"


def probe(server):
    """What Kubernetes would run; 0 where the server is found sound."""
    command = [sys.executable, str(FILES / "probe.py"), server.http_url, server.metrics_url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def asks(url, method="GET"):
    """The status that a server answers with."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def started(serve_python, tmp_path):
    """Triton without models, as the chart starts it but for its addresses; gives its address and its process."""
    installation = locate(serve_python)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    own = [f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")]
    (tmp_path / "models").mkdir()
    own += [
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        f"--model-repository={tmp_path / 'models'}",
    ]
    arguments = triton(deployment("--values", EVERYTHING)["spec"]["template"])["args"]
    given = [each for each in arguments if not re.match("--(http|grpc|metrics)-port|--model-repo|--allow-gpu", each)]
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.symlink_to(installation.tritonserver)
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    command = ["sh", str(FILES / "serve.sh"), *given, *own, "--allow-gpu-metrics=false"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: process.poll() is not None or listens(url)), "neither there nor gone"
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield url, process
    finally:
        process.kill()
        process.wait()


def listens(url):
    try:
        return asks(f"{url}/v2/health/live") == 200
    except OSError:
        return False


@needs_helm
def test_triton_takes_the_flags_and_shuts_the_doors_and_gets_the_signal(started):
    url, process = started
    assert psutil.Process(process.pid).name() == "tritonserver", "the shell is gone, so that SIGTERM comes to Triton"
    assert asks(f"{url}/v2") == 200
    assert asks(f"{url}/v2/repository/index", "POST") == 403
    assert {asks(f"{url}/v2/{path}") for path in ("trace/setting", "logging", "systemsharedmemory/status")} == {403}
    process.terminate()
    assert process.wait(20) == 0


def test_the_probe_sends_a_picture_through_a_sound_server(server):
    ran = probe(server)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_probe_says_in_a_sentence_that_nobody_is_there(server):
    command = [sys.executable, str(FILES / "probe.py"), "http://127.0.0.1:9", server.metrics_url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert re.fullmatch(r"no answer to a picture: .*refused.*\n", ran.stderr)


@pytest.mark.slow
def test_the_probe_tells_a_full_server_from_one_that_hangs_or_lost_a_process(repository, serve_python, expected):
    with TritonServer(repository, python=serve_python) as server:
        server_process = triton_under(server.pid)
        with Load(server.grpc_url, expected, callers=120) as load:
            assert wait_until(lambda: sum(load.failures.values()) > 100), "never full"
            found = [probe(server) for _ in range(5)]
            assert {each.returncode for each in found} == {0}, [each.stderr for each in found]
        _, stubs = stubs_that_answer(server.pid)
        for stub in stubs:
            stub.suspend()
        start = time.monotonic()
        hangs = probe(server)
        assert hangs.returncode == 1
        assert time.monotonic() - start < 10, "longer than Kubernetes waits"
        for stub in stubs:
            stub.resume()
        stubs[0].kill()
        assert wait_until(lambda: stubs[0].status() == psutil.STATUS_ZOMBIE)
        lost = probe(server)
        server_process.kill()  # with a dead stub it would take all of its grace
    assert lost.returncode == 1
    assert lost.stderr == "a process of a Python model is gone\n"
