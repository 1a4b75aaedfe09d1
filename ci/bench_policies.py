"""What queues, priorities and the rate limiter do when too many ask: a real Triton, a stand-in for a GPU's engine.

    .venv-serve/bin/python ci/bench_policies.py [--seconds 8]

The same stand-in as in bench_settings.py: 222 pictures/s at most, 36 ms for a full batch. Sixty callers, each asking
again as soon as it is answered or refused (after 20 ms), are about twice what a queue of 32 holds; four of them are
marked as urgent, priority 1, where the setting knows priorities.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
from bench_settings import CONTRACT, stand_in
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from sparseinst_export.layout import NETWORK

CALLERS, URGENT = 60, 4
BACK_OFF = 0.1  # seconds; who is refused and asks again at once would be the load
QUEUE = "default_queue_policy { max_queue_size: 32 %s }"
PATIENCE = "timeout_action: REJECT default_timeout_microseconds: %d allow_timeout_override: true"
PRIORITIES = "priority_levels: 2 default_priority_level: 2"
SETTINGS = {  # contents of dynamic_batching, instances of the network, options of Triton's own
    "no limit": ("", 1, ()),
    "queue of 32": (QUEUE % "", 1, ()),
    "queue of 32, answers in order": (f"preserve_ordering: true {QUEUE % ''}", 1, ()),
    "queue of 32, 100 ms": (QUEUE % (PATIENCE % 100_000), 1, ()),
    "no limit, two priorities": (PRIORITIES, 1, ()),
    "queue of 32, two priorities": (f"{PRIORITIES} {QUEUE % ''}", 1, ()),
    "queue of 32, two instances": (QUEUE % "", 2, ()),
    "queue of 32, two priorities, 5 s, two instances": (f"{PRIORITIES} {QUEUE % (PATIENCE % 5_000_000)}", 2, ()),
    "no limit, rate limiter": ("", 1, ("--rate-limit=execution_count",)),
}


def measure(url: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of each request by what became of it: `urgent`, `others`, `refused`."""
    client, lock = InferenceServerClient(urlsplit(url).netloc), threading.Lock()
    found: dict[str, list[float]] = {"urgent": [], "others": [], "refused": []}
    end = time.monotonic() + seconds

    def ask(caller: int) -> None:
        tensor = InferInput("image", [1, *CONTRACT.input.shape], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, *CONTRACT.input.shape), np.uint8))
        while time.monotonic() < end:
            start, kind = time.monotonic(), "urgent" if caller < URGENT else "others"
            try:
                client.infer(NETWORK, [tensor], priority=1 if caller < URGENT else 0)
            except InferenceServerException as error:
                if error.status() != "StatusCode.UNAVAILABLE":
                    raise
                kind = "refused"
            with lock:
                found[kind].append(time.monotonic() - start)
            if kind == "refused":
                time.sleep(BACK_OFF)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(ask, range(CALLERS)))
    client.close()
    return found


def main() -> int:
    """Measure every setting in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="for each setting (%(default)s)")
    options = parser.parse_args()
    say = sys.stdout.write
    say("| setting | pictures/s | urgent, p50 / p99 ms | others, p50 / p99 ms | refused | p99 ms of a refusal |\n")
    say("|---|---:|---:|---:|---:|---:|\n")
    for name, (batching, instances, more) in SETTINGS.items():
        with stand_in(f"dynamic_batching {{ {batching} }}", instances, *more) as url:
            found = measure(url, options.seconds)
        answered = len(found["urgent"]) + len(found["others"])
        share = len(found["refused"]) / (answered + len(found["refused"]))
        cells = [f"{answered / options.seconds:.0f}", _quantiles(found["urgent"]), _quantiles(found["others"])]
        refusal = f"{1000 * np.quantile(found['refused'], 0.99):.0f}" if found["refused"] else ""
        say(f"| {name} | {' | '.join(cells)} | {share:.0%} | {refusal} |\n")
        sys.stdout.flush()
    return 0


def _quantiles(seconds: list[float]) -> str:
    if not seconds:
        return "none answered"
    return " / ".join(f"{1000 * np.quantile(seconds, q):.0f}" for q in (0.5, 0.99))


if __name__ == "__main__":
    sys.exit(main())
