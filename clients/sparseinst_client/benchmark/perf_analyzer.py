"""NVIDIA's perf_analyzer, one process for each level.

One level a process, because a level that it finds unstable, or in which one request is rejected, ends its whole range,
the former with exit status 0. And Triton's counters can be read before and after each: its own table leaves out the
queues inside an ensemble.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from sparseinst_client.benchmark.levels import IN_FLIGHT, Level
from sparseinst_client.benchmark.server import ENSEMBLE

WINDOWS = 3  # what it calls stable needs three windows in a row
FEWEST = 10  # requests expected in a window: then one in 20,000 is empty
THREAD_ERROR = r"Thread \[\d+\] had error: (.+)"
PATIENCE = 60.0  # seconds beyond the windows: start, reading the pictures, last answers
INSTALLED = Path(__file__).resolve().parents[3] / "build" / "tools" / "perf_analyzer"

# Its columns, in microseconds, and ours in milliseconds.
_LATENCIES = {
    "p50 latency": "p50_ms",
    "p90 latency": "p90_ms",
    "p95 latency": "p95_ms",
    "p99 latency": "p99_ms",
}


class PerfAnalyzerError(RuntimeError):
    """perf_analyzer is not there or said something that cannot be read; the message says what to do."""


def find() -> Path:
    """The program: the one that ci/install_perf_analyzer.sh installed, else the first on PATH.

    Raises:
        PerfAnalyzerError: there is none.
    """
    if INSTALLED.exists():  # relative where it can be, so that a report's commands do for every checkout
        return INSTALLED.relative_to(Path.cwd()) if INSTALLED.is_relative_to(Path.cwd()) else INSTALLED
    found = shutil.which("perf_analyzer")
    if found is None:
        raise PerfAnalyzerError(
            "perf_analyzer is not installed; ci/install_perf_analyzer.sh installs it, and the scenarios single-stream, "
            "server and offline do without"
        )
    return Path(found)


def version(program: Path) -> str:
    """What the program says of its version."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    return (said.stdout or said.stderr).strip()


def command(program: Path, url: str, pictures: Path, *, amount: float, unit: str, seconds: float) -> list[str]:
    """The command line of one level, without the table's file.

    Args:
        program: perf_analyzer.
        url: of the server.
        pictures: file in the form of `workload.perf_analyzer_input`.
        amount: requests under way at once, or due in a second at random times.
        unit: which of the two.
        seconds: to measure; longer at rates so low that windows would be nearly empty.
    """
    address = urlsplit(url)
    if unit == IN_FLIGHT:
        load = ["--concurrency-range", f"{amount:g}"]
    else:
        # --async: its default sends from four threads that wait for their answers. That is a closed loop, which reports
        # fine latencies at ten times the rate that a server can do.
        load = ["--request-rate-range", f"{amount:.4g}", "--request-distribution", "poisson", "--async"]
    # A window without a request would end it.
    window = seconds / WINDOWS if unit == IN_FLIGHT else max(seconds / WINDOWS, FEWEST / amount)
    return [
        str(program),
        *("-m", ENSEMBLE),
        *("-u", address.netloc),
        *("-i", address.scheme),
        *("--input-data", str(pictures)),
        *load,
        *("--measurement-interval", str(max(1, round(1000 * window)))),
        # Any spread is taken: a level that it calls unstable would give no row at all. Scatter shows in percentiles.
        *("--stability-percentage", "999"),
        *("--max-trials", str(WINDOWS)),
        *("--percentile", "99"),
    ]


def run(arguments: list[str], scenario: str, amount: float, unit: str) -> Level:
    """Run one level. One that perf_analyzer gave up on, as it does when a request is rejected, is a row with a note.

    Raises:
        PerfAnalyzerError: it hangs, or its table has other columns.
    """
    level = Level(
        scenario, "perf_analyzer", arguments[arguments.index("-i") + 1], amount, unit, command=shlex.join(arguments)
    )
    limit = WINDOWS * float(arguments[arguments.index("--measurement-interval") + 1]) / 1000 + PATIENCE
    with tempfile.TemporaryDirectory(prefix="sparseinst-benchmark-") as folder:
        table = Path(folder) / "level.csv"
        try:
            said = subprocess.run(  # noqa: S603 - our own command, no shell
                [*arguments, "-f", str(table)],
                capture_output=True,
                text=True,
                check=False,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as error:
            raise PerfAnalyzerError(
                f"perf_analyzer did not end {PATIENCE:g} s after its time: {level.command}"
            ) from error
        except OSError as error:
            raise PerfAnalyzerError(f"{arguments[0]} cannot be run: {error.strerror}") from error
        text = table.read_text() if table.exists() else ""
    return read(level, text, said.stdout + said.stderr)


def read(level: Level, table: str, said: str) -> Level:
    """The level with the figures of perf_analyzer's CSV table, or with a note where that has no row.

    Args:
        level: what ran.
        table: the CSV file's text; empty where there was none.
        said: everything on stdout and stderr.

    Raises:
        PerfAnalyzerError: a column is missing.
    """
    rows = list(csv.DictReader(io.StringIO(table)))
    if not rows:
        return replace(level, note=_reason(said))
    figures = rows[0]
    try:
        latency = {ours: float(figures[theirs]) / 1000 for theirs, ours in _LATENCIES.items()}
        rate = float(figures["Inferences/Second"])
    except (KeyError, ValueError) as error:
        raise PerfAnalyzerError(
            f"perf_analyzer's table has the columns {', '.join(figures)}; wanted Inferences/Second, "
            f"{', '.join(_LATENCIES)}. Another version? ci/install_perf_analyzer.sh installs the one that is known"
        ) from error
    found = re.search(r"Request count: (\d+)", said)
    count = int(found[1]) if found else 0
    late = re.search(r"([\d.]+)% of the requests were delayed", said)
    notes = [f"{late[1]} % of the requests went out late, and their latency does not say so"] if late else []
    notes += [f"ended early: {ended[1].strip()}"] if (ended := re.search(THREAD_ERROR, said)) else []
    seconds = count / rate if rate else 0.0
    return replace(
        level,
        seconds=seconds,
        requests=count,
        answered=count,
        pictures_per_s=rate,
        latency=latency,
        note="; ".join(notes),
    )


def judge(level: Level, bound_ms: float) -> Level:
    """The level with `holds` set: it gave figures, requests went out in time, the 99th percentile keeps the bound."""
    return replace(level, holds=bool(level.latency) and not level.note and level.latency["p99_ms"] <= bound_ms)


def _reason(said: str) -> str:
    """Why there is no row, in perf_analyzer's words."""
    for pattern in (THREAD_ERROR, r"(?i)^error: (.+)", r"(?i)(.*failed to .+)"):
        if found := re.search(pattern, said, re.MULTILINE):
            return f"no figures: {found[1].strip()}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"no figures: {lines[-1] if lines else 'perf_analyzer said nothing'}"
