"""Requests that threads answer later: each is answered once, or refused at once, or its fault is told."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from sparseinst_runtime.deferred import Deferred
from sparseinst_runtime.metrics import REFUSED
from sparseinst_runtime.triton import RequestError

LIMIT = 30


class Sender:
    """Where one request's answer goes; the first `broken` attempts to send fail."""

    def __init__(self, broken: int = 0, cancelled: bool = False) -> None:
        self.sent, self.done = [], threading.Event()
        self.broken, self.cancelled = broken, cancelled

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response, flags) -> None:
        assert flags == 1, "the one response, and the last"
        if self.broken:
            self.broken -= 1
            raise MemoryError("no shared memory is left")
        self.sent.append(response)
        self.done.set()


class Request:
    """One request as Triton's Python backend hands it in."""

    def __init__(self, value: int, sender: Sender, timeout: int = 0) -> None:
        self.value, self.sender, self._timeout = value, sender, timeout

    def inputs(self):
        array = np.array([[self.value]], np.int32)
        return [SimpleNamespace(name=lambda: "x", as_numpy=lambda: array)]

    def get_response_sender(self):
        return self.sender

    def request_id(self) -> str:
        return str(self.value)

    def timeout(self) -> int:
        return self._timeout


class TritonError(SimpleNamespace):
    UNAVAILABLE, INVALID_ARG, INTERNAL, CANCELLED = "unavailable", "invalid", "internal", "cancelled"

    def __init__(self, message: str, code: str = "internal") -> None:
        super().__init__(message=message, code=code)


PB_UTILS = SimpleNamespace(
    TritonError=TritonError,
    Tensor=lambda name, array: (name, array),
    InferenceResponse=lambda outputs=None, error=None: SimpleNamespace(outputs=outputs, error=error),
)


class Counts:
    """Metrics that remember what was counted."""

    def __init__(self) -> None:
        self.counted, self.labels = [], {}

    def count(self, counter, reason="") -> None:
        self.counted.append((counter, reason))

    def observe(self, histogram, value) -> None:
        assert value >= 0

    def close(self) -> None:
        self.counted.append("closed")


def double(inputs):
    if inputs["x"][0, 0] < 0:
        raise RequestError("x is below 0")
    return {"y": 2 * inputs["x"]}


@pytest.fixture
def counts():
    return Counts()


def answered(sender: Sender):
    assert sender.done.wait(LIMIT), "no answer"
    (response,) = sender.sent
    return response


def test_every_request_is_answered_once_with_its_own_outputs(counts):
    deferred = Deferred(PB_UTILS, [double, double], 60, counts)
    senders = [Sender() for _ in range(20)]
    assert deferred.take([Request(i, sender) for i, sender in enumerate(senders)]) is None
    for i, sender in enumerate(senders):
        ((name, array),) = answered(sender).outputs
        assert (name, array.tolist()) == ("y", [[2 * i]])
    deferred.finish()
    assert counts.counted[-1] == "closed"


def test_finishing_answers_what_was_let_in(counts):
    deferred = Deferred(PB_UTILS, [double], 60, counts)
    senders = [Sender() for _ in range(50)]
    deferred.take([Request(i, sender) for i, sender in enumerate(senders)])
    deferred.finish()
    assert all(len(sender.sent) == 1 for sender in senders)


def test_a_bad_request_fails_alone_and_in_words(counts):
    deferred = Deferred(PB_UTILS, [double], 60, counts)
    bad, good = Sender(), Sender()
    deferred.take([Request(-1, bad), Request(1, good)])
    assert (answered(bad).error.message, answered(bad).error.code) == ("x is below 0", "invalid")
    assert answered(good).error is None
    deferred.finish()


def test_who_would_wait_too_long_is_refused_and_counted(counts):
    gate = threading.Event()

    def slow(inputs):
        assert gate.wait(LIMIT)
        return inputs

    deferred = Deferred(PB_UTILS, [slow], 60, counts)
    deferred._backlog._pace = 1.0
    senders = [Sender() for _ in range(4)]
    deferred.take([Request(i, sender) for i, sender in enumerate(senders)])
    hurried = Sender()
    deferred.take([Request(9, hurried, timeout=500_000)])  # half a second, and at least two wait
    assert answered(hurried).error.code == "unavailable"
    assert counts.counted == [(REFUSED, "")]
    gate.set()
    deferred.finish()
    assert all(answered(sender).error is None for sender in senders)


def test_a_cancelled_request_is_not_computed(counts):
    calls = []
    deferred = Deferred(PB_UTILS, [lambda inputs: calls.append(1) or inputs], 60, counts)
    gone = Sender(cancelled=True)
    deferred.take([Request(1, gone)])
    assert answered(gone).error.code == "cancelled"
    deferred.finish()
    assert not calls


@pytest.mark.parametrize("broken", [1, 2])
def test_an_answer_that_cannot_be_sent_is_told_and_the_thread_lives_on(counts, broken, capfd):
    deferred = Deferred(PB_UTILS, [double], 60, counts)
    lost, next_one = Sender(broken=broken), Sender()
    deferred.take([Request(1, lost), Request(2, next_one)])
    assert answered(next_one).outputs
    deferred.finish()
    assert [response.error.message for response in lost.sent] == (
        ["the server could not send its answer, and its log says why; other requests are not affected"]
        if broken == 1
        else []
    )
    assert "answer_lost" in capfd.readouterr().err
