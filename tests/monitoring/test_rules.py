"""The alert rules load, and each fires and rests when it should: checked by Prometheus' own tool."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.board import MONITORING, rules, targets
from tests.monitoring.server import program

TESTS = MONITORING / "alerts.test.yaml"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)


def cases() -> dict[str, list[Any]]:
    """The expectations of each alert, one for each tested time: a list of alerts, which may be empty."""
    found: dict[str, list[Any]] = {}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            found.setdefault(case["alertname"], []).append(case.get("exp_alerts", []))
    return found


def test_prometheus_loads_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(MONITORING / "alerts.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules())} rules found" in done.stdout + done.stderr


def test_each_alert_fires_and_rests() -> None:
    done = promtool("test", "rules", str(TESTS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", rules())
def test_of_each_alert_it_is_tested_that_it_fires_and_that_it_rests(alert: str) -> None:
    expected = cases().get(alert, [])
    assert any(expected), f"{alert} never fires in {TESTS.name}"
    assert not all(expected), f"{alert} never rests in {TESTS.name}"


@pytest.mark.parametrize("alert", rules())
def test_an_alert_that_never_fires_fails_its_test(alert: str, tmp_path: Path) -> None:
    tests = yaml.load(TESTS.read_text(), yaml.BaseLoader)  # so that "0x20" does not become a number
    for test in tests["tests"]:  # with the cases of all alerts it takes twenty times as long
        test["alert_rule_test"] = [case for case in test["alert_rule_test"] if case["alertname"] == alert]
    tests["tests"] = [test for test in tests["tests"] if test["alert_rule_test"]]
    (tmp_path / TESTS.name).write_text(yaml.safe_dump(tests))
    shutil.copy(MONITORING / "alerts.yaml", tmp_path)
    done = promtool("test", "rules", str(tmp_path / TESTS.name))
    assert done.returncode == 0, done.stdout + done.stderr
    text = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    for group in text["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                rule["expr"] = "vector(0) > 1"
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump(text))
    done = promtool("test", "rules", str(tmp_path / TESTS.name))
    assert done.returncode != 0, f"{alert} is not needed by {TESTS.name}"


@pytest.mark.parametrize("owner", [0, 1])
def test_the_board_is_as_ready_as_the_owner_whatever_the_standby_says(owner: int, tmp_path: Path) -> None:
    (ready,) = [target.filled("1m") for target in targets() if target.panel == "Ready"]
    series = {"stackd_ready": (owner, 0), "stackd_standby": (0, 1)}
    test = {
        "interval": "1m",
        "input_series": [
            {"series": f'{name}{{job="stackd", instance="{instance}"}}', "values": f"{value}x5"}
            for name, values in series.items()
            for instance, value in zip("ab", values, strict=True)
        ],
        "promql_expr_test": [{"expr": ready, "eval_time": "3m", "exp_samples": [{"labels": "{}", "value": owner}]}],
    }
    (tmp_path / "board.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    done = promtool("test", "rules", str(tmp_path / "board.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
