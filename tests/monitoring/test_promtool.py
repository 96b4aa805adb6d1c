"""The Grafana board and the alert rules ask for metrics and labels that a daemon has, in PromQL that Prometheus accepts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import harness, request_for
from tests.templates import PLAIN, folder_with

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
ALERTS, TESTS = MONITORING / "alerts.yaml", MONITORING / "alerts.test.yaml"
TARGETS: list[dict[str, Any]] = [
    target
    for panel in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    for target in panel.get("targets", [])
]
RULES: dict[str, str] = {
    rule["alert"]: rule["expr"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}


def promtool(*arguments: str, stdin: str = "") -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_the_board_and_the_rules_ask_for_what_a_daemon_exposes(tmp_path: Path) -> None:
    async with harness(tmp_path, folder_with(tmp_path, web_1=PLAIN + "pool: 1\n")) as at:
        await at.create({"template": "web-1"})
        assert (await at.call("POST", "/stacks", request_for("nginx", cpu="900000"))).status == 503
        text = (await at.call("GET", "/metrics")).text
    promtool("check", "metrics", stdin=text)
    labels: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\w+)", text, re.M)}
    for name, has in re.findall(r"^(\w+)\{(.*)\} ", text, re.M):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', has))
    for expression in [*RULES.values(), *(target["expr"] for target in TARGETS)]:
        asked = re.findall(r"\b((?:stackd|process)_\w+)", expression)
        assert not [name for name in asked if name not in labels and name.removesuffix("_bucket") not in labels], (
            expression
        )
        for name, filters in re.findall(r"\b(stackd_\w+)\{([^}]*)\}", expression):
            named = {*re.findall(r"(\w+)[=!]", filters)} - {"job", "instance"}
            assert named <= labels[name] or not labels[name], expression
    for target in TARGETS:
        legend = {*re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat") or "")} - {"instance"}
        found = set().union(*(labels.get(name, ()) for name in re.findall(r"stackd_\w+", target["expr"])))
        assert legend <= found or not found, target


def test_each_rule_and_query_is_accepted_and_each_rule_is_tested_to_fire_and_to_rest(tmp_path: Path) -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))
    filled = [re.sub(r"\$(job|instance)", ".+", one["expr"]).replace("$__rate_interval", "30s") for one in TARGETS]
    queries = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "board.yaml").write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": queries}]}))
    promtool("check", "rules", str(tmp_path / "board.yaml"))
    promtool("test", "rules", str(TESTS))
    fires: dict[str, set[bool]] = {alert: set() for alert in RULES}
    for case in [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]:
        fires[case["alertname"]].add(bool(case.get("exp_alerts")))
    assert [alert for alert, both in fires.items() if both != {True, False}] == []
