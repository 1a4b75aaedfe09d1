"""The soak tells what creeps from what only moves; and a short one runs against the real server."""

from __future__ import annotations

import json

import pytest
import soak
from soak import Row, trends


def rows_of(memory, *, minutes: float = 10.0, looks: int = 200) -> list[Row]:
    """What would be seen of one process whose memory in MB is a function of the minutes."""
    times = [60 * minutes * i / looks for i in range(1, looks + 1)]
    return [Row(seconds, "one", memory(seconds / 60), 50, 0.0) for seconds in times]


@pytest.mark.parametrize(
    ("memory", "holds"),
    [
        (lambda t: 300.0, True),
        (lambda t: 300 + 2 * t, False),
        (lambda t: 300 - 2 * t, True),
        (lambda t: 300 + 40 * min(t, 2), True),
        (lambda t: 300 + 80 * (int(10 * t) % 10 == 0), True),
        (lambda t: 300 + 20 * (t % 1) + 2 * t, False),
        (lambda t: 300 + 4 * (t > 5), True),
    ],
    ids=["steady", "leaks", "shrinks", "grows while it warms up", "has peaks", "leaks under a saw", "makes one step"],
)
def test_a_leak_is_told_from_what_only_moves(memory, holds):
    by_figure = {each.figure: each for each in trends(rows_of(memory))}
    assert by_figure["rss_mb"].holds == holds
    assert by_figure["fds"].holds


def test_two_hours_show_a_leak_that_ten_minutes_hide():
    def memory(minutes: float) -> float:
        return 300 + 1.2 * minutes  # 72 MB an hour

    assert not trends(rows_of(memory, minutes=120))[1].holds
    assert trends(rows_of(lambda minutes: 300 + 0.5 * minutes, minutes=120))[1].holds


@pytest.mark.slow
def test_a_short_soak_writes_its_figures(repository, serve_python, tmp_path, repo_root):
    import subprocess

    command = [serve_python, repo_root / "ci" / "soak.py", "--minutes", "0.5", "--out", tmp_path]
    ended = subprocess.run([*command, "--repository", repository], capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "soak.json").read_text())
    assert ended.returncode == bool(result["problems"]), ended.stderr
    assert {row["process"] for row in result["rows"]} >= {"tritonserver", str(soak.SHARED_MEMORY)}
    assert (tmp_path / "soak.svg").stat().st_size > 1000
    assert (tmp_path / "soak.md").read_text() in ended.stdout
