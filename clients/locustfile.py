"""Load tests with many users, over gRPC and HTTP, on the command line or in a browser.

    locust -f clients/locustfile.py GrpcUser --headless --users 20 --run-time 60s --slo-p95-ms 200
    locust -f clients/locustfile.py --shape spike --peak-users 50 --shape-seconds 120 --headless
    locust -f clients/locustfile.py GrpcUser HttpUser        # http://localhost:8089

A user sends a picture, waits for the answer and sends the next. Answers, requests that the server rejected because it
had too much to do, and failures are three rows of their own: only the first counts for latency. docs/benchmarking.md
tells more.
"""

from __future__ import annotations

import logging
import math
import os
import random
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any, ClassVar

import gevent
import grpc.experimental.gevent
from locust import LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from sparseinst_client import Client, Overloaded, SparseInstError
from sparseinst_client.benchmark.shapes import SHAPES, Plan, users_at
from sparseinst_client.benchmark.workload import WorkloadError, describe, read_samples
from sparseinst_client.commands.arguments import DEFAULT_URL

grpc.experimental.gevent.init_gevent()  # else one call in gRPC's C code stops every user

ANSWERED, REJECTED, FAILED = ROWS = ("segment", "segment: rejected", "segment: failed")
TIMEOUT = 30.0  # seconds until a request counts as failed
_LOG = logging.getLogger("sparseinst")
SCENES = Path(__file__).resolve().parents[1] / "assets" / "scenes" / "images"


@events.init_command_line_parser.add_listener
def _options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("SparseInst", "what is sent, how many users there are, and what is good enough")
    add = group.add_argument
    # Text, not Path: the options travel to worker processes, by msgpack.
    add("--pictures", nargs="+", default=[str(SCENES)], help="picture files, or folders of them")
    add("--think-seconds", type=_at_least_zero, default=0.0, help="mean pause of a user after an answer (0)")
    add("--backoff-ms", type=_at_least_zero, default=100.0, help="mean pause of a user that was rejected (100)")
    add(
        "--shape", choices=SHAPES, default="constant", help="how the number of users changes; constant: as --users says"
    )
    add("--peak-users", type=int, default=20, help="most users of a shape (20)")
    add("--base-users", type=int, default=1, help="users of a spike before and after it (1)")
    add("--shape-seconds", type=float, default=60.0, help="length of a shape (60)")
    add("--steps", type=int, default=5, help="stairs of the step (5)")
    add("--slo-p95-ms", type=float, help="exit status 1 when the 95th percentile of the answers is above this")
    add("--max-failed-share", type=_share, default=0.0, help="and when more of all requests failed than this share (0)")
    add("--max-rejected-share", type=_share, default=1.0, help="and when more were rejected than this share (1: never)")


class Shape(LoadTestShape):
    """The shape that --shape chose."""

    abstract = True  # Locust would take it for every run

    def __init__(self, name: str, plan: Plan) -> None:
        super().__init__()
        self.name, self.plan = name, plan

    def tick(self) -> tuple[int, float] | None:
        """Users there should be now, and how many may come or go in a second: as many as it takes."""
        users = users_at(self.name, self.plan, self.get_run_time())
        return None if users is None else (users, float(self.plan.users))


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    assert isinstance(options, Namespace)
    try:
        samples = read_samples([Path(path) for path in options.pictures])
        plan = Plan(options.peak_users, options.shape_seconds, options.steps, options.base_users)
    except (WorkloadError, OSError, ValueError) as error:
        raise SystemExit(f"locustfile: {error}") from error
    PictureUser.samples = [sample.data for sample in samples]
    environment.user_classes = _fitting(environment.user_classes, environment.host)
    if options.shape != "constant":
        environment.shape_class = Shape(options.shape, plan)
        environment.shape_class.runner = environment.runner
    for kind in environment.user_classes:
        try:
            Client(environment.host or kind.host or "").close()  # connects to nobody yet
        except ValueError as error:
            raise SystemExit(f"locustfile: {error}") from error
        _LOG.info("%s: %s; %s", kind.__name__, environment.host or kind.host, describe(samples))
    if not environment.stop_timeout:  # what is under way at the end is waited for: the slowest must not go uncounted
        environment.stop_timeout = TIMEOUT


def _fitting(classes: list[type[User]], host: str | None) -> list[type[User]]:
    """The classes that speak the protocol of the URL that --host names; all of them without one."""
    fitting = [kind for kind in classes if host is None or host.startswith(f"{kind.protocol}://")]  # type: ignore[attr-defined]
    if not fitting:
        names = ", ".join(kind.__name__ for kind in classes)
        raise SystemExit(f"locustfile: --host is {host!r}; {names} wanted grpc://host:port or http://host:port")
    return fitting


class PictureUser(User):
    """Sends pictures one after the other, each user in an order of its own."""

    abstract = True
    protocol: ClassVar[str]
    samples: ClassVar[list[bytes]]

    def on_start(self) -> None:
        """Connect; here, in the user's own greenlet, to which an HTTP client belongs."""
        self.client = Client(self.host or "", timeout=TIMEOUT, retries=0)
        self.order = random.sample(range(len(self.samples)), len(self.samples))
        self.sent = 0

    def on_stop(self) -> None:
        """Disconnect, and let go of the client now: gRPC's would close once more at the interpreter's end, and hang."""
        self.client.close()
        del self.client

    def wait_time(self) -> float:
        """Seconds until the next picture."""
        mean = self.environment.parsed_options.think_seconds
        return random.expovariate(1 / mean) if mean else 0.0

    @task
    def segment(self) -> None:
        """One picture."""
        picture = self.samples[self.order[self.sent % len(self.order)]]
        self.sent += 1
        start = time.perf_counter()
        try:
            self.client.segment(picture)
        except Overloaded:
            # No failure: the server said at once that it has too much to do, as it should. Nobody comes back at once.
            self._record(REJECTED, start)
            mean = self.environment.parsed_options.backoff_ms / 1000
            gevent.sleep(random.expovariate(1 / mean) if mean else 0)
        except SparseInstError as error:
            self._record(FAILED, start, error)
            gevent.sleep(0.1)  # where nobody listens any more, failing takes no time at all
        else:
            self._record(ANSWERED, start, length=len(picture))

    def _record(self, name: str, start: float, error: Exception | None = None, length: int = 0) -> None:
        self.environment.events.request.fire(
            request_type=self.protocol,
            name=name,
            response_time=1000 * (time.perf_counter() - start),
            response_length=length,
            exception=error,
            context={},
        )


class GrpcUser(PictureUser):
    """Over gRPC; all users of one process share a TCP connection, as gRPC does it."""

    protocol = "grpc"
    host = os.environ.get("SPARSEINST_URL") or DEFAULT_URL


class HttpUser(PictureUser):
    """Over HTTP, each user with a connection of its own."""

    protocol = "http"
    host = os.environ.get("SPARSEINST_HTTP_URL") or "http://127.0.0.1:8000"


@events.quitting.add_listener
def _judge(environment: Environment, **_: Any) -> None:
    """Set the exit status: 0 where the service level held, 1 where it did not; and say why."""
    if isinstance(environment.runner, WorkerRunner):
        return  # the master has everybody's figures
    options, entries = environment.parsed_options, environment.stats.entries
    assert isinstance(options, Namespace)
    counts = {wanted: sum(e.num_requests for (name, _), e in entries.items() if name == wanted) for wanted in ROWS}
    total = sum(counts.values())
    broken = [] if counts[ANSWERED] else ["nothing was answered"]
    for row, limit in ((FAILED, options.max_failed_share), (REJECTED, options.max_rejected_share)):
        if total and counts[row] / total > limit:
            broken.append(f"{counts[row]} of {total} requests are in {row!r}, more than a share of {limit:g}")
    for (name, protocol), entry in entries.items():
        p95 = entry.get_response_time_percentile(0.95)
        if name == ANSWERED and options.slo_p95_ms is not None and p95 > options.slo_p95_ms:
            broken.append(f"95th percentile over {protocol} is {p95:g} ms, above {options.slo_p95_ms:g} ms")
    environment.process_exit_code = 1 if broken else 0
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    _LOG.log(logging.ERROR if broken else logging.INFO, "%s; service level: %s", said, "; ".join(broken) or "held")


def _at_least_zero(text: str) -> float:
    value = float(text)
    if not (value >= 0 and math.isfinite(value)):
        raise ArgumentTypeError(f"{text}: wanted 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text}: wanted a share from 0 to 1")
    return value
