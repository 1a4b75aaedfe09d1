"""Rules, alerts and dashboard as files: promtool takes them, each alert is tested both ways and has its runbook.

Whether a server exports what they ask for is in tests/server/test_metrics.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess

import pytest
import yaml
from chart import PROMTOOL, ROOT, needs_promtool

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text(encoding="utf-8"))
TESTS = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text(encoding="utf-8"))["tests"]
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}


@pytest.fixture(scope="module")
def checker():
    specification = importlib.util.spec_from_file_location("check_dashboard", ROOT / "ci" / "check_dashboard.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def promtool(*arguments):
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)


def expected_alerts(test, alert):
    """What a test of promtool expects of an alert, at each time that it asks."""
    return [each.get("exp_alerts", []) for each in test["alert_rule_test"] if each["alertname"] == alert]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_firing_and_silent(alert):
    asked = [answer for test in TESTS for answer in expected_alerts(test, alert)]
    assert any(asked)
    assert not all(asked)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_its_runbook(alert):
    page, _, anchor = ALERTS[alert]["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor == alert.lower()
    assert alert in headings


def test_no_runbook_is_of_an_alert_that_is_gone():
    text = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (SparseInst\w+)$", text, re.MULTILINE) == list(ALERTS)


@needs_promtool
def test_promtool_takes_rules_and_their_tests():
    for verb, file in (("check", "rules.yaml"), ("test", "rules_test.yaml")):
        ran = promtool(verb, "rules", str(PROMETHEUS / file))
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow  # promtool runs twice for each alert
@needs_promtool
def test_no_alert_loses_its_condition_unnoticed(tmp_path):
    (tmp_path / "rules_test.yaml").write_text((PROMETHEUS / "rules_test.yaml").read_text())
    for alert, rule in ALERTS.items():
        for never_or_always in ("vector(0) > 1", f"({rule['expr']}) or vector(1)"):
            broken = json.loads(json.dumps(RULES))
            for group in broken["groups"]:
                for each in group["rules"]:
                    each["expr"] = never_or_always if each.get("alert") == alert else each["expr"]
            (tmp_path / "rules.yaml").write_text(yaml.safe_dump(broken))
            assert promtool("test", "rules", str(tmp_path / "rules_test.yaml")).returncode == 1, (
                alert,
                never_or_always,
            )


@needs_promtool
def test_every_expression_of_the_dashboard_is_promql(checker, tmp_path):
    dashboard = json.loads(checker.DASHBOARD.read_text(encoding="utf-8"))
    asked = [expression.replace("$__rate_interval", "1m") for _, expression in checker.expressions(dashboard)]
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_dashboard_is_whole(checker, capsys):
    assert checker.main([]) == 0, capsys.readouterr().out


def test_a_dashboard_with_a_fault_is_told_so(checker):
    dashboard = json.loads(checker.DASHBOARD.read_text(encoding="utf-8"))
    first, second = (panel for panel in dashboard["panels"][:3] if panel["type"] != "row")
    second["gridPos"]["x"] = first["gridPos"]["x"]
    del first["description"]
    second["targets"][0]["expr"] = 'up{pod=~"$nobody"} / sparseinst:nothing:rate5m'
    assert checker.faults(dashboard, RULES, None) == [
        f"panel {second['title']} asks for sparseinst:nothing:rate5m, which nothing records",
        f"panel {first['title']} lacks a target, a description or a data source",
        f"panel {second['title']} lies upon {first['title']}",
        "variable $nobody is not defined",
    ]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('sum by (pod) (rate(a_total{x="b{c}d", y=~"e|f"}[5m])) / on (pod) group_left (z) g', {"a_total", "g"}),
        ("histogram_quantile(0.99, sum without (le) (rate(h_bucket[1h:5m] offset 1w))) > bool 1e3", {"h_bucket"}),
        ("time() - max by (a, b) (t_seconds) > 30 or vector(0) unless u:v:w", {"t_seconds", "u:v:w"}),
        ("clamp_min(a{p=~\"$pod\"}, 0) and b{q='{r}'}", {"a", "b"}),
    ],
)
def test_names_are_read_out_of_promql(checker, expression, names):
    assert checker.names(expression) == names
