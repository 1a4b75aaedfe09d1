"""Keep a Triton answering: notice within seconds that it no longer does, repair it, give up in words.

    with TritonServer("build/model_repository") as server:
        Supervisor(server).run()

Triton 2.51 never replaces a stub that was killed, and calls itself ready all the while. So its processes are looked at,
and a small picture goes through the ensemble. A server that is only busy is left alone: the queue of a dead one is full
as well, but a busy one goes on answering somebody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import numpy as np
import psutil
from tritonclient import http
from tritonclient.utils import InferenceServerException

from sparseinst_client import Client, DeadlineExceeded, Overloaded, ServerUnavailable, SparseInstError
from sparseinst_server.locate import InstallationError
from sparseinst_server.server import ServerError, TritonServer

LOG = logging.getLogger(__name__)
ENSEMBLE = "sparseinst"
STUB = "triton_python_b"  # of triton_python_backend_stub, what the kernel keeps of a dead process's name
GREY = np.full((32, 32, 3), 128, np.uint8)


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits for what, in seconds; the defaults notice a server that hangs within ten.

    Attributes:
        interval: between two looks.
        timeout: for a picture of the supervisor's own.
        count: for Triton's counters.
        looks: so many in a row have to find a fault before anything is done.
        stop: for Triton to end before it is killed: with a dead stub it does not end by itself.
        load: for a model, told to load again, to answer.
        pause: before the second repair in a row; it doubles with each further one, up to `longest_pause`.
        repairs: in a row, before the supervisor gives up.
        calm: so long a server must go on answering for its repairs to be forgotten.
    """

    interval: float = 1.0
    timeout: float = 2.5
    count: float = 0.5
    looks: int = 2
    stop: float = 3.0
    load: float = 10.0
    pause: float = 1.0
    longest_pause: float = 30.0
    repairs: int = 5
    calm: float = 60.0


@dataclass(frozen=True)
class Fault:
    """What is wrong with a server.

    Attributes:
        sentence: in words.
        models: whose processes are gone, if that is what is wrong; these can be loaded again by themselves.
        certain: no second look is needed.
    """

    sentence: str
    models: frozenset[str] = frozenset()
    certain: bool = False


class Supervisor:
    """Watches a server that is running, and repairs it.

    Args:
        server: entered already; its first start is not the supervisor's. With `control="explicit"` a model whose
            process is gone is loaded again and the rest goes on serving; otherwise Triton is started again, on the same
            ports.
        patience: how long to wait for what.
    """

    def __init__(self, server: TritonServer, patience: Patience | None = None) -> None:
        self._server = server
        self._patience = patience or Patience()
        self._stubs: dict[int, str] = {}  # the stubs seen so far, alive or dead, and their models
        self._mourned: set[int] = set()  # dead ones whose models were loaded again: Triton keeps them to its end
        self._answered = 0
        self._repairs = 0

    def run(self) -> NoReturn:
        """Watch and repair for ever.

        Raises:
            ServerError: repairs in a row, as many as patience allows, did not help.
        """
        while True:
            self._repair(self._watch())

    def _watch(self) -> Fault:
        """Look at the server once an interval; gives the fault once enough looks in a row have found one."""
        start = sound = time.monotonic()
        found = 0
        while True:
            fault = self.look()
            now = time.monotonic()
            if fault is None:
                found, sound = 0, now
            else:
                found += 1
                if fault.certain or found >= self._patience.looks:
                    LOG.warning("%s; last found sound %.1f s ago", fault.sentence, now - sound)
                    return fault
            if self._repairs and sound - start > self._patience.calm:
                self._repairs = 0
            try:
                self._server.wait(self._patience.interval)
            except ServerError:
                continue  # the next look says so

    def look(self) -> Fault | None:
        """What is wrong with the server at this moment, if anything is."""
        try:
            self._server.wait(0)
        except ServerError as error:
            return Fault(str(error), certain=True)
        gone = self._gone()
        if gone:
            return Fault(f"a process of {' and of '.join(sorted(gone))} is gone", frozenset(gone))
        before, self._answered = self._answered, self._count()
        return None if self._answered > before else self._probe()

    def _gone(self) -> set[str]:
        """The models that lost a process; Triton waits for stubs that it stops itself, so a zombie is one it lost."""
        gone = set()
        for process in _descendants(self._server.pid):
            try:
                if not process.name().startswith(STUB):
                    continue
                if process.status() != psutil.STATUS_ZOMBIE:
                    self._stubs[process.pid] = _model(process.cmdline())
                elif process.pid not in self._mourned:
                    gone.add(self._stubs.get(process.pid, "an unknown model"))
            except psutil.NoSuchProcess:
                continue  # it died while we looked; if it was lost, the next look says so
        return gone

    def _probe(self) -> Fault | None:
        """Send a picture; a refusal or a missing reply is no fault while others are answered."""
        deadline = time.monotonic() + self._patience.timeout
        try:
            with Client(self._server.http_url, retries=0) as client:
                client.segment(GREY, timeout=self._patience.timeout)
        except (DeadlineExceeded, Overloaded, ServerUnavailable) as error:
            return None if self._goes_on(deadline) else Fault(f"no picture comes through: {error}")
        except SparseInstError as error:
            return Fault(f"no picture comes through: {error}")
        self._answered = self._count()
        return None

    def _goes_on(self, deadline: float) -> bool:
        """Whether the ensemble answers anybody until then."""
        while True:
            if (count := self._count()) > self._answered:
                self._answered = count
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)

    def _count(self) -> int:
        """Requests that the ensemble has answered since it was loaded; what is known already, where Triton is mute."""
        try:
            with self._triton(self._patience.count) as triton:
                rows = triton.get_inference_statistics(ENSEMBLE)["model_stats"]
            return sum(int(row["inference_stats"]["success"]["count"]) for row in rows)
        except (InferenceServerException, OSError, KeyError, TypeError, ValueError):
            return self._answered

    def _repair(self, fault: Fault) -> None:
        """Load what died again, or start Triton again, until pictures come through."""
        while True:
            if self._repairs >= self._patience.repairs:
                raise ServerError(
                    f"gave up after {self._repairs} repairs in a row, the last because of: {fault.sentence}; "
                    "find the reason in Triton's log, and start the server again"
                )
            if self._repairs:
                time.sleep(min(self._patience.pause * 2 ** (self._repairs - 1), self._patience.longest_pause))
            self._repairs += 1
            start = time.monotonic()
            if self._load_again(fault.models):
                how = "loaded again"
            else:
                try:
                    self._start_again()
                except (ServerError, InstallationError) as error:
                    fault = Fault(str(error))
                    LOG.warning("%s", fault.sentence)
                    continue
                how = "Triton was started again"
            self._answered = self._count()
            LOG.warning("answers again, %.1f s later: %s", time.monotonic() - start, how)
            return

    def _load_again(self, models: Iterable[str]) -> bool:
        """Unload and load models; false where Triton takes no such orders or no picture comes through afterwards."""
        if not models or self._server.control != "explicit":
            return False
        dead = {pid for pid, model in self._stubs.items() if model in models}
        deadline = time.monotonic() + self._patience.load
        try:
            with self._triton(self._patience.load) as triton:
                for model in models:
                    triton.unload_model(model, headers=self._server.doors.http_headers)
                    triton.load_model(model, headers=self._server.doors.http_headers)
        except (InferenceServerException, OSError) as error:
            LOG.warning("could not be loaded again: %s", error)
            return False
        self._mourned |= dead
        while (fault := self._probe()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return fault is None

    def _start_again(self) -> None:
        """Stop Triton, with less time for it than a sound one gets, and start it; raises as entering does."""
        with suppress(RuntimeError):  # it does not run: the last start failed
            tritons = _descendants(self._server.pid, recursive=False)
            for triton in tritons:
                triton.terminate()
            for triton in psutil.wait_procs(tritons, self._patience.stop)[1]:
                triton.kill()
        self._server.stop()
        self._stubs.clear()
        self._mourned.clear()
        if self._server.log is not None:  # the log says why it had to be started again
            self._server.log.replace(self._server.log.with_name(f"{self._server.log.name}.1"))
        self._server.__enter__()

    def _triton(self, timeout: float) -> http.InferenceServerClient:
        address = urlsplit(self._server.http_url).netloc
        return http.InferenceServerClient(address, connection_timeout=timeout, network_timeout=timeout)


def _descendants(pid: int, *, recursive: bool = True) -> list[psutil.Process]:
    """The processes under one; none where it has ended."""
    try:
        return psutil.Process(pid).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _model(command: list[str]) -> str:
    """The model whose stub was started by a command: the folder above the version's."""
    return next((Path(word).parents[1].name for word in command if word.endswith("model.py")), "an unknown model")
