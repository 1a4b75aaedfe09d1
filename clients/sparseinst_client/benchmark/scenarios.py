"""What can be measured: three scenarios in the manner of MLPerf Inference and overload by us, three by perf_analyzer.

| scenario | load | figure |
|---|---|---|
| single-stream | one caller | 90th percentile of latency |
| server | Poisson arrivals, open loop | highest rate at which 99 % of all requests are answered within the bound |
| offline | many requests under way, always | pictures per second |
| overload | Poisson arrivals, three times what it can do | seconds until it is itself again |
| concurrency | perf_analyzer, 1, 2, 4 ... requests under way | throughput against latency |
| rate | perf_analyzer, Poisson arrivals | latency at given rates |
| search | perf_analyzer, Poisson arrivals | highest rate whose 99th percentile keeps the bound |

In the manner of: MLPerf's rules ask for ten minutes a run, its own data and its own generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from rich.progress import Progress

from sparseinst_client.benchmark import overload, perf_analyzer
from sparseinst_client.benchmark.levels import IN_FLIGHT, RATE, Level, from_load
from sparseinst_client.benchmark.load import Load, closed_loop, open_loop, poisson_arrivals
from sparseinst_client.benchmark.search import highest_rate
from sparseinst_client.benchmark.server import difference, read_stages
from sparseinst_client.benchmark.workload import Sample
from sparseinst_client.client import Client

NAMES = ("single-stream", "offline", "server", "concurrency", "rate", "search", "overload")
WITH_PERF_ANALYZER = {"concurrency", "rate", "search"}


@dataclass
class Benchmark:
    """One run: the settings, and what was measured so far.

    Attributes:
        url: of the server.
        samples: what to send.
        seconds: that each level sends.
        bound_ms: latency that 99 % of the requests have to keep, in `server` and `search`.
        callers: most requests of an open loop that can be under way.
        in_flight: requests that `offline` keeps under way; fewer than the server's queue takes.
        concurrencies: levels of `concurrency`.
        rates: levels of `rate`, requests per second; shares of what was found when empty.
        start_rate: where searches begin, requests per second; what offline reached when None.
        resolution: of the searches, relative.
        pictures: file in the form of `workload.perf_analyzer_input`, for perf_analyzer.
        progress: where bars are drawn.
        levels: what was measured, in order.
        found: the figure of each scenario that has one, in milliseconds, pictures/s or requests/s; None where no rate
            held.
    """

    url: str
    samples: Sequence[Sample]
    seconds: float
    bound_ms: float
    callers: int
    in_flight: int
    concurrencies: Sequence[int]
    rates: Sequence[float]
    start_rate: float | None
    resolution: float
    pictures: Path
    progress: Progress
    levels: list[Level] = field(default_factory=list)
    found: dict[str, float | None] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """What the URL begins with, "grpc" or "http"."""
        return urlsplit(self.url).scheme

    def warm_up(self) -> None:
        """Send every picture once, one after the other: caches are warm, and none is refused later.

        Raises:
            SparseInstError: the server does not answer, or refuses a picture.
        """
        with Client(self.url) as client:
            for sample in self.progress.track(self.samples, description="warm-up"):
                client.segment(sample.data)

    def run(self, scenario: str) -> None:
        """Measure one scenario; adds to `levels` and `found`."""
        scenarios: dict[str, Callable[[], None]] = {
            "single-stream": self._single_stream,
            "offline": self._offline,
            "server": lambda: self._search("server", self._open_level),
            "concurrency": self._concurrency,
            "rate": self._rate,
            "search": lambda: self._search("search", self._perf_analyzer_level),
            "overload": self._overload,
        }
        scenarios[scenario]()

    def _single_stream(self) -> None:
        level = self._closed_level("single-stream", 1)
        self.found["single-stream"] = level.latency.get("p90_ms")

    def _offline(self) -> None:
        self.found["offline"] = self._closed_level("offline", self.in_flight).pictures_per_s

    def _concurrency(self) -> None:
        levels = [self._perf_analyzer_level("concurrency", float(n), IN_FLIGHT) for n in self.concurrencies]
        self.found["concurrency"] = max(level.pictures_per_s for level in levels)

    def _rate(self) -> None:
        rates = self.rates
        if not rates:
            known = self._capacity()
            rates = [round(share * known, 1) for share in (0.25, 0.5, 0.75, 0.9)]
        for rate in rates:
            self._perf_analyzer_level("rate", rate, RATE)

    def _overload(self) -> None:
        capacity = self._capacity()
        due = overload.arrivals(capacity, self.seconds)
        task = self.progress.add_task(f"overload, {capacity:.4g} pictures/s and three times that", total=len(due))
        load = open_loop(self.url, self.samples, due, self.callers, lambda: self.progress.advance(task))
        self.progress.remove_task(task)
        for level in overload.phases(load, capacity, self.seconds, self.protocol):
            self._add(level)
        self.found["overload"] = overload.recovery(load, self.seconds)

    def _search(self, scenario: str, measure: Callable[[str, float, str], Level]) -> None:
        def holds(rate: float) -> bool:
            return bool(measure(scenario, rate, RATE).holds)

        # Half of what the server can do at most is a rate that often holds, and is near one that does not.
        start = self.start_rate or max(0.5 * self._capacity(), 0.2)
        # A twentieth of it that does not hold has another cause than the rate.
        found = highest_rate(holds, start, resolution=self.resolution, floor=start / 20)
        if found is not None and scenario == "search":
            # What was reached counts: perf_analyzer's Poisson arrivals are a fifth to a quarter fewer than asked for.
            found = min(
                level.pictures_per_s for level in self.levels if level.scenario == scenario and level.load == found
            )
        self.found[scenario] = found

    def _capacity(self) -> float:
        """Most pictures/s of any level so far; measured now where there is none."""
        if not any(level.pictures_per_s for level in self.levels):
            self._closed_level("offline", self.in_flight)
        return max((level.pictures_per_s for level in self.levels), default=0.0) or 1.0

    def _closed_level(self, scenario: str, callers: int) -> Level:
        def send(advance: Callable[[], None]) -> Load:
            return closed_loop(self.url, self.samples, callers, self.seconds, advance)

        return self._measure(scenario, float(callers), IN_FLIGHT, send, total=None)

    def _open_level(self, scenario: str, rate: float, unit: str) -> Level:
        arrivals = poisson_arrivals(rate, self.seconds, seed=len(self.levels))

        def send(advance: Callable[[], None]) -> Load:
            return open_loop(self.url, self.samples, arrivals, min(self.callers, max(1, len(arrivals))), advance)

        return self._measure(scenario, rate, unit, send, total=len(arrivals), bound_ms=self.bound_ms)

    def _measure(
        self,
        scenario: str,
        amount: float,
        unit: str,
        send: Callable[[Callable[[], None]], Load],
        *,
        total: int | None,
        bound_ms: float | None = None,
    ) -> Level:
        task = self.progress.add_task(f"{scenario}, {amount:.4g} {unit}", total=total)
        before = read_stages(self.url)
        load = send(lambda: self.progress.advance(task))
        stages = difference(before, read_stages(self.url))
        level = from_load(
            load,
            scenario=scenario,
            protocol=self.protocol,
            amount=amount,
            unit=unit,
            stages=stages,
            bound_ms=bound_ms,
        )
        self.progress.remove_task(task)
        self._add(level)
        return level

    def _perf_analyzer_level(self, scenario: str, amount: float, unit: str) -> Level:
        task = self.progress.add_task(f"{scenario}, {amount:.4g} {unit} (perf_analyzer)", total=None)
        command = perf_analyzer.command(
            perf_analyzer.find(), self.url, self.pictures, amount=amount, unit=unit, seconds=self.seconds
        )
        before = read_stages(self.url)
        level = perf_analyzer.run(command, scenario, amount, unit)
        level = replace(level, stages=difference(before, read_stages(self.url)))
        if scenario == "search":
            level = perf_analyzer.judge(level, self.bound_ms)
        self.progress.remove_task(task)
        self._add(level)
        return level

    def _add(self, level: Level) -> None:
        self.levels.append(level)
        p99 = f", p99 {level.latency['p99_ms']:.1f} ms" if level.latency else ""
        verdict = {True: ", holds", False: ", does not hold", None: ""}[level.holds]
        said = f"{level.scenario}, {level.load:.4g} {level.unit}: {level.pictures_per_s:.1f} pictures/s{p99}{verdict}"
        self.progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
