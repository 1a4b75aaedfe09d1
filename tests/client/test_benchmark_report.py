"""From figures to files: perf_analyzer's table, the CSV, the JSON, the report and the pictures."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from sparseinst_client.benchmark import perf_analyzer, report
from sparseinst_client.benchmark.command import main
from sparseinst_client.benchmark.levels import IN_FLIGHT, RATE, Level
from sparseinst_client.benchmark.perf_analyzer import PerfAnalyzerError
from sparseinst_client.benchmark.plots import draw
from sparseinst_client.benchmark.server import Stage, difference

# What perf_analyzer 2.60.0 wrote and said, shortened.
TABLE = """\
Request Rate,Inferences/Second,Client Send,Server Queue,p50 latency,p90 latency,p95 latency,p99 latency
60,35.8224,27,2,96343,118138,182192,288540
"""
SAID = """\
Request Rate: 60 inference requests per second
  Client:
    Request count: 131
    Throughput: 35.82 infer/sec
"""
LATE = "    [WARNING] Perf Analyzer was not able to keep up [...] rate. 89.31% of the requests were delayed.\n"
FULL = "Thread [0] had error: in ensemble 'sparseinst', [request id: 27] Exceeds maximum queue size\n"
LATENCY = {"mean_ms": 10.0, "p50_ms": 9.0, "p90_ms": 14.0, "p95_ms": 15.0, "p99_ms": 19.0, "max_ms": 21.0}
STAGES = {
    "sparseinst": Stage(10, 90, 0, 80, {1: 10}),
    "sparseinst_network": Stage(10, 70, 10, 60, {1: 2, 4: 2}),
    "sparseinst_preprocess": Stage(10, 20, 5, 15, {1: 10}),
}


@pytest.fixture
def level():
    return Level("rate", "perf_analyzer", "grpc", 60.0, RATE, command="perf_analyzer -m sparseinst")


def test_perf_analyzers_table_is_read_in_milliseconds(level):
    found = perf_analyzer.read(level, TABLE, SAID)
    assert found.latency == {"p50_ms": 96.343, "p90_ms": 118.138, "p95_ms": 182.192, "p99_ms": 288.54}
    assert found.pictures_per_s == 35.8224
    assert found.requests == found.answered == 131
    assert found.note == ""
    assert perf_analyzer.judge(found, 300).holds is True
    assert perf_analyzer.judge(found, 288).holds is False


def test_a_level_that_could_not_send_in_time_does_not_hold(level):
    found = perf_analyzer.read(level, TABLE, SAID + LATE)
    assert "89.31 % of the requests went out late" in found.note
    assert perf_analyzer.judge(found, 1000).holds is False


@pytest.mark.parametrize("table", ["", TABLE.splitlines()[0]])
def test_a_level_that_perf_analyzer_gave_up_says_why_and_does_not_hold(level, table):
    found = perf_analyzer.read(level, table, SAID + FULL)
    assert "no figures: " in found.note
    assert "Exceeds maximum queue size" in found.note
    assert perf_analyzer.judge(found, 1e9).holds is False


def test_a_level_that_ended_early_does_not_hold(level):
    found = perf_analyzer.read(level, TABLE, SAID + FULL)
    assert "ended early: " in found.note
    assert perf_analyzer.judge(found, 1e9).holds is False


def test_another_table_is_refused_in_words(level):
    with pytest.raises(PerfAnalyzerError, match=r"columns Rate, P99; wanted Inferences/Second"):
        perf_analyzer.read(level, "Rate,P99\n1,2\n", SAID)


def test_random_arrivals_do_not_wait_for_answers(tmp_path):
    arguments = {"program": tmp_path / "pa", "url": "grpc://host:8001", "pictures": tmp_path / "in.json", "seconds": 6}
    open_ = perf_analyzer.command(**arguments, amount=12.5, unit=RATE)
    assert "--async" in open_
    assert open_[open_.index("--request-rate-range") + 1] == "12.5"
    assert open_[open_.index("--request-distribution") + 1] == "poisson"
    closed = perf_analyzer.command(**arguments, amount=4.0, unit=IN_FLIGHT)
    assert closed[closed.index("--concurrency-range") + 1] == "4"
    assert closed[closed.index("-u") + 1] == "host:8001"
    assert closed[closed.index("--measurement-interval") + 1] == "2000", "three windows"
    slow = perf_analyzer.command(**arguments, amount=0.5, unit=RATE)
    assert slow[slow.index("--measurement-interval") + 1] == "20000", "ten requests expected in a window"


def test_counters_are_those_of_the_time_between_two_readings():
    before = {"a": Stage(5, 50, 5, 45, {1: 3, 2: 1}), "idle": Stage(1, 1, 1, 1, {1: 1})}
    after = {"a": Stage(9, 90, 10, 80, {1: 3, 2: 2, 4: 1}), "idle": before["idle"], "new": Stage(1, 2, 0, 2, {1: 1})}
    between = difference(before, after)
    assert between["a"] == Stage(4, 40, 5, 35, {2: 1, 4: 1})
    assert between["a"].mean_batch == 3
    assert set(between) == {"a", "new"}


@pytest.fixture
def results():
    levels = [
        Level("offline", "client", "grpc", 16.0, IN_FLIGHT, 2.0, 60, 60, 0, 0, 30.0, LATENCY, stages=STAGES),
        Level("server", "client", "grpc", 20.0, RATE, 2.0, 40, 40, 0, 0, 20.0, LATENCY, 55.0, 1.0, True, STAGES),
        Level(
            "server", "client", "grpc", 40.0, RATE, 2.0, 80, 60, 15, 5, 30.0, LATENCY, 1.0, 0.7, False, STAGES, "a|b"
        ),
        Level("search", "perf_analyzer", "grpc", 40.0, RATE, holds=False, note="no figures", command="perf_analyzer x"),
    ]
    return report.Results(
        levels=levels,
        found={"offline": 30.0, "server": 20.0, "search": None},
        bound_ms=100.0,
        workload="64 different pictures",
        machine={"client's machine": "2 cores"},
        server={"server": "triton 2.51.0"},
        commands=["python clients/benchmark.py x", "perf_analyzer x"],
    )


def test_the_report_holds_findings_machine_versions_and_commands(results):
    text = report.markdown(results, ["stages.svg"])
    for said in (
        "| offline | offline, as many as it can do | 30.0 pictures/s |",
        "within 100 ms | 20.0 requests/s |",
        "| no rate held |",
        "| client's machine | 2 cores |",
        "| server | triton 2.51.0 |",
        "python clients/benchmark.py x",
        "![stages](stages.svg)",
        "| sparseinst_network | 7.00 | 1.00 | 6.00 | 2.50 |",
    ):
        assert said in text


def test_the_report_warns_of_what_spoils_figures(results):
    text = report.markdown(results)
    assert "5 requests failed: a|b" in text
    assert "held once" not in text
    again = replace(results.levels[1], holds=False)
    assert "1 rates held once and did not hold once more" in report.markdown(
        replace(results, levels=[*results.levels, again])
    )
    assert "15 requests were rejected" in text
    assert "1 levels that held had fewer than 100 requests" in text
    assert "In 1 levels requests went out more than 10 ms late" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head(results):
    lines = report.markdown(results).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| scenario | by"))
    counts = {line.replace("\\|", "").count("|") for line in lines[start : start + 6]}
    assert len(counts) == 1


def test_files_hold_every_level(results, tmp_path):
    written = report.write(results, tmp_path / "new", draw(results.levels))
    assert written[0].name == "report.md"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "new" / "levels.csv").read_text())))
    assert [row["load"] for row in rows] == ["16.0", "20.0", "40.0", "40.0"]
    assert rows[0]["network_mean_batch"] == "2.5"
    assert rows[3]["network_mean_batch"] == ""
    assert list(rows[0])[-2:] == ["note", "command"]
    again = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert len(again["levels"]) == 4
    assert again["levels"][0]["stages"]["sparseinst_network"]["batches"] == {"1": 2, "4": 2}
    for name in ("throughput_latency", "batch_sizes", "stages"):
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (tmp_path / "new" / f"{name}.svg").read_bytes()[:1000]


def test_pictures_are_drawn_of_what_there_is(results):
    assert draw(results.levels[3:]) == {}
    assert set(draw(results.levels[:1], ["svg"])) == {"throughput_latency.svg", "batch_sizes.svg", "stages.svg"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "localhost:8001"], "wanted grpc://host:port"),
        (["--seconds", "0"], "wanted a number above 0"),
        (["--callers", "0"], "wanted at least 1"),
        (["--scenarios", "everything"], "invalid choice"),
        (["--long-sides", "1"], "16 to 16384"),
    ],
)
def test_wrong_usage_is_named(arguments, said, scenes, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(scenes / "images"), *arguments])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("url", ["grpc://127.0.0.1:9", "http://127.0.0.1:9"])
def test_where_nobody_listens_one_sentence_says_so(url, scenes, tmp_path, capsys):
    arguments = ["--scenarios", "single-stream", "--url", url, "--out", str(tmp_path / "out")]
    assert main([str(scenes / "images"), *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"benchmark: {url}")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
