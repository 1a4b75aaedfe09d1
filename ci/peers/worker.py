"""A process for each contender: it works when it is told to, waits at a pipe otherwise, and measures itself."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.contenders import Answer, Contender, NotHereError, Setting

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """What a contender did in one turn.

    Attributes:
        seconds: by the clock, for each picture, from its bytes to its run lengths.
        wall: of the whole turn.
        processor: seconds of processor time of the whole turn, all threads; a server's own are added by who knows it.
        instances: found in each picture.
        run_bytes: bytes of the run lengths of each picture.
    """

    seconds: tuple[float, ...]
    wall: float
    processor: float
    instances: tuple[int, ...]
    run_bytes: tuple[int, ...]


class Worker:
    """A contender in a process of its own.

    Raises:
        NotHereError: it cannot take part; the message says why.
        RuntimeError: it failed; the message is the contender's.
    """

    def __init__(self, contender: Contender, setting: Setting, pictures: tuple[bytes, ...]) -> None:
        context = multiprocessing.get_context("spawn")  # no threads of ours in it
        self.contender = contender
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, contender, setting, pictures), daemon=True)
        self._process.start()
        theirs.close()
        self._receive()

    def turn(self, pictures: list[int]) -> Turn:
        """Segment the pictures of these numbers, one after the other or as many at a time as the contender does."""
        self._pipe.send(pictures)
        return self._receive()

    def answers(self, pictures: list[int]) -> list[Answer]:
        """What it finds in them; nothing is measured."""
        self._pipe.send(("answers", pictures))
        return self._receive()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()  # the worker ends when nobody can tell it anything
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _receive(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.contender.name} ended without a word") from None
        if kind == "not here":
            raise NotHereError(value)
        if kind == "failed":
            raise RuntimeError(f"{self.contender.name}: {value}")
        return value


def _work(pipe: Any, contender: Contender, setting: Setting, pictures: tuple[bytes, ...]) -> None:
    try:
        segment = contender.make(setting)
        pipe.send(("ready", None))
        with ThreadPoolExecutor(contender.concurrency) as pool:
            while True:
                task = pipe.recv()
                if isinstance(task, tuple):
                    pipe.send(("answers", [segment(pictures[number]) for number in task[1]]))
                else:
                    pipe.send(("turn", _turn(segment, [pictures[number] for number in task], pool)))
    except EOFError:
        return
    except NotHereError as error:
        pipe.send(("not here", str(error)))
    except Exception as error:  # whatever a contender raises is the report's to tell
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


def _turn(segment: Any, pictures: list[bytes], pool: ThreadPoolExecutor) -> Turn:
    def timed(picture: bytes) -> tuple[float, Answer]:
        start = time.perf_counter()
        answer = segment(picture)
        return time.perf_counter() - start, answer

    start, processor = time.perf_counter(), time.process_time()
    results = list(pool.map(timed, pictures))
    wall, processor = time.perf_counter() - start, time.process_time() - processor
    return Turn(
        seconds=tuple(seconds for seconds, _ in results),
        wall=wall,
        processor=processor,
        instances=tuple(len(answer.masks) for _, answer in results),
        run_bytes=tuple(sum(map(len, answer.masks)) for _, answer in results),
    )


def processor_time(root: int) -> float:
    """Seconds of processor time of a process and all below it, the ended ones that were waited for included."""
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name may hold blanks
        except OSError:  # it ended meanwhile
            continue
        parents[int(folder.name)] = int(fields[1])
        times[int(folder.name)] = sum(map(int, fields[11:15])) / TICK
    below, grown = {root}, True
    while grown:
        found = {pid for pid, parent in parents.items() if parent in below} - below
        below |= found
        grown = bool(found)
    return sum(times.get(pid, 0.0) for pid in below)
