"""`sparseinst-client video`."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparseinst_client.client import Client
from sparseinst_client.commands.arguments import (
    add_command,
    add_in_flight,
    add_selection,
    check_outputs,
    complain,
    connect,
    count,
    path_with,
    say,
)
from sparseinst_client.commands.progress import progress_of
from sparseinst_client.video import CODECS, Newest, Video, Writer

EXAMPLES = """\
  sparseinst-client video zoo.mp4 --out painted.mp4
      every frame of a file, in order
  sparseinst-client video zoo.mp4 --out painted.mp4 --track
      an instance keeps its number and its colour from frame to frame (ByteTrack)
  sparseinst-client video 0 --out painted.mp4
      the first camera, until Ctrl-C; frames that come too fast are left out and counted
  sparseinst-client video rtsp://camera/stream --out painted.avi --max-frames 1000
      a camera in the network
"""
DESCRIPTION = """\
Segment the frames of a video or a camera and write them, painted, to a video without sound.

--track needs the package trackers, and all that it uses is installed already: pip install --no-deps 'trackers>=2.6,<3'
With its dependencies came opencv-python, which takes the place of the headless OpenCV that everything here runs on.
"""
_QUALITY = 95  # of the JPEGs that travel: frames of videos have lost more than that already


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    video = add_command(commands, "video", "segment a video or a camera", DESCRIPTION, EXAMPLES)
    out = partial(path_with, tuple(CODECS))
    video.add_argument("source", metavar="SOURCE", help="a video file, the number of a camera, or rtsp://...")
    video.add_argument("--out", type=out, required=True, metavar="FILE", help="painted video, .mp4 or .avi")
    video.add_argument("--track", action="store_true", help="number instances from frame to frame")
    video.add_argument("--live", action="store_true", help="play a file at its own speed, as if it were a camera")
    video.add_argument("--max-frames", type=count, metavar="N", help="stop after N frames")
    add_in_flight(video)
    add_selection(video)
    video.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the video and say how many frames it has, and lacks."""
    check_outputs(options.out)
    video = Video(options.source)
    is_live = video.is_live or options.live
    newest = Newest(iter(video), None if video.is_live else video.rate) if is_live else None
    total = min(filter(None, (video.total, options.max_frames)), default=None)
    writer = Writer(options.out, video.rate)
    try:
        with connect(options) as client, writer, progress_of("frames") as shown:
            task = shown.add_task("painting", total=total)
            frames = islice(newest or video, options.max_frames)
            try:
                for painted in _painted(client, frames, video.rate, options):
                    writer.write(painted)
                    shown.advance(task)
            except KeyboardInterrupt:
                if not is_live:  # of a file all frames are wanted; a camera has no other end
                    raise
    finally:
        if newest is not None:
            newest.close()
        video.close()
    if not writer.frames:
        complain(f"{options.source} has no frame that can be read")
        return 1
    dropped = f", {newest.dropped} of {newest.seen} that came were dropped" if newest is not None else ""
    say(f"{writer.frames} frames{dropped}: {options.out}")
    if total and writer.frames < total and newest is None:
        complain(f"{options.source} says that it has {video.total} frames; only {writer.frames} can be read")
    return 0


def _painted(
    client: Client, frames: Iterable[NDArray[np.uint8]], rate: float, options: argparse.Namespace
) -> Iterator[NDArray[np.uint8]]:
    """The frames in order, painted: BGR uint8 [H, W, 3]."""
    from sparseinst_client.draw import overlay
    from sparseinst_client.tracking import Tracker

    tracker = Tracker(rate) if options.track else None
    classes = client.classes
    under_way: deque[NDArray[np.uint8]] = deque()
    stream = client.stream(
        _sent(frames, under_way),
        in_flight=options.in_flight,
        score_threshold=options.score_threshold,
        max_instances=options.max_instances,
    )
    for found in stream:
        frame = cv2.cvtColor(under_way.popleft(), cv2.COLOR_BGR2RGB)
        numbers = tracker.numbers(found) if tracker else None
        yield cv2.cvtColor(overlay(frame, found, classes, numbers), cv2.COLOR_RGB2BGR)  # type: ignore[misc]


def _sent(frames: Iterable[NDArray[np.uint8]], under_way: deque[NDArray[np.uint8]]) -> Iterator[bytes]:
    """Frames as JPEGs; `under_way` keeps them until their instances are there."""
    for frame in frames:
        written, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not written:
            raise ValueError(f"a frame of shape {list(frame.shape)} cannot be sent as JPEG")
        under_way.append(frame)
        yield data.tobytes()
