"""Hold the names that dashboard, rules and their tests ask for against what a server exports.

    .venv/bin/python ci/check_dashboard.py http://127.0.0.1:8002/metrics

The argument is the address of a server's metrics, or a file with them; start it with
--metrics-config=summary_latencies=true, as the chart does. Without an argument only what needs no server is checked:
that the dashboard is whole, and that every recorded name is recorded. Exit status 1 and a line for each fault.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "sparseinst.json"
RULES = DEPLOY / "prometheus" / "rules.yaml"
PROMETHEUS_OWN = {"up", "ALERTS"}
# No server without a GPU exports these: the table "GPU Metrics" of Triton's docs/user_guide/metrics.md.
OF_A_GPU = {
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}
SERIES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
NOT_NAMES = re.compile(
    r'"[^"]*"'  # a value
    r"|\{[^{}]*\}|\[[^\]]*\]"  # matchers, once their values are gone; a range
    r"|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)"
    r"|\b(?:and|or|unless|offset|bool)\b"
)
NAME = re.compile(r"(?<![\w.$:])[a-zA-Z_:][\w:]*(?![\w:]*\s*\()")


def main(arguments: list[str]) -> int:
    """Print faults; gives the exit status."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    exported = read_exported(arguments[0]) if arguments else None
    problems = faults(dashboard, rules, exported)
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


def read_exported(source: str) -> str:
    """The text of a server's metrics, from an address or a file."""
    if source.startswith(("http://", "https://")):
        with urlopen(source, timeout=10) as answer:  # noqa: S310 - the scheme was looked at
            return str(answer.read().decode())
    return Path(source).read_text(encoding="utf-8")


def faults(dashboard: dict[str, Any], rules: dict[str, Any], exported: str | None) -> list[str]:
    """A sentence for each name that nobody gives, and for each part of the dashboard that is not whole.

    Args:
        dashboard: Grafana's JSON, parsed.
        rules: Prometheus' rules, parsed.
        exported: a server's metrics in text; None leaves its names unchecked.
    """
    each = [rule for group in rules["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in each if "record" in rule}
    asked = [("rule " + (rule.get("record") or rule["alert"]), rule["expr"]) for rule in each]
    asked += list(expressions(dashboard))
    known = recorded | PROMETHEUS_OWN | OF_A_GPU | (series_of(exported) if exported is not None else set())
    problems = [
        f"{where} asks for {name}, which {'nothing records' if ':' in name else 'the server does not export'}"
        for where, expression in asked
        for name in sorted(names(expression) - known)
        if exported is not None or ":" in name
    ]
    return problems + layout_faults(dashboard)


def names(expression: str) -> set[str]:
    """The metrics that an expression of PromQL asks for."""
    rest = expression
    while (shorter := NOT_NAMES.sub(" ", rest)) != rest:
        rest = shorter
    return {name for name in NAME.findall(rest) if not name.startswith("__")}


def series_of(exported: str) -> set[str]:
    """The names under which a server's metrics can be asked for, those without a value yet included."""
    types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", exported, re.MULTILINE))
    return {name + ending for name, kind in types.items() for ending in SERIES.get(kind, ("",))}


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where in the dashboard something is asked for, and the expression."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if found := re.fullmatch(r"label_values\((.*), \w+\)", variable.get("definition", "")):
            yield f"variable {variable['name']}", found[1]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def layout_faults(dashboard: dict[str, Any]) -> list[str]:
    """Panels that overlap, stick out, say nothing of themselves or ask for nothing; unknown variables."""
    problems: list[str] = []
    taken: dict[tuple[int, int], str] = {}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__all"}
    for panel in dashboard["panels"]:
        title, at = panel["title"], panel["gridPos"]
        whole = all(panel.get(part) for part in ("targets", "description", "datasource"))
        if panel["type"] != "row" and not whole:
            problems.append(f"panel {title} lacks a target, a description or a data source")
        if at["x"] + at["w"] > 24:  # Grafana's columns
            problems.append(f"panel {title} sticks out to the right")
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, title) != title:
                problems.append(f"panel {title} lies upon {taken[cell]}")
                break
    text = json.dumps(dashboard)
    unknown = set(re.findall(r"\$\{?(\w+)", text)) - variables
    return problems + [f"variable ${name} is not defined" for name in sorted(unknown)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
