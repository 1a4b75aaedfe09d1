"""Each status means one thing to a caller, in whichever protocol it came."""

from __future__ import annotations

import pytest

from sparseinst_client.errors import (
    BadRequest,
    DeadlineExceeded,
    NotAllowed,
    NotServed,
    Overloaded,
    ReplyError,
    ServerFailed,
    ServerUnavailable,
    from_status,
)


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        ("StatusCode.INVALID_ARGUMENT", "score_threshold is nan", BadRequest),
        ("400", "score_threshold is nan", BadRequest),
        ("413", "too large", BadRequest),
        ("StatusCode.RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 8)", BadRequest),
        ("StatusCode.UNAVAILABLE", "in ensemble 'sparseinst', Exceeds maximum queue size", Overloaded),
        ("503", "Exceeds maximum queue size", Overloaded),
        ("503", "Request timeout expired", Overloaded),
        ("429", "slow down", Overloaded),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", ServerUnavailable),
        ("503", "upstream connect error", ServerUnavailable),
        ("404", "Request for unknown model: 'x' is not found", NotServed),
        ("404", "Request for unknown model: 'x' has no available versions", ServerUnavailable),
        ("StatusCode.DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("504", "gateway timeout", DeadlineExceeded),
        ("StatusCode.INTERNAL", "the server failed on this request", ServerFailed),
        ("500", "the server failed on this request", ServerFailed),
        ("418", "", ServerFailed),
        ("StatusCode.RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 8)", ReplyError),
        ("StatusCode.UNAUTHENTICATED", "who are you?", NotAllowed),
        ("401", "who are you?", NotAllowed),
        ("403", "This API is restricted, expecting header 'key'", NotAllowed),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'key'", NotAllowed),
    ],
)
def test_a_status_means_the_same_in_both_protocols(status, message, kind):
    assert type(from_status(status, message, "grpc://host:1")) is kind


def test_the_servers_sentence_comes_without_its_way_through_the_ensemble():
    message = "in ensemble 'sparseinst', [request id: <id_unknown>] picture 2 of 3: the picture is empty"
    assert str(from_status("400", message, "http://host:1")) == "picture 2 of 3: the picture is empty"
