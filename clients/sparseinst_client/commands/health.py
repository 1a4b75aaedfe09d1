"""`sparseinst-client health`."""

from __future__ import annotations

import argparse
from typing import Any

from sparseinst_client.commands.arguments import add_command, complain, connect, say

EXAMPLES = """\
  sparseinst-client health --url http://gpu-box:8000
      does the server answer? sends a real picture through it
  until sparseinst-client health --timeout 5; do sleep 1; done
      wait for a server, in a script
"""
DESCRIPTION = """\
Ask a server how it is and send a small picture through it; exit status 0 when it came back.

What counts is the picture: a server whose Python backend died goes on to say that it is ready.
"""


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command."""
    health = add_command(commands, "health", "ask whether the server works", DESCRIPTION, EXAMPLES)
    health.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Say how the server is."""
    with connect(options) as client:
        health = client.health()
    claim = "ready" if health.ready else "not ready"
    say(f"{health.server}, model {health.model}: says it is {claim}")
    if not health.answers:
        complain(f"no answer to a picture: {health.problem}")
        return 1
    say(f"a picture came back in {health.seconds * 1000:.0f} ms")
    return 0
