"""Start, probe and stop a real Triton on this machine.

Triton is one process with a stub process for each instance of a Python model, and memory in /dev/shm that they share.
`guard.py` runs it and clears all of that away, as soon as we let go of a pipe; here it is laid out, started and probed.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

from sparseinst_server.doors import Doors
from sparseinst_server.locate import Installation, locate
from sparseinst_server.log import explain

Control = Literal["none", "poll", "explicit"]
CONTROL: dict[Control, list[str]] = {
    "none": [],
    "poll": ["--repository-poll-secs=1"],
    "explicit": ["--load-model=*"],
}
LOG_READ = 1 << 24  # bytes of the log to look for a reason in; a start writes about 20 KB


class ServerError(RuntimeError):
    """Triton did not start, did not become ready or ended by itself; the message says why, from its log."""


class TritonServer:
    """A Triton that serves one model repository: ready once entered, gone without a trace once left.

    Entering returns after a picture went through the ensemble `sparseinst`. Triton ends with this process, also when
    that is killed. Entered again after it was left, it takes the same ports.

    Args:
        repository: folder of models, as `sparseinst-export repository` writes it.
        config_name: Triton's --model-config-name, a preset of the repository: "cpu", "cpu-int8", ...
        control: Triton's --model-control-mode: "none" serves what lies there at the start, "poll" looks for changes
            every second, "explicit" loads all models at the start and later what it is told to.
        http_port, grpc_port, metrics_port: 0 takes a free one.
        host: address to listen on; the default cannot be reached from other machines.
        doors: who may do what; by default nobody gets at more than models and their answers. With TLS only gRPC listens
            on `host`: HTTP and metrics, that have none, stay on 127.0.0.1, for a proxy.
        log: file for everything Triton says, overwritten; with None only errors get to see it.
        python: interpreter whose environment the models run in, with Triton installed beside it.
        options: more of Triton's own, such as `--trace-config=mode=opentelemetry`.
        timeout: seconds that loading and the first inference may take.
        grace: seconds that Triton may take to finish requests and stop, before it is killed.

    Attributes:
        repository, log: as given, absolute.
        control: as given.
        doors: as given, with the key that opens what is shut.

    Raises:
        InstallationError: on entering, Triton is not installed or cannot run here.
        ServerError: on entering, a port is taken, no repository is there, or none with the preset's engine, or Triton
            failed or took too long.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str],
        *,
        config_name: str = "cpu",
        control: Control = "none",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        host: str = "127.0.0.1",
        doors: Doors | None = None,
        log: str | os.PathLike[str] | None = None,
        python: str | os.PathLike[str] = sys.executable,
        options: tuple[str, ...] = (),
        timeout: float = 120.0,
        grace: float = 15.0,
    ) -> None:
        self.repository = Path(repository).resolve()
        self.log = Path(log).resolve() if log is not None else None
        self._config_name = config_name
        self.control: Control = control
        self.doors = doors or Doors()
        inside = host if self.doors.tls is None else "127.0.0.1"
        self._hosts = {"http": inside, "grpc": host, "metrics": inside}
        self._wanted = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._ports: dict[str, int] = {}
        self._python = python
        self._timeout, self._grace, self._options = timeout, grace, options
        self._prefix = f"sparseinst-{os.getpid()}-{secrets.token_hex(4)}-"
        self._output: BinaryIO | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def http_url(self) -> str:
        """`http://127.0.0.1:8000`, for Client and everything that speaks HTTP."""
        return f"http://{self._hosts['http']}:{self._ports['http']}"

    @property
    def grpc_url(self) -> str:
        """`grpc://127.0.0.1:8001`, for Client; with TLS `grpcs://`."""
        scheme = "grpc" if self.doors.tls is None else "grpcs"
        return f"{scheme}://{self._hosts['grpc']}:{self._ports['grpc']}"

    @property
    def metrics_url(self) -> str:
        """`http://127.0.0.1:8002/metrics`, for Prometheus."""
        return f"http://{self._hosts['metrics']}:{self._ports['metrics']}/metrics"

    @property
    def pid(self) -> int:
        """Process id of the guard, Triton's parent."""
        return self._running().pid

    def __enter__(self) -> TritonServer:
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:  # an interrupt, too, must leave nothing behind
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Block for as long as Triton runs, or so many seconds.

        Raises:
            ServerError: Triton ended by itself, which it never should.
        """
        try:
            status = self._running().wait(timeout)
        except subprocess.TimeoutExpired:
            return
        raise ServerError(f"Triton ended by itself (exit status {status}): {self._explain()}")

    def stop(self) -> None:
        """Stop Triton and remove all it left; does nothing when it does not run."""
        guard, self._guard = self._guard, None
        if guard is not None:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()
        if self._output is not None:
            self._output.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._guard is None:
            raise RuntimeError("the server is not running; enter it first")
        return self._guard

    def _start(self) -> None:
        if not self.repository.is_dir():
            raise ServerError(f"no model repository at {self.repository}; `sparseinst-export repository` writes one")
        self._check_preset()
        installation = locate(self._python)
        self._ports = _claim_ports(self._hosts, self._ports or self._wanted)
        self._output = _open_log(self.log)
        folder = Path(tempfile.mkdtemp(prefix="sparseinst-server-"))
        _assemble(installation, folder)
        guard = [sys.executable, str(Path(__file__).with_name("guard.py")), str(self._grace), self._prefix, str(folder)]
        self._guard = subprocess.Popen(  # noqa: S603 - our own command, no shell
            guard + self._command(installation, folder),
            env=_environment(installation, folder),
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone
        )

    def _check_preset(self) -> None:
        """Say what Triton would not: it serves the default for a preset that nobody has."""
        # Imported here, so that `--check` runs, and can say so, where a package is missing.
        from sparseinst_export.layout import RepositoryError  # noqa: PLC0415
        from sparseinst_export.presets import preset_problem  # noqa: PLC0415
        from sparseinst_export.versions import served_version  # noqa: PLC0415

        try:
            problem = preset_problem(self.repository, self._config_name, served_version(self.repository))
        except RepositoryError as error:
            raise ServerError(str(error)) from error
        if problem is not None:
            raise ServerError(problem)

    def _command(self, installation: Installation, folder: Path) -> list[str]:
        listen = [
            f"--{name}-{key}={value}"
            for name, port in self._ports.items()
            for key, value in (("address", self._hosts[name]), ("port", port))
        ]
        return [
            str(installation.tritonserver),
            f"--model-repository={self.repository}",
            f"--model-config-name={self._config_name}",
            f"--model-control-mode={self.control}",
            *CONTROL[self.control],
            "--disable-auto-complete-config",  # what the config files say, and nothing guessed
            f"--backend-directory={folder / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            f"--cache-directory={installation.caches}",
            "--allow-gpu-metrics=false",
            f"--exit-timeout-secs={max(1, int(self._grace) - 2)}",
            *listen,
            *self.doors.flags(),
            *self._options,
        ]

    def _wait_until_ready(self) -> None:
        """Return once a picture came back; that Triton calls itself ready proves less."""
        # Imported here, so that `--check` runs, and can say so, where a package is missing.
        from sparseinst_client import Client, SparseInstError  # noqa: PLC0415

        process = self._running()
        deadline, problem = time.monotonic() + self._timeout, ""
        with Client(self.http_url) as client:  # HTTP: gRPC would wait longer and longer between attempts to connect
            while (left := deadline - time.monotonic()) > 0:
                if process.poll() is not None:
                    raise ServerError(f"Triton did not start: {self._explain()}")
                try:
                    health = client.health(timeout=left)
                except SparseInstError as error:  # not listening yet
                    problem = str(error)
                else:
                    if health.answers:
                        return
                    problem = health.problem
                time.sleep(0.1)
        raise ServerError(f"Triton did not answer within {self._timeout:g} s ({problem}): {self._explain()}")

    def _explain(self) -> str:
        if self._output is None:
            return ""
        # pread: Triton writes at the position of the same open file, which must stay where it is
        text = os.pread(self._output.fileno(), LOG_READ, 0)
        return explain(text.decode(errors="replace"))


def _open_log(path: Path | None) -> BinaryIO:
    """The file for Triton's words; without a path one without a name, that ends with its last reader."""
    if path is None:
        return tempfile.TemporaryFile()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w+b")


def _assemble(installation: Installation, folder: Path) -> None:
    """Lay out what Triton wants in one folder, as links: the Python backend with the stub of the right version.

    The wheel keeps the stubs elsewhere; linking here leaves the environment as it is.
    """
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    for file in installation.backend.iterdir():
        (backend / file.name).symlink_to(file)
    stub = backend / installation.stub.name
    stub.unlink(missing_ok=True)  # a link of somebody else's, for whichever version
    stub.symlink_to(installation.stub)
    if installation.libpython is not None:  # this library alone: its folder may hold others that Triton must not load
        libraries = folder / "lib"
        libraries.mkdir()
        (libraries / installation.libpython.name).symlink_to(installation.libpython)


def _environment(installation: Installation, folder: Path) -> dict[str, str]:
    """Our environment, so turned that the stub runs in the interpreter's: it takes the first `python3` on PATH."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    environment["PATH"] = f"{installation.python.parent}:{environment.get('PATH', os.defpath)}"
    if installation.libpython is not None:
        environment["LD_LIBRARY_PATH"] = f"{folder / 'lib'}:{environment.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return environment


def _claim_ports(hosts: dict[str, str], wanted: dict[str, int]) -> dict[str, int]:
    """A port for each name; free ones for 0. Held all at once, so that they differ, and let go for Triton to take."""
    ports = {}
    with ExitStack() as held:
        for name, port in wanted.items():
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                listener.bind((hosts[name], port))
            except OSError as error:
                raise ServerError(
                    f"{name} port {port} on {hosts[name]} cannot be used ({error.strerror}); "
                    "stop what listens there, choose another, or 0 for a free one"
                ) from error
            ports[name] = listener.getsockname()[1]
    return ports
