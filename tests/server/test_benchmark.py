"""The benchmark and the load test against the real Triton, for a few seconds over each protocol."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from sparseinst_client.benchmark import perf_analyzer
from sparseinst_client.benchmark.command import main
from sparseinst_client.benchmark.load import Outcome, closed_loop, open_loop, poisson_arrivals
from sparseinst_client.benchmark.perf_analyzer import PerfAnalyzerError
from sparseinst_client.benchmark.server import ServerFactsError, difference, read_facts, read_stages
from sparseinst_client.benchmark.workload import Sample, read_samples
from sparseinst_client.transport import connect
from sparseinst_server import TritonServer


@pytest.fixture(scope="module")
def pictures(scenes) -> list[str]:
    return [str(scenes / "images" / f"scene_0{number}.jpg") for number in range(3)]


@pytest.fixture(scope="module")
def samples(pictures):
    return read_samples([Path(path) for path in pictures], long_sides=(200,))


def test_an_open_loop_charges_requests_for_the_time_they_waited_to_be_sent(url, samples):
    # One caller cannot send 200 a second: it falls behind, and every request says by how much.
    arrivals = poisson_arrivals(200, 0.1, seed=0)
    load = open_loop(url, samples, arrivals, callers=1)
    assert (load.outcome == Outcome.ANSWERED).all()
    assert load.due == pytest.approx(arrivals)
    assert load.sent[1:] == pytest.approx(load.done[:-1], abs=0.05), "each is sent when the one before has come back"
    assert load.latencies[-1] > load.done[-1] - load.sent[-1]
    assert load.latencies[-1] == pytest.approx(load.done[-1] - arrivals[-1])


def test_an_open_loop_does_not_wait_for_answers(url, samples):
    # All are due at once, and there are callers for all: they are under way together.
    load = open_loop(url, samples, arrivals=np.linspace(0, 0.002, 8), callers=8)
    assert (load.sent < load.done.min()).sum() >= 3


def test_a_closed_loop_keeps_so_many_under_way(url, samples):
    load = closed_loop(url, samples, callers=3, seconds=0.5)
    assert load.count(Outcome.ANSWERED) == len(load) >= 3
    for n in range(3, len(load)):  # when a request goes out, all but two of those before have come back
        assert (load.done[:n] > load.sent[n]).sum() <= 2


def test_stages_are_what_triton_counted_where_it_knows_the_time(url, samples):
    before = read_stages(url)
    transport = connect(url)
    for sample in samples:
        transport.infer("sparseinst_preprocess", {"image": np.array([[sample.data]], np.object_)}, 30)
    transport.close()
    closed_loop(url, samples, callers=1, seconds=0.1)
    (stage,) = difference(before, read_stages(url)).values()  # not of `sparseinst`, which answers later
    assert stage.requests == len(samples)
    assert stage.batches.keys() == {1}
    assert 0 < stage.compute <= stage.total


def test_a_picture_that_the_server_refuses_is_a_failure_with_its_words(url):
    load = closed_loop(url, [Sample(b"no picture", 1, 1)], callers=1, seconds=0.05)
    assert load.count(Outcome.FAILED) == len(load) >= 1
    assert "wanted" in load.messages[0]


def test_facts_tell_engine_instances_and_queue(url):
    facts = read_facts(url)
    assert facts["server"] == "triton 2.51.0"
    assert re.search(r"graph model.onnx, streams 1,.*instances 1 x CPU.*no dynamic batching", facts["sparseinst"])


@pytest.fixture
def analyzer():
    try:
        return perf_analyzer.find()
    except PerfAnalyzerError:
        pytest.skip("perf_analyzer is not installed; ci/install_perf_analyzer.sh installs it")


def test_perf_analyzer_measures_the_same_server(analyzer, url, pictures, tmp_path):
    load = ["concurrency", "--concurrencies", "2"] if url.startswith("grpc") else ["rate", "--rates", "12"]
    arguments = ["--seconds", "0.9", "--long-sides", "100", "--scenarios", *load]
    assert main([*pictures, "--url", url, "--out", str(tmp_path), *arguments]) == 0
    (row,) = csv.DictReader((tmp_path / "levels.csv").open())
    assert (row["load"], row["unit"]) == (("2.0", "in flight") if load[0] == "concurrency" else ("12.0", "requests/s"))
    assert row["generator"] == "perf_analyzer"
    assert float(row["p99_ms"]) >= float(row["p50_ms"]) > 0, row["note"]
    assert str(analyzer) in row["command"]


@pytest.fixture(scope="module")
def narrow(repository, serve_python, tmp_path_factory):
    """A server that lets eight requests wait, and no more."""
    copy = Path(shutil.copytree(repository, tmp_path_factory.mktemp("narrow") / "model_repository"))
    config = copy / "sparseinst" / "configs" / "cpu.pbtxt"
    text, wait = config.read_text(), 'key: "longest_wait_ms" value { string_value: "%s" }'
    assert wait % 500 in text
    config.write_text(text.replace(wait % 500, wait % 1))
    with TritonServer(copy, python=serve_python) as running:
        yield {"grpc": running.grpc_url, "http": running.http_url}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_open_loop_beyond_the_queue_counts_rejections_apart(narrow, samples, protocol):
    load = open_loop(narrow[protocol], samples, poisson_arrivals(2000, 0.02, seed=0), callers=40)
    assert load.count(Outcome.REJECTED) > 0
    assert load.count(Outcome.ANSWERED) > 0
    assert load.count(Outcome.FAILED) == 0, load.messages


# A bound that nothing keeps, from a low rate; and one that low rates keep, from a rate that overflows the queue.
@pytest.mark.parametrize(("protocol", "bound", "start"), [("grpc", "0.01", "4"), ("http", "1000", "600")])
def test_one_run_writes_all_files(narrow, pictures, tmp_path, capsys, protocol, bound, start):
    scenarios = ["single-stream", "offline", "server", "overload"]
    load = ["--seconds", "0.15", "--in-flight", "2", "--callers", "64", "--long-sides", "100"]
    search = ["--p99-ms", bound, "--start-rate", start, "--resolution", "9"]
    arguments = ["--url", narrow[protocol], "--out", str(tmp_path), "--scenarios", *scenarios, *load, *search]
    assert main([*pictures, *arguments]) == 0
    rows = list(csv.DictReader((tmp_path / "levels.csv").open()))
    assert {row["scenario"].partition(":")[0] for row in rows} == set(scenarios)
    assert {row["protocol"] for row in rows} == {protocol}
    assert all(float(row["p99_ms"]) >= float(row["p50_ms"]) > 0 for row in rows if int(row["answered"]))
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(results["found"]) == set(scenarios)
    first = next(level for level in results["levels"] if level["scenario"] == "server")
    assert first["holds"] is False
    found = results["found"]["server"]
    if protocol == "http":
        assert first["rejected"] > 0
        assert found is None or found < float(start)
    else:
        assert found is None
    assert "6 different pictures" in (tmp_path / "report.md").read_text()
    assert "| server | triton 2.51.0 |" in capsys.readouterr().out
    assert (tmp_path / "throughput_latency.svg").exists()


def test_a_server_with_a_response_cache_is_not_measured(repository, serve_python, pictures, capsys, tmp_path):
    copy = Path(shutil.copytree(repository, tmp_path / "model_repository"))
    config = copy / "sparseinst" / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text() + "\nresponse_cache { enable: true }\n")
    with TritonServer(copy, python=serve_python) as cached:
        for url in (cached.grpc_url, cached.http_url):
            with pytest.raises(ServerFactsError, match="response cache of sparseinst is on"):
                read_facts(url)
        arguments = ["--url", cached.http_url, "--scenarios", "offline", "--out", str(tmp_path / "out")]
        assert main([*pictures, *arguments]) == 1
    assert "answers would come from memory" in capsys.readouterr().err


@pytest.fixture(scope="module")
def locust(serve_python, repo_root):
    """Runs Locust without a browser; gives its exit status, all it said, and the number of requests by row."""
    program = serve_python.with_name("locust")
    if not program.exists():
        pytest.fail(f"no Locust at {program}; `make setup` installs it")
    command = [str(program), "-f", str(repo_root / "clients" / "locustfile.py"), "--headless", "--only-summary"]

    def run(*arguments: str, folder: Path) -> tuple[int, str, dict[tuple[str, str], int]]:
        file = folder / "stats"  # Locust adds .json
        said = subprocess.run(
            [*command, "--json-file", str(file), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=folder,
            env=os.environ | {"LOCUST_SKIP_UPDATE_CHECK": "1"},
        )
        rows = json.loads(file.with_suffix(".json").read_text())
        counts = {(row["method"], row["name"]): row["num_requests"] for row in rows}
        return said.returncode, said.stdout + said.stderr, counts

    return run


def test_users_of_both_protocols_are_answered_and_the_service_level_holds(locust, server, pictures, tmp_path):
    addresses = {"SPARSEINST_URL": server.grpc_url, "SPARSEINST_HTTP_URL": server.http_url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in addresses.items():
            patch.setenv(name, value)
        arguments = ["--users", "4", "--spawn-rate", "10", "--run-time", "2s", "--slo-p95-ms", "30000"]
        status, said, counts = locust("--pictures", *pictures, *arguments, folder=tmp_path)
    assert status == 0, said
    assert counts.keys() == {("grpc", "segment"), ("http", "segment")}
    assert min(counts.values()) > 0
    assert "service level: held" in said


def test_a_missed_service_level_is_the_exit_status(locust, server, pictures, tmp_path):
    arguments = ["--host", server.grpc_url, "--run-time", "1s", "--slo-p95-ms", "0.1"]
    status, said, counts = locust("--pictures", *pictures, *arguments, folder=tmp_path)
    assert status == 1
    assert re.search(r"95th percentile over grpc is \S+ ms, above 0.1 ms", said)
    assert counts.keys() == {("grpc", "segment")}, "--host names the protocol"


@pytest.mark.parametrize(("protocol", "allowed", "wanted"), [("grpc", "1", 0), ("http", "0", 1)])
def test_too_many_users_are_rejected_and_that_is_no_failure(
    locust, narrow, pictures, tmp_path, protocol, allowed, wanted
):
    shape = [
        "--shape",
        "spike",
        "--peak-users",
        "16",
        "--base-users",
        "8",
        "--shape-seconds",
        "2",
        "--backoff-ms",
        "20",
    ]
    options = ["--host", narrow[protocol], "--max-rejected-share", allowed]
    status, said, counts = locust(*options, "--pictures", *pictures, *shape, folder=tmp_path)
    assert status == wanted, said
    assert counts.keys() == {(protocol, "segment"), (protocol, "segment: rejected")}
    assert min(counts.values()) > 0
    assert ("are in 'segment: rejected', more than a share of 0" in said) == bool(wanted)


def test_where_nobody_listens_requests_fail(locust, pictures, tmp_path):
    arguments = ["--host", "http://127.0.0.1:9", "--run-time", "1s"]
    status, said, counts = locust("--pictures", *pictures, *arguments, folder=tmp_path)
    assert status == 1
    assert counts.keys() == {("http", "segment: failed")}
    assert "nothing was answered" in said


def test_the_web_page_shows_the_rows_of_a_run(serve_python, server, repo_root, pictures, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = [str(serve_python.with_name("locust")), "-f", str(repo_root / "clients" / "locustfile.py")]
    page = ["--web-host", "127.0.0.1", "--web-port", str(port), "--autostart", "--autoquit", "60"]
    command = [*program, *page, "--host", server.grpc_url, "--run-time", "60s", "--pictures", *pictures]
    rows: list[str] = []
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) as locust:
        try:
            deadline = time.monotonic() + 30
            while "segment" not in rows and time.monotonic() < deadline and locust.poll() is None:
                time.sleep(0.2)
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/stats/requests") as answer:
                    rows = [row["name"] for row in json.load(answer)["stats"]]
        finally:
            locust.terminate()
            locust.wait(40)
    assert "segment" in rows, (tmp_path / "log").read_text()
