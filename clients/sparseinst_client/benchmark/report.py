"""One run as files: levels.csv and benchmark.json for programs, report.md and pictures for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sparseinst_client.benchmark.levels import RATE, Level, row
from sparseinst_client.benchmark.server import ENSEMBLE
from sparseinst_runtime.files import atomic_write

LAG_MS = 10.0  # lateness of the generator that a reader should hear about


@dataclass(frozen=True)
class Results:
    """All there is to report.

    Attributes:
        levels: in the order in which they ran.
        found: the figure of each scenario, see `scenarios.Benchmark.found`.
        bound_ms: that `server` and `search` kept.
        workload: what was sent, in words.
        machine: facts of the client's machine, by name.
        server: facts of the server, by name.
        commands: what to type to repeat this, the first one, and the programs that it used.
    """

    levels: Sequence[Level]
    found: Mapping[str, float | None]
    bound_ms: float
    workload: str
    machine: Mapping[str, str]
    server: Mapping[str, str]
    commands: Sequence[str]


def write(results: Results, folder: Path, pictures: Mapping[str, bytes]) -> list[Path]:
    """Write all files, each whole or not at all; gives their paths, the report first.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [atomic_write(folder / name, data) for name, data in pictures.items()]
    written.append(atomic_write(folder / "levels.csv", table(results.levels)))
    written.append(atomic_write(folder / "benchmark.json", json.dumps(asdict(results), indent=1) + "\n"))
    report = atomic_write(folder / "report.md", markdown(results, [name for name in pictures if name.endswith(".svg")]))
    return [report, *written]


def table(levels: Sequence[Level]) -> str:
    """The levels as CSV, one row each, with the columns of all of them."""
    rows = [row(level) for level in levels]
    columns = list(dict.fromkeys(column for one in rows for column in one))
    # What only some rows have, the stages, stands before the two columns of words.
    columns = [column for column in columns if column not in {"note", "command"}] + ["note", "command"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(results: Results, pictures: Sequence[str] = ()) -> str:
    """The report for people; names of picture files are linked."""
    lines = ["# Benchmark", "", *_findings(results), ""]
    warnings = _warnings(results)
    if warnings:
        lines += ["## Read this first", "", *(f"- {warning}" for warning in warnings), ""]
    lines += ["## What was measured where", "", "| | |", "|---|---|", f"| pictures | {results.workload} |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in {**results.machine, **results.server}.items()]
    lines += ["", "## Levels", "", *_levels(results.levels), "", *_stages(results.levels)]
    if pictures:
        lines += ["## Pictures", "", *(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures), ""]
    lines += ["## Commands", "", "```", *results.commands, "```", ""]
    return "\n".join(lines)


def _findings(results: Results) -> list[str]:
    bound = f"{results.bound_ms:g} ms"
    words = {
        "single-stream": ("one caller, 90th percentile of latency", "ms"),
        "offline": ("offline, as many as it can do", "pictures/s"),
        "server": (f"Poisson arrivals, 99 % of all requests answered within {bound}", "requests/s"),
        "concurrency": ("perf_analyzer, highest throughput of its levels", "pictures/s"),
        "search": (
            f"perf_analyzer, Poisson arrivals, 99th percentile within {bound}; the rate it reached",
            "pictures/s",
        ),
        "overload": ("after three times what it can do, until it is itself again", "s"),
    }
    lines = ["| scenario | what | figure |", "|---|---|---:|"]
    for scenario, value in results.found.items():
        what, unit = words[scenario]
        none = "not within its last phase" if scenario == "overload" else "no rate held"
        lines.append(f"| {scenario} | {what} | {none if value is None else f'{value:.1f} {unit}'} |")
    return lines


def _warnings(results: Results) -> list[str]:
    levels, warnings = results.levels, []
    failed = sum(level.failed for level in levels)
    if failed:
        said = next((level.note for level in levels if level.failed and level.note), "")
        warnings.append(f"{failed} requests failed: {said}")
    rejected = sum(level.rejected for level in levels)
    if rejected:
        warnings.append(
            f"{rejected} requests were rejected: the server's queue was full, or they waited in it for longer than it "
            "allows. In searches that is how a rate that is too high shows; elsewhere the load was more than it takes."
        )
    few = [level for level in levels if level.holds and level.requests < 100]
    if few:
        warnings.append(
            f"{len(few)} levels that held had fewer than 100 requests: their 99th percentile is their slowest request. "
            "Measure for longer (--seconds)."
        )
    held = {(level.scenario, level.load) for level in levels if level.holds}
    luck = [level for level in levels if level.holds is False and (level.scenario, level.load) in held]
    if luck:
        warnings.append(
            f"{len(luck)} rates held once and did not hold once more. Either the machine did other work, or levels "
            "were too short (--seconds); the rates that were found may be far too low."
        )
    late = [level for level in levels if level.holds and (level.lag_p99_ms or 0) > LAG_MS]
    if late:
        warnings.append(
            f"In {len(late)} levels requests went out more than {LAG_MS:g} ms late: the load generator was short of "
            "callers or of CPU. That time counts as latency. Run the client on another machine, or raise --callers."
        )
    return warnings


def _levels(levels: Sequence[Level]) -> list[str]:
    lines = [
        "| scenario | by | load | answered | rejected | failed | pictures/s "
        "| p50, ms | p90, ms | p99, ms | in time | holds | note |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for level in levels:
        load = f"{level.load:.4g}{'/s' if level.unit == RATE else ' in flight'}"
        latency = [f"{level.latency[name]:.1f}" if level.latency else "" for name in ("p50_ms", "p90_ms", "p99_ms")]
        within = "" if level.within is None else f"{100 * level.within:.1f} %"
        holds = {True: "yes", False: "no", None: ""}[level.holds]
        cells = [
            level.scenario,
            level.generator,
            load,
            *map(str, (level.answered, level.rejected, level.failed)),
            f"{level.pictures_per_s:.1f}",
            *latency,
            within,
            holds,
            _cell(level.note),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Percentiles are of the requests that were answered; `in time` is the share of all that were sent.",
    ]


def _stages(levels: Sequence[Level]) -> list[str]:
    """Where the time of a request goes, for the level of each scenario with the least load."""
    chosen = {level.scenario: level for level in reversed(levels) if level.stages}
    if not chosen:
        return []
    lines = ["## Where the time goes", ""]
    for level in sorted(chosen.values(), key=list(levels).index):
        load = f"{level.load:.4g} {level.unit}"
        lines += [
            f"{level.scenario}, {load}: means of a request in ms, by Triton's own counters",
            "",
            "| model | total | queue | compute | pictures in a batch |",
            "|---|---:|---:|---:|---:|",
        ]
        for name, stage in level.stages.items():
            each = [value / stage.requests for value in (stage.total, stage.queue, stage.compute)]
            if name != ENSEMBLE:
                lines.append(f"| {name} | {each[0]:.2f} | {each[1]:.2f} | {each[2]:.2f} | {stage.mean_batch:.2f} |")
        if whole := level.stages.get(ENSEMBLE):
            total = whole.total / whole.requests
            lines.append(f"| whole ensemble | {total:.2f} | | | |")
            if "mean_ms" in level.latency:
                lines.append(f"| client, wire and waiting to be sent | {level.latency['mean_ms'] - total:.2f} | | | |")
        lines.append("")
    return lines


def _cell(text: str) -> str:
    """Text that cannot break a row of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())
