"""Starting and stopping the real Triton: ready is true, failures are sentences, nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from sparseinst_client import Client
from sparseinst_runtime.checksums import write_checksums
from sparseinst_server import InstallationError, ServerError, TritonServer, locate

SHARED_MEMORY = Path("/dev/shm")


def processes(*, session: int | None = None, parent: int | None = None) -> set[int]:
    """Ids of the living processes of a session, or of the children of a process (proc(5), stat)."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended while we looked
            state, its_parent, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if state != "Z" and (int(its_session) == session or int(its_parent) == parent):
                found.add(int(stat.parent.name))
    return found


def regions(launcher: int) -> set[str]:
    """Shared memory of the servers that a process started."""
    return {path.name for path in SHARED_MEMORY.glob(f"sparseinst-{launcher}-*")}


def inferences(server: TritonServer) -> int:
    """How many requests went through the ensemble, by Triton's own count."""
    with urlopen(f"{server.http_url}/v2/models/sparseinst/stats") as answer:
        return json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"]


def wait_until(holds, seconds: float = 30.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return held


@pytest.fixture
def broken(repository, tmp_path) -> Path:
    """A copy of the repository, to be broken."""
    return Path(shutil.copytree(repository, tmp_path / "model_repository"))


def test_ready_means_a_picture_went_through_and_two_servers_do_not_disturb_each_other(repository, serve_python):
    with TritonServer(repository, python=serve_python) as first:
        assert wait_until(lambda: inferences(first) == 1)  # counted when the answer has gone out
        with TritonServer(repository, python=serve_python) as second:
            assert wait_until(lambda: inferences(second) == 1)  # counted when the answer has gone out
            both = regions(os.getpid())
        left = regions(os.getpid())
        assert left < both, "the second server's shared memory is gone, the first one's is not"
        with Client(first.grpc_url) as client:
            assert client.health().answers


def test_a_crash_of_triton_is_reported_and_leaves_nothing_behind(repository, serve_python):
    before = regions(os.getpid())
    with TritonServer(repository, python=serve_python) as server:
        (triton,) = processes(parent=server.pid)
        assert len(processes(session=triton)) > 1, "Triton and its stubs"
        os.kill(triton, signal.SIGKILL)
        with pytest.raises(ServerError, match="ended by itself"):
            server.wait()
    assert not processes(session=triton)
    assert regions(os.getpid()) == before


@pytest.fixture
def launcher(repository, serve_python, tmp_path):
    """`python -m sparseinst_server`, on its way up; its log and its temporary files lie in tmp_path."""
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    command = [
        serve_python,
        "-m",
        "sparseinst_server",
        f"--repository={repository}",
        f"--log={tmp_path / 'log'}",
        *ports,
    ]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


def triton_of(launcher: int) -> int:
    """The process id of the one Triton that a launcher runs, under its guard."""
    (guard,) = processes(parent=launcher)
    (triton,) = processes(parent=guard)
    return triton


def nothing_is_left(launcher: int, triton: int, folder: Path) -> bool:
    """Whether processes, shared memory and temporary files are gone."""
    return (
        not processes(session=triton) and not regions(launcher) and [path.name for path in folder.iterdir()] == ["log"]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_signals_to_the_launcher_end_the_server_and_leave_nothing_behind(launcher, tmp_path, number):
    said = [launcher.stdout.readline() for _ in range(6)]
    grpc_url = next(line.split()[1] for line in said if "gRPC" in line)
    with Client(grpc_url) as client:
        assert client.health().answers
    triton = triton_of(launcher.pid)
    assert regions(launcher.pid)

    launcher.send_signal(number)
    if number == signal.SIGKILL:  # then the launcher does nothing more, and the guard does it
        assert launcher.wait(30) == -number
        assert wait_until(lambda: nothing_is_left(launcher.pid, triton, tmp_path))
    else:
        assert launcher.wait(30) == 128 + number
        assert nothing_is_left(launcher.pid, triton, tmp_path)


_IN_A_FINALIZER = """
import signal, time, weakref
from sparseinst_server.leave import leave_by_signals

class Thing: pass

leave_by_signals()
thing = Thing()
weakref.finalize(thing, signal.raise_signal, signal.SIGTERM)
del thing
try:
    time.sleep(60)
finally:
    print("stopped on the way", flush=True)
"""


def test_a_signal_that_comes_while_a_finalizer_runs_is_not_lost():
    command = [sys.executable, "-c", _IN_A_FINALIZER]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (128 + signal.SIGTERM, "stopped on the way\n", "")


def test_a_launcher_killed_while_the_models_load_leaves_nothing_behind(launcher, tmp_path):
    """Until its models are loaded Triton takes no SIGTERM: it dies of it and leaves its stubs."""
    assert wait_until(lambda: regions(launcher.pid))
    triton = triton_of(launcher.pid)
    launcher.kill()
    assert wait_until(lambda: nothing_is_left(launcher.pid, triton, tmp_path))


def test_a_corrupt_graph_is_refused_in_words(broken, serve_python):
    graph = broken / "sparseinst_network" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    write_checksums(graph.parent)
    before = regions(os.getpid())
    with pytest.raises(ServerError, match=r"sparseinst_network: model\.onnx is no graph .*`sparseinst-export onnx`"):
        TritonServer(broken, python=serve_python).__enter__()
    assert regions(os.getpid()) == before


def test_a_graph_of_another_contract_is_refused_in_words(broken, serve_python):
    contract = broken / "sparseinst_network" / "1" / "contract.json"
    config = broken / "sparseinst_network" / "configs" / "cpu.pbtxt"
    n = json.loads(contract.read_text())["max_instances"]
    contract.write_text(json.dumps(json.loads(contract.read_text()) | {"max_instances": n + 1}))
    write_checksums(contract.parent)
    words = rf"sparseinst_network: output scores is TYPE_FP32 \[{n}\] by the configuration, TYPE_FP32 \[{n + 1}\] by"
    with pytest.raises(ServerError, match=words):
        TritonServer(broken, python=serve_python).__enter__()

    config.write_text(config.read_text().replace(f"dims: [ {n}", f"dims: [ {n + 1}"))
    with pytest.raises(
        ServerError, match=rf"model\.onnx has scores f32\[\?,{n}\]; contract\.json wants f32\[\?,{n + 1}\]"
    ):
        TritonServer(broken, python=serve_python).__enter__()


def test_a_graph_that_is_not_the_assembled_one_is_refused_in_words(broken, serve_python):
    graph = broken / "sparseinst_network" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    words = r"sparseinst_network: model\.onnx of version 1 of sparseinst_network is not the file that was assembled"
    with pytest.raises(ServerError, match=words):
        TritonServer(broken, python=serve_python).__enter__()


def test_a_missing_contract_is_refused_in_words(broken, serve_python):
    (broken / "sparseinst_preprocess" / "1" / "contract.json").unlink()
    with pytest.raises(ServerError, match=r"sparseinst_preprocess: no contract at .*export writes one"):
        TritonServer(broken, python=serve_python).__enter__()


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_taken_port_is_named(repository, serve_python, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"{name} port {port} on 127.0.0.1 cannot be used"):
            TritonServer(repository, python=serve_python, **{f"{name}_port": port}).__enter__()


def test_a_missing_repository_is_named(tmp_path, serve_python):
    with pytest.raises(ServerError, match=r"no model repository at .*/nowhere; `sparseinst-export repository`"):
        TritonServer(tmp_path / "nowhere", python=serve_python).__enter__()


def test_an_environment_without_triton_is_told_how_to_get_it(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    with pytest.raises(InstallationError) as error:
        locate(tmp_path / "bare" / "bin" / "python")
    assert "pip install --no-deps nvidia-pytriton" in str(error.value)
    assert "lacks numpy, opencv-python-headless, openvino" in str(error.value)


def test_something_that_is_no_interpreter_is_named():
    with pytest.raises(InstallationError, match="/bin/false cannot be asked about its environment"):
        locate("/bin/false")


def test_check_says_what_can_run(serve_python):
    found = subprocess.run(
        [serve_python, "-m", "sparseinst_server", "--check"], capture_output=True, text=True, check=True
    )
    assert "tritonserver" in found.stdout
    assert "numpy 1." in found.stdout


def test_the_shared_server_answers_over_both_protocols(server):
    for url in (server.http_url, server.grpc_url):
        with Client(url) as client:
            assert client.health().answers
            assert client.contract() == server.contract
