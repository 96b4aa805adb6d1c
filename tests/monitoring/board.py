"""The Grafana board and the alert rules, as data; and a Prometheus server for one test, on loopback."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.harness import until
from tests.ports import free_port

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
BOARD, ALERTS = MONITORING / "grafana-dashboard.json", MONITORING / "alerts.yaml"
_VARIABLE = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")
SECONDS = 60.0


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
    return [
        Target(
            panel=panel["title"],
            expression=target["expr"],
            legend=frozenset(re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat") or "")),
        )
        for panel in json.loads(BOARD.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


def variables() -> dict[str, tuple[str, str]]:
    """The board's query variables: name → series and label."""
    queries = {
        variable["name"]: _VARIABLE.fullmatch(variable["query"]["query"])
        for variable in json.loads(BOARD.read_text())["templating"]["list"]
        if variable["type"] == "query"
    }
    return {name: (match["series"].replace("$job", ".+"), match["label"]) for name, match in queries.items() if match}


def rules() -> dict[str, str]:
    """The alert rules: name → expression."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def expressions(file: Path) -> list[str]:
    """The PromQL expressions of the alert file or of the board."""
    return list(rules().values()) if file.suffix == ".yaml" else [target.expression for target in targets()]


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; skips the test with a reason if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt install prometheus)")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A running Prometheus server."""

    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an API call, which must succeed."""
        async with self.session.get(f"{self.url}/api/v1/{path}", params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", f"{path} {parameters}: {body}"
        return body["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an instant query returns, each with ``metric`` and ``value``."""
        samples: list[dict[str, Any]] = (await self.get("query", query=expression))["result"]
        return samples

    async def is_ready(self) -> bool:
        try:
            async with self.session.get(f"{self.url}/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, str], key: str) -> AsyncIterator[Prometheus]:
    """A server that scrapes ``targets`` (job → address) twice a second as the README says, with the project's alert rules."""
    (folder / "key").write_text(f"{key}\n")
    (block,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", (MONITORING / "README.md").read_text(), re.DOTALL)
    (documented,) = yaml.safe_load(block)["scrape_configs"]
    documented["authorization"]["credentials_file"] = str(folder / "key")
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            documented | {"job_name": job, "static_configs": [{"targets": [address]}]}
            for job, address in targets.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    words = (f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'tsdb'}")
    with (folder / "prometheus.log").open("wb") as log:
        command = (program("prometheus"), *words, f"--web.listen-address={address}")
        process = await asyncio.create_subprocess_exec(*command, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            server = Prometheus(url=f"http://{address}", session=session)
            await until(server.is_ready, lambda ready: ready or process.returncode is not None, SECONDS)
            assert process.returncode is None, (folder / "prometheus.log").read_text()
            yield server
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
