"""Contenders that do next to nothing, to see that turns are taken and measured; light, since processes import them."""

from __future__ import annotations

import time

import numpy as np
from peers.contenders import Answer, NotHereError


def slow(setting):
    def segment(picture):
        time.sleep(0.002 * len(picture))
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return Answer((1, 1), (b"11",) * len(picture), np.ones(len(picture), np.float32))

    return segment


def absent(setting):
    raise NotHereError("no such package")


def broken(setting):
    def segment(picture):
        raise ValueError("this picture is not to my taste")

    return segment
