"""The Grafana board and the alert rules, as data."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
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


# ---- a Prometheus server for one test, on loopback, and the paths of its programs


ALERTS = MONITORING / "alerts.yaml"
SECONDS = 60.0
_LISTENS = re.compile(r'"?Listening on"?.*?address"?[=:]"?(127\.0\.0\.1:\d+)')


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``; skips the test with a reason if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt install prometheus)")
    return found


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
        found = await self.get("query", query=expression)
        samples: list[dict[str, Any]] = found["result"]
        return samples


@asynccontextmanager
async def prometheus(
    folder: Path, targets: dict[str, str], parameters: dict[str, list[str]]
) -> AsyncIterator[Prometheus]:
    """A server that scrapes ``targets`` (job → address) twice a second, with the project's alert rules."""
    settings = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": job, "params": parameters, "static_configs": [{"targets": [address]}]}
            for job, address in targets.items()
        ],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.listen-address=127.0.0.1:0",
        stderr=PIPE,
    )
    said = io.StringIO()
    reading = asyncio.create_task(_read(process, said))
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(url=f"http://{await _address(process, said)}", session=session)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def _read(process: Process, said: io.StringIO) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        said.write(line.decode(errors="replace"))


async def _address(process: Process, said: io.StringIO) -> str:
    async with asyncio.timeout(SECONDS):
        while process.returncode is None:
            text = said.getvalue()
            found = _LISTENS.search(text)
            if found and "Server is ready to receive web requests" in text:
                return found[1]
            await asyncio.sleep(0.02)
    raise AssertionError("prometheus has ended: " + said.getvalue())
