"""A file of JSON lines that grows while pictures are done, and survives that its writer is killed at any moment.

A line is done when it ends; half a line at the end of the file is what a killed writer leaves, and is taken away.
Beside the file lies `FILE.run.json`, which says what the lines were made with, so that a file is never gone on with in
another way. One process at a time writes to a file.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sparseinst_runtime.files import atomic_write

_SYNC = 1.0  # seconds of work that a power cut may cost; a kill costs none
_CHUNK = 2**16


class Journal:
    """The file, opened to go on with it.

    Args:
        path: the file of JSON lines; made when there is none. Its folder must exist.
        settings: what the lines are made with, ready for JSON.

    Raises:
        ValueError: another process writes to the file, or it was begun with other settings, or by another program.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._synced = path, time.monotonic()
        self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            _lock(self._file, path)
            _agree(path, settings, empty=self._file.seek(0, os.SEEK_END) == 0)
            _drop_half_a_line(self._file)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Write a line; a process that is killed afterwards leaves it whole."""
        line = memoryview(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        while line:  # a full disk takes a part and then says so
            line = line[self._file.write(line) :]
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every line from the first one, read from the disk.

        Raises:
            ValueError: a line is no JSON object with a `file_name`; it names the line.
        """
        return read_rows(self.path)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; see `Journal.rows`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                if not isinstance(row["file_name"], str):
                    raise TypeError("file_name")
            except (ValueError, TypeError, KeyError) as error:
                message = f"{path} line {number} is no result of a picture; remove the line, its picture is done again"
                raise ValueError(message) from error
            yield row


def disagreement(begun: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two runs, in words: "NAME VALUE, now VALUE"; nothing when they may share their results."""
    different = sorted(key for key in begun.keys() | now.keys() if begun.get(key) != now.get(key))
    return ", ".join(f"{key} {str(begun.get(key))[:60]}, now {str(now.get(key))[:60]}" for key in different)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
    except BlockingIOError as error:
        raise ValueError(f"another run writes to {path}; wait for it, or name another file") from error


def _agree(path: Path, settings: dict[str, Any], *, empty: bool) -> None:
    beside = path.with_name(f"{path.name}.run.json")
    if empty:
        atomic_write(beside, json.dumps(settings, indent=1) + "\n")
        return
    try:
        begun = json.loads(beside.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is there, and {beside.name} beside it is not; name another file, or remove it"
        ) from error
    if difference := disagreement(begun, settings):
        raise ValueError(f"{path} was begun with {difference}; go on with the same, or name another file")


def _drop_half_a_line(file: BinaryIO) -> None:
    """Cut the file after its last end of a line."""
    end = size = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _CHUNK)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < size:
        file.truncate(end)
