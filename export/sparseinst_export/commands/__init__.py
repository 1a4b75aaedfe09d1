"""The commands of `sparseinst-export`, one module for each of them.

A module has `add(commands)`, which registers its parser with its function as `run`; that returns the exit code. What a
command needs is imported when it runs: `repository` works on a serving machine without torch, onnx and their like.
"""

from __future__ import annotations

import sys


def say(line: str) -> None:
    """Write a line of a command's answer to stdout."""
    sys.stdout.write(line + "\n")
