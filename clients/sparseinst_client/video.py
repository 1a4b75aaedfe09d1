"""Frames of files and cameras, and painted frames into a file.

A file gives all its frames. A camera does not wait: of the frames that nobody took in time only the newest is kept, and
the others are counted.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}  # what OpenCV's own FFmpeg writes everywhere
_USUAL_RATE = 25.0  # where a camera does not tell its own
_STREAMS = ("rtsp://", "rtsps://", "http://", "https://")


class Video:
    """An opened file or camera.

    Args:
        source: path of a file, number of a camera, or URL of a stream (rtsp, http).

    Attributes:
        is_live: whether it is a camera or a stream.
        rate: frames a second.
        total: frames that a file says it has; 0 where it does not, and for cameras.

    Raises:
        ValueError: it is no video that OpenCV reads, or there is no such camera.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, source: str) -> None:
        self.is_live = source.isdecimal() or source.startswith(_STREAMS)
        if not self.is_live and not Path(source).is_file():
            raise FileNotFoundError(2, "no such file; wanted a video, the number of a camera, or rtsp://...", source)
        self._capture = cv2.VideoCapture(int(source)) if source.isdecimal() else cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise ValueError(f"{source} cannot be opened as a video; wanted a file or a camera that OpenCV reads")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE
        total = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.total = int(total) if not self.is_live and total > 0 else 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame, BGR uint8 [H, W, 3]."""
        while True:
            there, frame = self._capture.read()
            if not there:
                return
            yield frame  # type: ignore[misc] # OpenCV's own annotation is wider

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._capture.release()


class Newest:
    """The frames of a video as they come, the newest first where they come too fast.

    Args:
        frames: blocks until there is a frame, as a camera does.
        rate: frames a second to hold a source to that does not block; None takes them as they come.

    Attributes:
        seen: frames that came.
        dropped: those of them that were overtaken before they were taken.
    """

    def __init__(self, frames: Iterator[NDArray[np.uint8]], rate: float | None = None) -> None:
        self._frames, self._rate = frames, rate
        self._there, self._ended = threading.Condition(), False
        self._newest: NDArray[np.uint8] | None = None
        self._error: Exception | None = None
        self.seen = self.dropped = 0
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read, name="sparseinst-camera", daemon=True)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Frames until the source ends; an error of the source is raised after the last one."""
        self._reader.start()
        while True:
            with self._there:
                self._there.wait_for(lambda: self._newest is not None or self._ended)
                frame, self._newest = self._newest, None
            if frame is None:
                break
            yield frame
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Take no more frames; waits for the one that is being read."""
        self._stop.set()
        if self._reader.ident is not None:
            self._reader.join(timeout=5.0)

    def _read(self) -> None:
        start = time.monotonic()
        try:
            for number, frame in enumerate(self._frames):
                if self._rate and self._stop.wait(max(0.0, start + number / self._rate - time.monotonic())):
                    break
                if self._stop.is_set():
                    break
                with self._there:
                    self.seen += 1
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._there.notify()
        except Exception as error:  # for whoever takes the frames
            self._error = error
        finally:
            with self._there:
                self._ended = True
                self._there.notify()


class Writer:
    """A video file that appears under its name once it is whole.

    Args:
        path: ends in .mp4 or .avi.
        rate: frames a second.

    Attributes:
        frames: that were written.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.frames = path, 0
        self._rate, self._size = rate, (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        try:
            if error is None and self.frames:
                self._check()
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame, BGR uint8 [H, W, 3].

        Raises:
            ValueError: its size is not that of the frames before it.
            OSError: the file cannot be written.
        """
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self._rate, size)
            self._size = size
            if not self._writer.isOpened():
                raise OSError(5, f"cannot be written as a video of {size[0]} x {size[1]} pixels", str(self.path))
        if size != self._size:
            wanted = "{} x {}".format(*self._size)
            raise ValueError(f"a frame of {size[0]} x {size[1]} pixels came among {wanted}; a video has one size")
        self._writer.write(frame)
        self.frames += 1

    def _check(self) -> None:
        """OpenCV does not say when a frame could not be written: a full disk shows in the count."""
        written = cv2.VideoCapture(str(self._temporary))
        frames = int(written.get(cv2.CAP_PROP_FRAME_COUNT)) if written.isOpened() else 0
        written.release()
        if frames != self.frames:
            raise OSError(5, f"holds {frames} of {self.frames} frames; is the disk full?", str(self.path))
