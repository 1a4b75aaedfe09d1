"""For the tests of faults: a supervised server, its processes, and callers who know what the answers must be."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import numpy as np
import psutil

from sparseinst_client import Client, SparseInstError
from sparseinst_runtime.instances import Instances

Expected = Mapping[bytes, Instances]  # by picture


def wait_until(holds: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether something comes true in time."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(held)


def same(got: Instances, wanted: Instances) -> bool:
    """Whether two answers are the same, scores but for their last bits: two starts of an engine may differ in these."""
    return (
        got.image_size == wanted.image_size
        and np.array_equal(got.labels, wanted.labels)
        and np.allclose(got.scores, wanted.scores, atol=1e-5)
        and got.rles == wanted.rles
    )


class Load:
    """Callers that ask for pictures again and again while the block runs, each over a connection of its own.

    Attributes:
        answered: right answers so far.
        wrong: names of the callers that got another answer than the expected one.
        failures: errors of the client so far, by class.
        surprises: everything else that was raised.
    """

    def __init__(self, url: str, expected: Expected, callers: int = 4, timeout: float = 10.0, retries: int = 0) -> None:
        self.answered = 0
        self.wrong: list[str] = []
        self.failures: Counter[str] = Counter()
        self.surprises: list[BaseException] = []
        self._url, self._expected, self._options = url, expected, {"timeout": timeout, "retries": retries}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, name=f"caller {i}", daemon=True) for i in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, answers: int = 10, seconds: float = 30.0) -> bool:
        """Whether so many more right answers come in time."""
        before = self.answered
        return wait_until(lambda: self.answered >= before + answers, seconds)

    def _ask(self) -> None:
        with Client(self._url, **self._options) as client:
            while not self._over.is_set():
                for picture, wanted in self._expected.items():
                    try:
                        right = same(client.segment(picture), wanted)
                    except SparseInstError as error:
                        with self._lock:
                            self.failures[type(error).__name__] += 1
                        time.sleep(0.02)  # a refusal comes at once, and so would the next
                    except BaseException as error:  # the test says what it was
                        self.surprises.append(error)
                        return
                    else:
                        with self._lock:
                            self.answered += right
                            self.wrong += [] if right else [threading.current_thread().name]


def answered(http_url: str) -> int:
    """How many requests for `sparseinst` Triton has answered with a result so far."""
    with urlopen(f"{http_url}/v2/models/sparseinst/stats", timeout=10) as reply:
        return json.load(reply)["model_stats"][0]["inference_stats"]["success"]["count"]


def metric(metrics_url: str, name: str) -> float:
    """A metric's sum over all its labels."""
    with urlopen(metrics_url, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[{{ ]", line))


def triton_under(pid: int) -> psutil.Process:
    """The one Triton among the descendants of a process."""
    (triton,) = [each for each in _descendants(pid) if each.name() == "tritonserver"]
    return triton


def stubs_under(pid: int) -> dict[str, list[psutil.Process]]:
    """The living stubs among the descendants of a process, by model."""
    stubs: dict[str, list[psutil.Process]] = {}
    for each in _descendants(pid):
        with suppress(psutil.NoSuchProcess):
            model = next((Path(word).parents[1].name for word in each.cmdline() if word.endswith("model.py")), None)
            if model is not None:
                stubs.setdefault(model, []).append(each)
    return stubs


def stubs_that_answer(pid: int) -> tuple[str, list[psutil.Process]]:
    """A model without which no picture comes through, and its living stubs."""
    stubs = stubs_under(pid)
    model = (
        "sparseinst" if "sparseinst" in stubs else "sparseinst_network"
    )  # one model for the whole way, or an ensemble
    return model, stubs[model]


def _descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


class Supervised:
    """`python -m sparseinst_server` as a process, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self.said: list[tuple[float, str]] = []  # when, by time.monotonic(), and the line
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()
        self.url = {}
        for line in process.stdout:
            if found := re.match(r"  (HTTP|gRPC) +(\S+)", line):
                self.url[found[1].lower()] = found[2]
            if line.startswith("stop with"):
                return
        self._reader.join()
        raise AssertionError(f"the server did not start: {self.said}")

    def says(self, words: str, seconds: float, after: float = 0.0) -> float:
        """Seconds from `after`, a time of time.monotonic(), until it said something; fails when it does not in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for when, line in self.said:
                if when > after and re.search(words, line):
                    return when - after
            time.sleep(0.05)
        raise AssertionError(f"not said within {seconds:g} s: {words}; but: {[line for _, line in self.said]}")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.said.append((time.monotonic(), line.rstrip()))


@contextmanager
def supervised(python: Path, repository: Path, *arguments: str, command: Sequence[str] = ()) -> Iterator[Supervised]:
    """A server on free ports under its supervisor, as `make serve` starts it, or as another command does."""
    ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
    start = command or [str(python), "-m", "sparseinst_server"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*start, f"--repository={repository}", *ports, *arguments], stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            yield Supervised(process)
        finally:
            with suppress(ValueError, psutil.NoSuchProcess):
                triton = triton_under(process.pid)
                process.terminate()
                triton.kill()  # stopping in good order is test_lifecycle's; with a dead stub it takes all of its grace
            process.terminate()
            process.wait(60)
