"""How long pictures take that come all at once: whether any of them lies about while nothing works on it.

    .venv-serve/bin/python ci/bench_bursts.py [--bursts 25]

Serves build/model_repository (`make bench` fills it) on a real Triton and sends bursts of 2, 4 and 8 pictures, each
burst after the answer to the last. A burst takes as long as its slowest picture; a figure far above burst size times
the time of one picture is a stall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sparseinst_client import Client
from sparseinst_server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
BURSTS = (1, 2, 4, 8)
PAUSE = 0.05  # seconds between bursts, so that every queue is empty


def main() -> int:
    """Print a row for each size of burst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, default=25, help="of each size (%(default)s)")
    options = parser.parse_args()
    picture = (ROOT / "assets" / "scenes" / "images" / "scene_01.jpg").read_bytes()
    preset = os.environ.get("PRESET") or "cpu"
    sys.stdout.write("| pictures at once | median ms | largest ms |\n|---|---|---|\n")
    with ExitStack() as stack:
        server = stack.enter_context(TritonServer(ROOT / "build" / "model_repository", config_name=preset))
        clients = [stack.enter_context(Client(server.grpc_url, retries=0)) for _ in range(max(BURSTS))]
        pool = stack.enter_context(ThreadPoolExecutor(max(BURSTS)))

        def once(client: Client) -> float:
            begin = time.perf_counter()
            client.segment(picture)
            return time.perf_counter() - begin

        list(pool.map(once, clients))  # connections
        for size in BURSTS:
            slowest = []
            for _ in range(options.bursts):
                time.sleep(PAUSE)
                slowest.append(1000 * max(pool.map(once, clients[:size])))
            sys.stdout.write(f"| {size} | {statistics.median(slowest):.0f} | {max(slowest):.0f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
