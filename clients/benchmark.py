"""Measure a running server: how long one picture takes, and where in the server that time goes.

    python clients/benchmark.py --url grpc://127.0.0.1:8001 --requests 100 PICTURES...

Single stream: one request at a time, the next leaves when the answer to the last has arrived. So these are latencies,
and `pictures/s` is what one patient caller gets, not what the server can do under load. Latency is what the caller
sees, from encoded bytes in memory to `Instances`; the time of each stage is what Triton itself counted meanwhile, so
nobody else may use the server. Quote figures with the machine they were taken on, and only when it did nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tritonclient import grpc, http

from sparseinst_client import Client
from sparseinst_client.cli import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Sequence

ENSEMBLE = "sparseinst"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class Stage:
    """What Triton spent in one model, summed over requests, in milliseconds.

    Attributes:
        requests: requests that succeeded.
        total: from entering the model's queue to the answer; of an ensemble, all its stages and the way between them.
        queue: waiting for a free instance and for the batch to form.
        compute: inside the model, copies in and out included; an ensemble reports none of its own.
    """

    requests: int = 0
    total: float = 0
    queue: float = 0
    compute: float = 0

    def since(self, before: Stage) -> Stage:
        """What was added since an earlier reading of the same counters."""
        return Stage(
            self.requests - before.requests,
            self.total - before.total,
            self.queue - before.queue,
            self.compute - before.compute,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write a Markdown table to stdout."""
    parser = argparse.ArgumentParser(description="Measure the latency of a running server, one request at a time.")
    parser.add_argument("pictures", nargs="+", type=Path, help="picture files, or folders of them")
    url = os.environ.get("SPARSEINST_URL") or DEFAULT_URL
    parser.add_argument("--url", default=url, help="grpc://host:port or http://host:port (now: %(default)s)")
    parser.add_argument("--requests", type=int, default=100, help="requests to measure (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=10, help="requests before, not counted (%(default)s)")
    options = parser.parse_args(arguments)
    if options.requests < 2 or options.warm_up < 0:
        parser.error("wanted at least 2 --requests and a --warm-up of 0 or more")
    pictures = read_pictures(options.pictures)
    if not pictures:
        parser.error(f"no pictures ({', '.join(sorted(SUFFIXES))}) among {', '.join(map(str, options.pictures))}")

    with Client(options.url) as client:
        measure(client, pictures, options.warm_up)
        before = read_stages(options.url)
        seconds = measure(client, pictures, options.requests)
        after = read_stages(options.url)
    stages = {name: stage.since(before.get(name, Stage())) for name, stage in after.items()}
    sys.stdout.write(report(options.url, len(pictures), seconds, stages))
    return 0


def read_pictures(paths: Sequence[Path]) -> list[bytes]:
    """Encoded pictures of the given files and of the folders' files, in a fixed shuffled order that mixes sizes."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    random.Random(0).shuffle(files)
    return [file.read_bytes() for file in files if file.suffix.lower() in SUFFIXES]


def measure(client: Client, pictures: Sequence[bytes], requests: int) -> list[float]:
    """Seconds that each of `requests` took, going round the pictures."""
    seconds = []
    for i in range(requests):
        start = time.perf_counter()
        client.segment(pictures[i % len(pictures)])
        seconds.append(time.perf_counter() - start)
    return seconds


def read_stages(url: str) -> dict[str, Stage]:
    """Triton's counters of every model that has answered so far, by model name.

    Raises:
        tritonclient.utils.InferenceServerException: no server answers at the URL.
    """
    address = urlsplit(url)
    if address.scheme == "grpc":
        with grpc.InferenceServerClient(address.netloc) as server:
            answer = server.get_inference_statistics(as_json=True)
    else:
        with http.InferenceServerClient(address.netloc) as server:
            answer = server.get_inference_statistics()
    return {model["name"]: _stage(model["inference_stats"]) for model in answer["model_stats"]}


def _stage(counters: dict[str, Any]) -> Stage:
    # gRPC's JSON writes 64-bit integers as strings and leaves zeros out.
    def milliseconds(*names: str) -> float:
        return sum(int(counters.get(name, {}).get("ns", 0)) for name in names) / 1e6

    return Stage(
        requests=int(counters.get("success", {}).get("count", 0)),
        total=milliseconds("success"),
        queue=milliseconds("queue"),
        compute=milliseconds("compute_input", "compute_infer", "compute_output"),
    )


def report(url: str, pictures: int, seconds: Sequence[float], stages: dict[str, Stage]) -> str:
    """The figures as Markdown; the stages' table gives means per request, since Triton counts sums."""
    latencies = [1000 * s for s in seconds]
    median, p90 = statistics.median(latencies), statistics.quantiles(latencies, n=10)[-1]
    mean = statistics.fmean(latencies)
    lines = [
        f"{len(latencies)} requests over {urlsplit(url).scheme}, one at a time, {pictures} different pictures;"
        f" client on {platform.machine()}, {os.cpu_count()} cores",
        "",
        "| latency | ms |",
        "|---|---:|",
        f"| median | {median:.1f} |",
        f"| 90th percentile | {p90:.1f} |",
        f"| mean | {mean:.1f} |",
        f"| pictures/s | {len(latencies) / sum(seconds):.1f} |",
        "",
        "| mean per request, ms | total | queue | compute |",
        "|---|---:|---:|---:|",
    ]
    for name, stage in sorted(stages.items()):
        if stage.requests and name != ENSEMBLE:
            each = [value / stage.requests for value in (stage.total, stage.queue, stage.compute)]
            lines.append(f"| {name} | {each[0]:.2f} | {each[1]:.2f} | {each[2]:.2f} |")
    ensemble = stages.get(ENSEMBLE)
    if ensemble and ensemble.requests:
        served = ensemble.total / ensemble.requests
        lines.append(f"| whole ensemble | {served:.2f} | | |")
        lines.append(f"| client and wire | {mean - served:.2f} | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
