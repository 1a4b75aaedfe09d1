"""Try a server that a command starts, as the container of ci/try_image.sh: a picture, the health probe, shut doors.

python ci/try_server_image.py -- COMMAND...      the command gets Triton's flags for free ports after it
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import psutil

from sparseinst_client import Client, SparseInstError

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "assets" / "scenes" / "images" / "scene_01.jpg"
PROBE = ROOT / "deploy" / "helm" / "sparseinst" / "files" / "probe.py"
PATIENCE = 120.0


def main(command: list[str]) -> int:
    """Start, try, stop; 0 when instances came back, the probe is content and what must be shut is shut."""
    http, grpc, metrics = free_ports(3)
    flags = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--metrics-address=127.0.0.1"]
    flags += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([*command, *flags], stdout=log, stderr=subprocess.STDOUT) as process,  # noqa: S603
    ):
        try:
            with Client(f"http://127.0.0.1:{http}") as client:
                wait_for(client, process, log)
                instances = client.segment(PICTURE, score_threshold=0.4)
                names = [client.classes[label] for label in instances.labels]
            probe = [sys.executable, PROBE, f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics"]
            sound = subprocess.run(probe, check=False).returncode == 0  # noqa: S603
            shut = status(f"http://127.0.0.1:{http}/v2/logging") == 403
        finally:
            stop(process)
    say(f"found {', '.join(names) or 'nothing'} in {PICTURE.name}")
    say(f"the health probe calls it {'sound' if sound else 'unsound'}; the logging API is {'shut' if shut else 'open'}")
    return 0 if names and sound and shut else 1


def stop(process: subprocess.Popen[bytes]) -> None:
    """End what was started below the command: unshare hands no signal on, and dies of none while its child lives."""
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    for each in below:
        each.terminate()
    for each in psutil.wait_procs(below, 30)[1]:
        each.kill()
    process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def wait_for(client: Client, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Until a picture comes through; SystemExit with the server's words where it does not."""
    deadline, problem = time.monotonic() + PATIENCE, "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            health = client.health(timeout=5)
        except SparseInstError as error:
            problem = str(error)
        else:
            if health.answers:
                return
            problem = health.problem
        time.sleep(0.2)
    log.seek(0)
    raise SystemExit(f"{problem}\n{log.read().decode(errors='replace')[-4000:]}")


def status(url: str) -> int:
    """HTTP status of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http, ours
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"try_image: {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
