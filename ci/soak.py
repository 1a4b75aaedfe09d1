"""Hours of mixed pictures against a real Triton, and whether memory, shared memory or file descriptors creep up.

    make soak                     ten minutes
    make soak ARGS="--minutes 120"

Serves build/model_repository, measures what it can do, and sends a share of that, evenly spaced, in pictures of many
sizes. Meanwhile every process of the server is looked at. Exit status: 0 when nothing failed and nothing creeps, 1 when
not, with the reasons. The figures lie in build/soak: soak.json, soak.md, soak.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from sparseinst_client.benchmark.load import Load, Outcome, closed_loop, open_loop
from sparseinst_client.benchmark.workload import Sample, describe, read_samples
from sparseinst_runtime.files import atomic_write
from sparseinst_server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
CALLERS = 8
CALIBRATION = 10.0  # seconds
WARM_UP = 0.25  # the share of the time in which caches and pools may still fill
# What may be gained in an hour. A leak of one reply of 8 KB in a request would be 500 MB at 20 requests a second.
MOST_REFUSED = 0.001  # of the requests: something else may take the machine's cores for a moment
MOST_PER_HOUR = {"rss_mb": 60.0, "shm_mb": 4.0, "fds": 10.0}


@dataclass(frozen=True)
class Row:
    """One look at one process; of all together where the process is "/dev/shm"."""

    seconds: float
    process: str
    rss_mb: float
    fds: int
    shm_mb: float


@dataclass(frozen=True)
class Trend:
    """How one figure of one process went after the warm-up.

    Attributes:
        first, last: medians of the first and the last tenth.
        per_hour: the median slope between all pairs of looks (Theil-Sen), which single peaks do not move.
        holds: whether the slope, or the whole gain, is below what may be gained in an hour.
    """

    process: str
    figure: str
    first: float
    last: float
    per_hour: float
    holds: bool


class Watch(threading.Thread):
    """Looks at the server's processes again and again.

    Args:
        server: running.
        interval: seconds between looks.
    """

    def __init__(self, server: TritonServer, interval: float) -> None:
        super().__init__(daemon=True)
        self._server, self._interval = server, interval
        self._over = threading.Event()
        self.rows: list[Row] = []

    def run(self) -> None:
        """Look until it is stopped."""
        start = time.monotonic()
        while not self._over.wait(self._interval):
            self.rows += look(self._server.pid, time.monotonic() - start)

    def stop(self) -> list[Row]:
        """Stop, and give what was seen."""
        self._over.set()
        self.join()
        return self.rows


def look(guard: int, seconds: float) -> list[Row]:
    """One row for each process of a server, and one for the shared memory that they share."""
    rows = []
    for process in psutil.Process(guard).children(recursive=True):
        with process.oneshot():
            name, memory = label(process), process.memory_info()
            # Pages of /dev/shm count in every process that has them mapped, and are looked at by themselves.
            rows.append(Row(seconds, name, (memory.rss - memory.shared) / 1e6, process.num_fds(), 0.0))
    shared = sum(file.stat().st_blocks * 512 for file in SHARED_MEMORY.glob(f"sparseinst-{os.getpid()}-*"))
    return [*rows, Row(seconds, str(SHARED_MEMORY), 0.0, 0, shared / 1e6)]


def label(process: psutil.Process) -> str:
    """`tritonserver`, or a stub's model with its process id, for there may be several."""
    model = next((Path(word).parents[1].name for word in process.cmdline() if word.endswith("model.py")), None)
    return f"{model} ({process.pid})" if model else process.name()


def trends(rows: Sequence[Row]) -> list[Trend]:
    """The trend of every figure of every process, after the warm-up."""
    begin = WARM_UP * max(row.seconds for row in rows)
    series: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        figures = ["shm_mb"] if row.process == str(SHARED_MEMORY) else ["rss_mb", "fds"]
        for figure in figures if row.seconds >= begin else ():
            series.setdefault((row.process, figure), []).append((row.seconds, float(getattr(row, figure))))
    return [trend(process, figure, np.array(points)) for (process, figure), points in sorted(series.items())]


def trend(process: str, figure: str, points: np.ndarray) -> Trend:
    """The trend of (seconds, value) rows float64 [N, 2], N at least 2."""
    earlier, later = np.triu_indices(len(points), 1)
    slopes = (points[later, 1] - points[earlier, 1]) / (points[later, 0] - points[earlier, 0])
    per_hour = float(np.median(slopes)) * 3600
    tenth = max(1, len(points) // 10)
    first, last = float(np.median(points[:tenth, 1])), float(np.median(points[-tenth:, 1]))
    most = MOST_PER_HOUR[figure]
    # In a short run a single step of an allocator makes a steep slope: what counts then is that it stays one step.
    return Trend(process, figure, first, last, per_hour, per_hour <= most or last - first <= most / 10)


def reasons(load: Load, found: Sequence[Trend]) -> list[str]:
    """Why the run did not hold, in words; none when it did."""
    said = [
        f"{each.process}: {each.figure} grew from {each.first:.1f} to {each.last:.1f}, {each.per_hour:+.1f} an hour; "
        f"wanted at most {MOST_PER_HOUR[each.figure]:g}"
        for each in found
        if not each.holds
    ]
    if failed := load.count(Outcome.FAILED):
        said.append(f"{failed} of {len(load)} requests failed: {'; '.join(load.messages)}")
    if (refused := load.count(Outcome.REJECTED)) > MOST_REFUSED * len(load):
        said.append(f"{refused} of {len(load)} requests were refused; wanted at most {MOST_REFUSED:.1%}")
    return said


def soak(
    server: TritonServer, samples: Sequence[Sample], minutes: float, share: float
) -> tuple[float, Load, list[Row]]:
    """The rate of the load in requests a second, what became of the requests, and what was seen meanwhile."""
    most = closed_loop(server.grpc_url, samples, callers=CALLERS, seconds=CALIBRATION)
    rate = share * most.count(Outcome.ANSWERED) / CALIBRATION
    watch = Watch(server, interval=max(1.0, minutes * 60 / 500))
    watch.start()
    load = open_loop(server.grpc_url, samples, np.arange(0, minutes * 60, 1 / rate), callers=CALLERS)
    return rate, load, watch.stop()


def row_of(minutes: float, rate: float, load: Load, found: Sequence[Trend]) -> str:
    """A row of a Markdown table: minutes, rate, requests, not answered, and the steepest slope of each figure."""
    steepest = {figure: max(each.per_hour for each in found if each.figure == figure) for figure in MOST_PER_HOUR}
    slopes = " | ".join(f"{steepest[figure]:+.1f}" for figure in MOST_PER_HOUR)
    missing = len(load) - load.count(Outcome.ANSWERED)
    p99 = 1000 * float(np.percentile(load.latencies, 99))
    return f"| {minutes:g} | {rate:.1f} | {len(load)} | {missing} | {p99:.0f} | {slopes} |"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Memory and descriptors of every process over the time, as SVG."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and the run does not need it

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(3, 1, figsize=(8, 9), sharex=True)
    for axis, name, words in zip(
        axes, MOST_PER_HOUR, ("memory, MB", "shared memory, MB", "file descriptors"), strict=True
    ):
        for process in sorted({row.process for row in rows}):
            points = [(row.seconds / 60, getattr(row, name)) for row in rows if row.process == process]
            if any(value for _, value in points):
                axis.plot(*zip(*points, strict=True), label=process)
        axis.set_ylabel(words)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize="x-small")
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, bbox_inches="tight")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the figures; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="%(default)g")
    parser.add_argument("--share", type=float, default=0.6, help="of what the server can do (%(default)g)")
    parser.add_argument("--pictures", type=Path, nargs="+", default=[ROOT / "assets" / "scenes" / "images"])
    parser.add_argument("--repository", type=Path, default=ROOT / "build" / "model_repository", help="%(default)s")
    parser.add_argument("--preset", default=os.environ.get("PRESET") or "cpu", help="%(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "soak", help="%(default)s")
    options = parser.parse_args(arguments)
    samples = read_samples(options.pictures)
    with TritonServer(options.repository, config_name=options.preset) as server:
        rate, load, rows = soak(server, samples, options.minutes, options.share)
    found = trends(rows)
    problems = reasons(load, found)
    row = row_of(options.minutes, rate, load, found)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"minutes": options.minutes, "rate": rate, "pictures": describe(samples), "problems": problems}
    result |= {"trends": [asdict(each) for each in found], "rows": [asdict(each) for each in rows]}
    atomic_write(options.out / "soak.json", json.dumps(result, indent=1).encode())
    atomic_write(options.out / "soak.md", f"{row}\n".encode())
    draw(rows, options.out / "soak.svg")
    sys.stdout.write(f"{row}\n" + "".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
