"""Hostile input, some of it in every run of the tests, and again whatever once broke something (`corpus/`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("targets", HERE / "targets.py")
targets = importlib.util.module_from_spec(spec)
sys.modules["targets"] = targets
spec.loader.exec_module(targets)

EXAMPLES = targets.examples(HERE.parents[1])
# where (in 1/1000 of the input), what: bytes put in place of as many, cut off, put in, or taken from elsewhere
EDITS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3), st.binary(min_size=1, max_size=6)), max_size=6)


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The same bytes after some damage."""
    for where, what, new in edits:
        at = len(data) * where // 1000
        replaced = {0: new + data[at + len(new) :], 1: b"", 2: new + data[at:], 3: data[at // 2 :]}[what]
        data = data[:at] + replaced
    return data


@pytest.mark.parametrize("name", targets.TARGETS)
def test_good_input_is_taken(name):
    for example in EXAMPLES[name]:
        targets.TARGETS[name](example)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_damaged_input_is_taken_or_refused_in_words(name):
    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(EXAMPLES[name]), EDITS)
    def damaged(example, edits):
        targets.TARGETS[name](edited(example, edits))

    damaged()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes_are_taken_or_refused_in_words(name):
    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=300))
    def any_bytes(data):
        targets.TARGETS[name](data)

    any_bytes()


@pytest.mark.parametrize(
    "path", sorted((HERE / "corpus").glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_what_once_broke_something_does_so_no_more(path):
    targets.TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("picture", "decode"),
        ("letterbox", "Letterbox"),
        ("masks", "segment"),
        ("rle", "run_lengths"),
        ("contract", "Contract"),
        ("checksums", "read_checksums"),
        ("reply", "read_reply"),
        ("request", "image_size"),
    ],
)
def test_a_promise_that_is_broken_is_noticed(monkeypatch, name, inside):
    class Broken:
        def __call__(self, *_, **__):
            raise RuntimeError("broken")

        fit = from_json = __call__

    monkeypatch.setattr(targets, inside, Broken())
    with pytest.raises((RuntimeError, AssertionError), match="broken"):
        targets.TARGETS[name](EXAMPLES[name][0])
