"""Some hundred broken requests are answered by statuses that say whose fault it is; `make fuzz` sends thousands."""

from __future__ import annotations

import pytest
from fuzz_server import attack, judge


def test_broken_requests_are_refused_and_the_server_goes_on(server):
    counts, failures = attack(server.http_url, server.grpc_url, count=300, seed=1)
    assert not failures
    assert sum(counts.values()) == 300
    assert counts["http 400"] > 30
    assert counts["grpc INVALID_ARGUMENT"] > 10


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("500", ""),
        ("INTERNAL", ""),
        ("UNKNOWN", ""),
        ("400", "Traceback (most"),
        ("400", "model_repository/x"),
        ("301", ""),
    ],
)
def test_an_answer_that_blames_the_server_or_shows_its_insides_is_noticed(status, said):
    assert judge(status, said)
