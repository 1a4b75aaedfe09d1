"""An audit that looked nothing up never passes for a clean one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.0)"}
VULNERABLE = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["10.0"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([SOUND, SOUND], 0, "2 packages looked up, 0 vulnerable"),
        ([SOUND, SKIPPED], 0, "1 packages looked up, 0 vulnerable; not in the database: torch"),
        ([SOUND, VULNERABLE], 1, "pillow 9.0: PYSEC-1, fixed in 10.0"),
        ([SKIPPED, SKIPPED], 3, "NOT AUDITED, the database knew none of 2 packages"),
        (None, 3, "NOT AUDITED, pip-audit wrote no report"),
    ],
)
def test_a_report_is_judged_by_what_was_looked_up(repo_root, tmp_path, packages, status, words):
    report = tmp_path / "venv.json"
    if packages is not None:
        report.write_text(json.dumps({"dependencies": [*packages, {"name": "sparseinst", "skip_reason": "editable"}]}))
    command = [sys.executable, repo_root / "ci" / "audit_report.py", report]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, words in ran.stdout) == (status, True), ran.stdout + ran.stderr
