"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tritonclient.utils import InferenceServerException

from sparseinst_client.benchmark import machine, perf_analyzer, report
from sparseinst_client.benchmark.perf_analyzer import PerfAnalyzerError
from sparseinst_client.benchmark.plots import draw
from sparseinst_client.benchmark.scenarios import NAMES, WITH_PERF_ANALYZER, Benchmark
from sparseinst_client.benchmark.server import ServerFactsError, read_facts
from sparseinst_client.benchmark.workload import (
    LONG_SIDES,
    WorkloadError,
    describe,
    perf_analyzer_input,
    read_samples,
)
from sparseinst_client.commands.arguments import DEFAULT_URL
from sparseinst_client.errors import SparseInstError
from sparseinst_runtime.files import atomic_write

_EPILOG = """\
Nobody else may use the server or this machine meanwhile. docs/benchmarking.md says what each figure means.
Exit status: 0 measured, 1 something failed and one sentence on stderr says what, 2 wrong usage.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write its files; gives the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        results = _measure(options, given)
        written = report.write(results, options.out, draw(results.levels))
    except InferenceServerException as error:
        return _fail(f"{options.url}: {error.message()}")
    except OSError as error:
        return _fail(f"{error.filename or options.url}: {error.strerror or error}")
    except (SparseInstError, ServerFactsError, PerfAnalyzerError, WorkloadError) as error:
        return _fail(str(error))
    text = report.markdown(results)
    console.print(Markdown(text) if sys.stdout.isatty() else text, markup=False, soft_wrap=not sys.stdout.isatty())
    console.print(f"report: {written[0]}", markup=False, soft_wrap=True)
    return 0


def _measure(options: argparse.Namespace, given: Sequence[str]) -> report.Results:
    programs: dict[str, str] = {}
    if WITH_PERF_ANALYZER & set(options.scenarios):  # now, not after minutes of work
        programs["perf_analyzer"] = perf_analyzer.version(perf_analyzer.find())
    server = read_facts(options.url)
    facts = machine.describe(options.url)
    samples = read_samples(options.pictures, options.long_sides)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = options.out / "pictures.json"  # kept, so that perf_analyzer's commands can be repeated
    if programs:
        atomic_write(pictures, perf_analyzer_input(samples))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        benchmark = Benchmark(
            url=options.url,
            samples=samples,
            seconds=options.seconds,
            bound_ms=options.p99_ms,
            callers=options.callers,
            in_flight=options.in_flight,
            concurrencies=options.concurrencies,
            rates=options.rates,
            start_rate=options.start_rate,
            resolution=options.resolution,
            pictures=pictures,
            progress=progress,
        )
        benchmark.warm_up()
        for scenario in progress.track(options.scenarios, description="scenarios"):
            benchmark.run(scenario)
    commands = [shlex.join(["sparseinst-client", "bench", *given])]
    commands += [level.command for level in benchmark.levels if level.command]
    return report.Results(
        levels=benchmark.levels,
        found=benchmark.found,
        bound_ms=options.p99_ms,
        workload=describe(samples),
        machine=facts | programs | {"load": f"levels of {options.seconds:g} s, over {benchmark.protocol}"},
        server=server,
        commands=commands,
    )


def _fail(sentence: str) -> int:
    sys.stderr.write(f"benchmark: {sentence}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparseinst-client bench",
        description="Measure a running server under load; writes report.md, levels.csv, benchmark.json and pictures.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    url = os.environ.get("SPARSEINST_URL") or DEFAULT_URL
    add("pictures", nargs="+", type=Path, help="picture files, or folders of them")
    add("--url", default=url, type=_url, help="grpc://host:port or http://host:port (now: %(default)s)")
    add("--scenarios", nargs="+", choices=NAMES, default=list(NAMES), help="what to measure, in this order (all)")
    add("--seconds", type=_positive, default=10.0, help="that each level sends (%(default)g)")
    add("--p99-ms", type=_positive, default=100.0, help="bound on latency in server and search (%(default)g)")
    add("--callers", type=_count, default=100, help="server: most requests under way (%(default)s)")
    add("--in-flight", type=_count, default=16, help="offline: requests kept under way (%(default)s)")
    add("--concurrencies", nargs="+", type=_count, default=[1, 2, 4, 8, 16], metavar="N", help="concurrency: levels")
    add("--rates", nargs="+", type=_positive, default=[], metavar="RATE", help="rate: levels, requests/s")
    add("--start-rate", type=_positive, help="server and search: first rate, requests/s (half of the throughput)")
    add("--resolution", type=_positive, default=0.05, help="server and search: relative (%(default)g)")
    add(
        "--long-sides",
        nargs="*",
        type=_side,
        default=list(LONG_SIDES),
        metavar="PIXELS",
        help=f"crops that each picture is also sent as ({' '.join(map(str, LONG_SIDES))}; nothing for none)",
    )
    add("--out", type=Path, default=Path("build/benchmark"), help="folder for the results (%(default)s)")
    return parser


def _url(text: str) -> str:
    if not text.startswith(("grpc://", "http://")) or not text.split("://", 1)[1]:
        raise argparse.ArgumentTypeError(f"{text}: wanted grpc://host:port or http://host:port")
    return text.rstrip("/")


def _positive(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted at least 1")
    return value


def _side(text: str) -> int:
    value = int(text)
    if not 16 <= value <= 16384:
        raise argparse.ArgumentTypeError(f"{text}: wanted 16 to 16384 pixels")
    return value
