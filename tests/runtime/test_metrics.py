"""Counting never harms, also where Triton has no metrics; failures are told without what was sent."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import pytest

from sparseinst_runtime.events import failure
from sparseinst_runtime.limits import REASONS, Limits, PictureError, check_header
from sparseinst_runtime.metrics import DECODE, EVERY_MODEL, FAILED, HEARTBEAT, INSTANCES, MASKS, QUEUED, Metrics
from sparseinst_runtime.triton import RequestError, each_picture

ARGUMENTS = {"model_name": "m", "model_version": "3", "model_instance_name": "m_0_0"}


def told(capfd):
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_without_metrics_in_triton_models_count_in_vain_and_say_so_once(capfd):
    metrics = Metrics(SimpleNamespace(), ARGUMENTS, DECODE)
    for _ in range(10):
        metrics.count(FAILED)
        with metrics.timed(DECODE):
            pass
    metrics.close()
    metrics.close()
    (event,) = told(capfd)
    assert (event["event"], event["error"], event["model"], event["version"]) == (
        "metrics_off",
        "AttributeError",
        "m",
        "3",
    )


def test_a_body_that_raises_is_not_timed(capfd):
    metrics = Metrics(SimpleNamespace(), ARGUMENTS, DECODE)
    noted = []
    metrics.observe = lambda histogram, value: noted.append((histogram, value))
    with metrics.timed(DECODE):
        pass
    with pytest.raises(ZeroDivisionError), metrics.timed(DECODE):
        raise ZeroDivisionError
    ((histogram, seconds),) = noted
    assert histogram is DECODE
    assert 0 <= seconds < 5


def test_names_follow_prometheus_conventions():
    for counter in EVERY_MODEL:
        assert counter.name.startswith("sparseinst_")
        assert counter.name.endswith("_total")
    for histogram in (DECODE, MASKS, *QUEUED):
        assert histogram.name.startswith("sparseinst_")
        assert histogram.name.endswith("_seconds")
    for histogram in (DECODE, MASKS, INSTANCES, *QUEUED):
        assert list(histogram.bounds) == sorted(set(histogram.bounds))
    assert HEARTBEAT.endswith("_timestamp_seconds")


@pytest.mark.parametrize(
    ("data", "limits", "reason"),
    [
        (b"", Limits(), "empty"),
        (b"GIF89a", Limits(), "format"),
        (b"\xff\xd8\xff" + b"\0" * 50, Limits(max_bytes=20), "too_large"),
        (b"\xff\xd8\xff", Limits(), "broken"),
    ],
)
def test_every_refusal_of_a_picture_has_its_reason(data, limits, reason):
    with pytest.raises(PictureError) as refused:
        check_header(data, limits)
    assert refused.value.reason == reason
    assert reason in REASONS


def test_too_many_pixels_are_too_large(scene_bytes):
    for limits in (Limits(max_side=100), Limits(max_pixels=1000)):
        with pytest.raises(PictureError) as refused:
            check_header(scene_bytes, limits)
        assert refused.value.reason == "too_large"


def test_a_batch_is_refused_for_the_reason_of_its_picture():
    def work(_):
        raise PictureError("it is empty", "empty")

    with pytest.raises(RequestError) as refused:
        each_picture(3, work)
    assert refused.value.reason == "empty"
    assert RequestError("no number").reason == "value"


def test_a_refusal_keeps_its_reason_on_its_way_between_processes():
    assert pickle.loads(pickle.dumps(PictureError("it is empty", "empty"))).reason == "empty"


def test_a_failure_is_one_line_that_names_the_place_and_nothing_that_was_sent(capfd):
    def fail(data):
        raise ValueError(f"cannot read {data!r}")

    sent = "".join(("hunt", "er2")).encode()  # in no line of this file
    try:
        fail(sent)
    except ValueError as error:
        failure("request_failed", error, request_id='x"}\n{"event": "forged', model="m")
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    event = json.loads(line)
    assert event["event"] == "request_failed"
    assert event["error"] == "ValueError"
    assert event["at"][-1].startswith("test_metrics.py:")
    assert "fail: raise ValueError(" in event["at"][-1]
    assert event["request_id"] == "x?????event?:??forged"
    assert sent.decode() not in line


def test_a_line_stays_short_however_deep_and_long_its_cause(capfd):
    def deep(n):
        return deep(n - 1) if n else 1 // 0

    try:
        deep(200)
    except ZeroDivisionError as error:
        failure("request_failed", error, request_id="x" * 10_000)
    assert len(capfd.readouterr().err) < 4096  # one write to a pipe that no other process's line can cut (PIPE_BUF)
