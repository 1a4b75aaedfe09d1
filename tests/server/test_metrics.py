"""What a real Triton exports, logs and traces of our models, and that none of it stands in the way of serving."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException
from under_load import stubs_under, wait_until

from sparseinst_client import BadRequest, Client, SparseInstError
from sparseinst_client.transport import connect
from sparseinst_runtime.limits import REASONS
from sparseinst_runtime.metrics import PERIOD
from sparseinst_server import TritonServer

SAMPLE = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
REJECTED = "sparseinst_requests_rejected_total"
FAULTY, SLOW = b"hunter2, and the rest of a secret picture", b"slow"
FAULTS = f"""
        file = inputs["image"][picture, 0]
        if file == {FAULTY!r}:
            raise ValueError(file)
        if file == {SLOW!r}:
            import time
            time.sleep(0.5)
"""


def total(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    with urlopen(url, timeout=10) as answer:
        samples = SAMPLE.finditer(answer.read().decode())
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    return sum(
        float(sample["value"])
        for sample in samples
        if sample["name"] == name and wanted <= set((sample["labels"] or "").split(","))
    )


class Since:
    """What is added to metrics from now on."""

    def __init__(self, url: str, *names: str, **labels: str) -> None:
        self._url, self._labels = url, labels
        self._before = {name: self._now(name) for name in names}

    def becomes(self, **added: float) -> bool:
        """Whether exactly this is added, in time."""
        return wait_until(lambda: all(self.added(name) == pytest.approx(value) for name, value in added.items()), 5)

    def added(self, name: str) -> float:
        return self._now(name) - self._before[name]

    def _now(self, name: str) -> float:
        return total(self._url, name, **self._labels)


def refuse(server, **inputs) -> None:
    """Send a request that must be refused for what it holds."""
    transport = connect(server.grpc_url)
    try:
        with pytest.raises(BadRequest):
            transport.infer("sparseinst", inputs, 30)
    finally:
        transport.close()


def picture_tensor(data: bytes) -> np.ndarray:
    return np.array([[data]], np.object_)


def test_what_a_picture_takes_and_holds_is_counted(server, expected):
    time.sleep(1.5 * PERIOD)  # what earlier tests left to be reported
    names = ("sparseinst_decode_seconds", "sparseinst_mask_seconds", "sparseinst_picture_instances")
    counts = Since(server.metrics_url, *(f"{name}_count" for name in names))
    sums = Since(server.metrics_url, *(f"{name}_sum" for name in names))
    with Client(server.grpc_url) as client:
        started = time.monotonic()
        for picture in expected:
            client.segment(picture)
        took = time.monotonic() - started
    assert counts.becomes(**{f"{name}_count": len(expected) for name in names})
    assert sums.added("sparseinst_picture_instances_sum") == sum(map(len, expected.values())) > 0
    assert 0 < sums.added("sparseinst_decode_seconds_sum") < took
    assert 0 < sums.added("sparseinst_mask_seconds_sum") < took


def test_refusals_are_counted_by_reason_from_zero_on(server, expected):
    metrics = {reason: Since(server.metrics_url, REJECTED, reason=reason) for reason in REASONS}
    picture = next(iter(expected))
    for data in (b"", b"text", b"\xff\xd8\xff", picture[:2000]):
        refuse(server, image=picture_tensor(data))
    refuse(server, image=picture_tensor(picture), score_threshold=np.array([[2]], np.float32))
    for reason, times in {"empty": 1, "format": 1, "broken": 2, "value": 1, "too_large": 0}.items():
        assert metrics[reason].becomes(**{REJECTED: times}), reason


@pytest.fixture(scope="module")
def receiver() -> Iterator[SimpleNamespace]:
    """An OTLP endpoint over HTTP: keeps what is posted to it."""
    received: list[tuple[str, bytes]] = []

    class Keep(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keep) as endpoint:
        threading.Thread(target=endpoint.serve_forever, daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{endpoint.server_port}/v1/traces", received=received)
        endpoint.shutdown()


@pytest.fixture(scope="module")
def watched(repository, serve_python, receiver, tmp_path_factory) -> Iterator[TritonServer]:
    """A server with traces and summaries, whose model fails on one picture and is slow on another."""
    folder = tmp_path_factory.mktemp("watched")
    copy = Path(shutil.copytree(repository, folder / "model_repository"))
    model = copy / "sparseinst" / "1" / "model.py"
    source, place = model.read_text(), "        with self.metrics.timed(DECODE):\n"
    assert source.count(place) == 1
    model.write_text(source.replace(place, FAULTS.lstrip("\n") + place))
    options = (
        "--trace-config=mode=opentelemetry",
        f"--trace-config=opentelemetry,url={receiver.url}",
        "--trace-config=opentelemetry,resource=service.name=sparseinst",
        "--trace-config=opentelemetry,bsp_schedule_delay=200",  # milliseconds; Triton's default is 5000
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
        "--metrics-config=summary_latencies=true",
        "--log-format=ISO8601",
    )
    # A Triton with a dead stub does not end by itself, so little is waited for it.
    with TritonServer(copy, python=serve_python, log=folder / "log", options=options, grace=1) as running:
        yield running


def test_dashboard_and_rules_ask_for_nothing_that_a_server_does_not_export(watched, repo_root, capsys):
    specification = importlib.util.spec_from_file_location("check_dashboard", repo_root / "ci" / "check_dashboard.py")
    checker = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(checker)
    assert checker.main([watched.metrics_url]) == 0, capsys.readouterr().out

    dashboard = json.loads(checker.DASHBOARD.read_text())
    dashboard["panels"][1]["targets"][0]["expr"] = 'sum by (pod) (rate(nv_inference_counts{model="x"}[5m])) / no:record'
    found = checker.faults(dashboard, {"groups": []}, checker.read_exported(watched.metrics_url))
    assert [line.partition(", which")[0].split()[-1] for line in found] == ["no:record", "nv_inference_counts"]


def test_a_failure_is_logged_as_one_json_line_with_its_request_and_without_the_picture(watched):
    failed = Since(watched.metrics_url, "sparseinst_requests_failed_total")
    image = triton_http.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(picture_tensor(FAULTY))
    with (
        triton_http.InferenceServerClient(watched.http_url.removeprefix("http://")) as client,
        pytest.raises(InferenceServerException, match="its log says why"),
    ):
        client.infer("sparseinst", [image], request_id="order-66")
    assert failed.becomes(sparseinst_requests_failed_total=1)

    log = watched.log.read_bytes()
    assert b"hunter2" not in log
    (event,) = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
    assert {name: event[name] for name in ("event", "error", "model", "version", "request_id")} == {
        "event": "request_failed",
        "error": "ValueError",
        "model": "sparseinst",
        "version": "1",
        "request_id": "order-66",
    }
    assert re.fullmatch(r"model\.py:\d+ instances: raise ValueError\(file\)", event["at"][-1])


def test_whose_client_has_gone_is_counted_and_not_computed(watched, expected):
    cancelled = Since(watched.metrics_url, "sparseinst_requests_cancelled_total")
    decoded = Since(watched.metrics_url, "sparseinst_decode_seconds_count")

    def ask_slowly():
        with Client(watched.grpc_url) as client, suppress(SparseInstError):
            client.segment(SLOW)

    busy = [threading.Thread(target=ask_slowly) for _ in range(4)]  # more than the model has threads
    for thread in busy:
        thread.start()
    time.sleep(0.3)  # until they have come; the picture lies behind them
    with Client(watched.grpc_url, retries=0) as client, pytest.raises(SparseInstError):
        client.segment(next(iter(expected)), timeout=0.2)
    for thread in busy:
        thread.join()
    assert cancelled.becomes(sparseinst_requests_cancelled_total=1)
    assert decoded.added("sparseinst_decode_seconds_count") == 0


def test_opentelemetry_receives_the_spans_of_a_request(watched, receiver, expected):
    with Client(watched.grpc_url) as client:
        client.segment(next(iter(expected)))

    def spans() -> list[dict]:
        posted = [json.loads(body)["resourceSpans"] for path, body in receiver.received if path == "/v1/traces"]
        return [
            span | {"service": resource["resource"]["attributes"]}
            for resources in posted
            for resource in resources
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    assert wait_until(lambda: any(span["name"] == "sparseinst" for span in spans()), 10)
    span = next(span for span in spans() if span["name"] == "sparseinst")
    within = [other["name"] for other in spans() if other.get("parentSpanId") == span["spanId"]]
    assert "compute" in within
    assert {"key": "service.name", "value": {"stringValue": "sparseinst"}} in span["service"]
    assert not any(b"hunter2" in body for _, body in receiver.received)


def test_a_dead_worker_falls_silent_and_the_others_do_not(watched, expected):
    def ages() -> dict[str, float]:
        with urlopen(watched.metrics_url, timeout=10) as answer:
            found = re.findall(r'heartbeat_timestamp_seconds\{.*worker="(\w+)".*\} (\S+)', answer.read().decode())
        return {worker: time.time() - float(value) for worker, value in found}

    victim = "sparseinst_preprocess"
    assert wait_until(lambda: max(ages().values()) < 2.5)
    for stub in stubs_under(watched.pid)[victim]:
        stub.kill()
    assert wait_until(lambda: min(age for worker, age in ages().items() if victim in worker) > 4)
    assert max(age for worker, age in ages().items() if victim not in worker) < 4
    with Client(watched.grpc_url) as client:
        assert len(client.segment(next(iter(expected)))) == len(next(iter(expected.values())))


@pytest.mark.slow  # a server of its own
def test_a_triton_without_metrics_serves(repository, serve_python, expected, tmp_path):
    log = tmp_path / "log"
    with (
        TritonServer(repository, python=serve_python, log=log, options=("--allow-metrics=false",)) as running,
        Client(running.grpc_url) as client,
    ):
        for picture, instances in expected.items():
            assert client.segment(picture).rles == instances.rles
        with pytest.raises(SparseInstError):
            client.segment(b"")
    events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert {event["event"] for event in events} <= {"metrics_off"}
