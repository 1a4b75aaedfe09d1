"""`sparseinst-client bench`: hands over to the benchmark, which has a command line of its own."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:  # argparse's own type of it is private
    """Register the command; every argument, --help among them, is the benchmark's."""
    bench = commands.add_parser(
        "bench", help="measure throughput and latency (extra 'bench')", add_help=False, prefix_chars="\0"
    )
    bench.add_argument("arguments", nargs="*")
    bench.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure."""
    from sparseinst_client.benchmark.command import main

    return main(options.arguments)
