"""The Grafana board and the alert rules, as data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
BOARD = MONITORING / "grafana-dashboard.json"
_VARIABLE = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One query of a panel; ``legend`` holds the labels that its legend shows."""

    panel: str
    expression: str
    legend: frozenset[str]

    def filled(self, window: str) -> str:
        """The query as Grafana sends it when everything is selected."""
        text = self.expression.replace("$job", ".+").replace("$instance", ".+")
        return text.replace("$__rate_interval", window)


def targets() -> list[Target]:
    """All queries of the board."""
    panels = json.loads(BOARD.read_text())["panels"]
    return [
        Target(
            panel=panel["title"],
            expression=target["expr"],
            legend=frozenset(re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat") or "")),
        )
        for panel in panels
        for target in panel.get("targets", [])
    ]


def variables() -> dict[str, tuple[str, str]]:
    """The board's query variables: name → series and label."""
    found = {}
    for variable in json.loads(BOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            match = _VARIABLE.fullmatch(variable["query"]["query"])
            assert match is not None, variable
            found[variable["name"]] = (match["series"].replace("$job", ".+"), match["label"])
    return found


def rules() -> dict[str, str]:
    """The alert rules: name → expression."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def expressions(file: Path) -> list[str]:
    """The PromQL expressions of the alert file or of the board."""
    return list(rules().values()) if file.suffix == ".yaml" else [target.expression for target in targets()]
