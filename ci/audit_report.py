"""Judge pip-audit's reports: what is vulnerable, and what was not looked up at all, which pip-audit itself lets pass.

    python ci/audit_report.py build/audit/venv.json ...

Exit status: 0 nothing known, 1 vulnerable packages, 3 not audited.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OURS = "sparseinst"
NOT_AUDITED = 3


def main(reports: list[str]) -> int:
    """Say what each report holds; gives the exit status."""
    return max((judge(Path(report)) for report in reports), default=NOT_AUDITED)


def judge(report: Path) -> int:
    """One report: 0, 1 or 3 as above; a report that pip-audit could not write counts as not audited."""
    try:
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    except (OSError, ValueError, KeyError):
        log = report.with_name(report.name + ".log")
        return not_audited(report, f"pip-audit wrote no report; the end of {log} says why")
    packages = [package for package in packages if package["name"] != OURS]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return not_audited(report, f"the database knew none of {len(packages)} packages: is it out of reach from here?")
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "nowhere yet"
            say(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    rest = f"; not in the database: {', '.join(skipped)}" if skipped else ""
    say(f"{report.stem}: {len(packages) - len(skipped)} packages looked up, {len(vulnerable)} vulnerable{rest}")
    return 1 if vulnerable else 0


def not_audited(report: Path, reason: str) -> int:
    """Say that nothing is known of these packages, good or bad."""
    say(f"{report.stem}: NOT AUDITED, {reason} Run this where the network reaches it.")
    return NOT_AUDITED


def say(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(f"audit: {line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
