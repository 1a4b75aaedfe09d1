"""What the models of the repository count for Prometheus, beside what Triton counts by itself.

Counting on the way of a request only notes a number. A thread hands the notes to Triton once a second, because each
value that crosses over takes 25 to 75 microseconds. Whatever goes wrong here ends the counting, and never a request.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sparseinst_runtime.events import failure
from sparseinst_runtime.limits import REASONS

PERIOD = 1.0  # seconds between two deliveries; Prometheus usually looks every 15 or 30
MOST_NOTES = 1 << 16  # beyond, the oldest are lost; a second brings a few hundred


@dataclass(frozen=True)
class Counter:
    """A sum that only grows.

    Attributes:
        name: with prefix and unit, as Prometheus names it.
        help: one sentence.
        reasons: values of its label `reason`, each a sum of its own; without any it has no such label.
    """

    name: str
    help: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """Numbers, counted by size.

    Attributes:
        name: with prefix and unit, as Prometheus names it.
        help: one sentence.
        bounds: upper bounds of the buckets, rising; one for all beyond is added.
    """

    name: str
    help: str
    bounds: tuple[float, ...]


SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)

REJECTED = Counter("sparseinst_requests_rejected_total", "Requests refused for what they hold", REASONS)
CANCELLED = Counter("sparseinst_requests_cancelled_total", "Requests whose client was gone before their turn came")
REFUSED = Counter("sparseinst_requests_refused_total", "Requests that the model's own queue had no room for")
FAILED = Counter("sparseinst_requests_failed_total", "Requests that failed by a fault of the server")
EVERY_MODEL = (REJECTED, CANCELLED, REFUSED, FAILED)
DECODE = Histogram("sparseinst_decode_seconds", "Time to decode and letterbox one picture", SECONDS)
MASKS = Histogram("sparseinst_mask_seconds", "Time from one picture's mask maps to its run lengths", SECONDS)
INSTANCES = Histogram(
    "sparseinst_picture_instances", "Instances found in one picture", (0, 1, 2, 3, 5, 10, 20, 50, 100)
)
WAIT = Histogram("sparseinst_wait_seconds", "Time a request waited in the model's own queue", SECONDS)
REQUEST = Histogram("sparseinst_request_seconds", "Time from a request's arrival in the model to its answer", SECONDS)
QUEUED = (WAIT, REQUEST)  # of a model that queues by itself
HEARTBEAT = "sparseinst_worker_heartbeat_timestamp_seconds"


class Metrics:
    """The metrics of one process of Triton's Python backend.

    Each process counts under labels of its own (model, version, worker, process), and queries add them up: Triton
    deletes what processes share with the first one that ends, and dies of the next value that another one adds
    (triton-inference-server/server#8663).

    Args:
        pb_utils: Triton's module `triton_python_backend_utils`.
        args: what `initialize` was given.
        *histograms: those that this model observes. A Triton without histograms does not show them.

    Attributes:
        labels: which process this is.
    """

    def __init__(self, pb_utils: Any, args: Mapping[str, str], *histograms: Histogram) -> None:
        self.labels = {
            "model": args["model_name"],
            "version": args["model_version"],
            "worker": args["model_instance_name"],
            "process": str(os.getpid()),
        }
        self._notes: deque[tuple[str, str, float]] = deque(maxlen=MOST_NOTES)
        self._families: list[Any] = []
        self._counters: dict[tuple[str, str], Any] = {}
        self._histograms: dict[str, Any] = {}
        self._heartbeat: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="metrics", daemon=True)
        try:
            self._register(pb_utils.MetricFamily, histograms)
        except Exception as error:  # Triton runs without metrics, or has none
            self._give_up(error)
        else:
            self._thread.start()

    def count(self, counter: Counter, reason: str = "") -> None:
        """Add one, under a reason where the counter has reasons. From any thread, in a microsecond."""
        self._notes.append((counter.name, reason, 1.0))

    def observe(self, histogram: Histogram, value: float) -> None:
        """Note a number, in the unit of the histogram's name. From any thread, in a microsecond."""
        self._notes.append((histogram.name, "", value))

    @contextmanager
    def timed(self, histogram: Histogram) -> Iterator[None]:
        """Observe the seconds that the body takes, unless it raises."""
        start = time.perf_counter()
        yield
        self.observe(histogram, time.perf_counter() - start)

    def close(self) -> None:
        """Deliver what was noted, and let Triton forget this process; for `finalize`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5 * PERIOD)
        # Now, because Triton's module is gone when the process ends (triton-inference-server/server#8662).
        self._counters.clear()
        self._histograms.clear()
        self._heartbeat = None
        self._families.clear()

    def _register(self, family: Any, histograms: tuple[Histogram, ...]) -> None:
        for counter in EVERY_MODEL:
            made = self._family(family, counter.name, counter.help, family.COUNTER)
            for reason in counter.reasons or ("",):
                labels = self.labels | ({"reason": reason} if reason else {})
                self._counters[counter.name, reason] = made.Metric(labels=labels)
        for histogram in histograms if hasattr(family, "HISTOGRAM") else ():
            made = self._family(family, histogram.name, histogram.help, family.HISTOGRAM)
            bounds = [float(bound) for bound in histogram.bounds]
            self._histograms[histogram.name] = made.Metric(labels=self.labels, buckets=bounds)
        made = self._family(family, HEARTBEAT, "When this worker last reported, in seconds since 1970", family.GAUGE)
        self._heartbeat = made.Metric(labels=self.labels)

    def _family(self, family: Any, name: str, description: str, kind: Any) -> Any:
        self._families.append(family(name=name, description=description, kind=kind))
        return self._families[-1]

    def _deliver(self) -> None:
        try:
            while not self._stop.is_set():
                self._heartbeat.set(time.time())
                self._stop.wait(PERIOD)
                self._hand_over()
        except Exception as error:
            self._give_up(error)

    def _hand_over(self) -> None:
        """Observe each number, and add up what is counted first."""
        sums: dict[tuple[str, str], float] = {}
        for _ in range(len(self._notes)):  # not what is noted meanwhile, or this might never end
            name, reason, value = self._notes.popleft()
            if (name, reason) in self._counters:
                sums[name, reason] = sums.get((name, reason), 0.0) + value
            elif name in self._histograms:
                self._histograms[name].observe(value)
        for key, value in sums.items():
            self._counters[key].increment(value)

    def _give_up(self, error: Exception) -> None:
        self._notes = deque(maxlen=0)  # whatever is noted is forgotten
        failure("metrics_off", error, **self.labels)
