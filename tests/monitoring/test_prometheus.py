"""A real Prometheus scrapes a busy daemon: each query of the board returns something, and each rule is evaluated."""

from __future__ import annotations

import asyncio
import math
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from stackd.keys import digest
from tests.harness import Harness, harness, request_for, until
from tests.monitoring.board import MONITORING, Prometheus, program, prometheus, rules, targets, variables
from tests.templates import PLAIN, folder_with

SCRAPER = "sk-scraper-0123456789abcdef0123456789"
WINDOW = "30s"
SECONDS = 60.0
EMPTY = {
    "Credentials for Kubernetes end": "those of the embedded cluster do not",
    "Checks": "no template has a check",
    "TLS certificate ends": "the API speaks plain HTTP",
}
"""Panels that rightly show nothing here; their queries still have to succeed."""


@asynccontextmanager
async def scraped(tmp_path: Path) -> AsyncIterator[tuple[Harness, Prometheus]]:
    """A daemon, and a Prometheus with a key that may only read its metrics."""
    program("prometheus")
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "scraper"\nsha256 = "{digest(SCRAPER).hex()}"\nscope = "metrics"\n')
    settings = folder_with(tmp_path, web_1=PLAIN + "pool: 1\n")
    async with harness(tmp_path, settings, config=config) as at:
        address = at.url.removeprefix("http://")
        async with prometheus(tmp_path, {"stackd": address}, SCRAPER) as server:
            yield at, server


async def be_busy(at: Harness) -> None:
    """One round of everything that the board shows: creates, also failing ones, deletes, a job."""
    stacks = await asyncio.gather(*(at.create() for _ in range(3)))
    stacks += await asyncio.gather(*(at.create({"template": "web-1"}) for _ in range(3)))
    ids = [stack["stack_id"] for stack in stacks]
    await at.until_status(ids[0], "running")
    assert (await at.call("POST", "/stacks", request_for("nginx", cpu="900000"))).status == 503
    assert (await at.call("GET", "/stacks/stack-none")).status == 404
    await at.call("DELETE", f"/stacks/{ids[0]}")
    await at.finished_job(await at.batch_delete(*ids))


def shown(samples: list[dict[str, Any]]) -> bool:
    """Whether any sample is a number; a quantile over no events is NaN, which the board shows as a gap."""
    return any(math.isfinite(float(sample["value"][1])) for sample in samples)


async def test_a_prometheus_fills_the_board_and_evaluates_every_rule(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (at, server):
        instance = at.url.removeprefix("http://")
        for name, (series, label) in variables().items():
            expected = {"job": ["stackd"], "instance": [instance]}[name]
            await until(
                lambda label=label, series=series: server.get(f"label/{label}/values", **{"match[]": series}),  # type: ignore[misc]
                lambda values, expected=expected: values == expected,  # type: ignore[misc]
                SECONDS,
            )
        await at.create()
        well = dict.fromkeys(rules(), ("ok", "inactive"))
        await until(lambda: states(server), lambda states: states == well, SECONDS)
        other = await at.running()  # its pod is deleted by hand
        await at.delete_object("pods", other)
        await at.until_status(other, "stopped")

        async def empty() -> list[str]:
            await be_busy(at)
            return [
                f"{target.panel}: {target.expression}"
                for target in targets()
                if not shown(await server.query(target.filled(WINDOW))) and target.panel not in EMPTY
            ]

        await until(empty, lambda panels: not panels, SECONDS)
        assert {target.panel for target in targets()} >= EMPTY.keys()
        for target in targets():
            for sample in await server.query(target.filled(WINDOW)):
                assert target.legend <= sample["metric"].keys(), f"{target.panel}: the legend is not in {sample}"
        at.put_keys_in_force()  # the daemon rejects the key: for Prometheus it is down
        await until(lambda: states(server), lambda states: states["StackdDown"][1] == "pending", SECONDS)


async def states(server: Prometheus) -> dict[str, tuple[str, str]]:
    """The health and the state of each rule."""
    groups = (await server.get("rules"))["groups"]
    return {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}


# ---- the alert rules load, and each fires and rests when it should: checked by Prometheus' own tool


TESTS = MONITORING / "alerts.test.yaml"


def promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_rule_loads_and_is_tested_to_fire_and_to_rest() -> None:
    output = promtool("check", "rules", "--lint=all", "--lint-fatal", str(MONITORING / "alerts.yaml"))
    assert f"{len(rules())} rules found" in output
    promtool("test", "rules", str(TESTS))
    cases: dict[str, list[bool]] = {alert: [] for alert in rules()}
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            cases[case["alertname"]].append(bool(case.get("exp_alerts")))
    assert [alert for alert, fires in cases.items() if set(fires) != {True, False}] == []
