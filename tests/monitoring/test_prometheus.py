"""A real Prometheus scrapes a busy daemon: each query of the board returns something, and each rule is evaluated."""

from __future__ import annotations

import asyncio
import math
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stackd.keys import digest
from tests.harness import Harness, eventually, harness, request_for
from tests.monitoring.board import MONITORING, Prometheus, program, prometheus, rules, targets, variables

SCRAPER = "sk-scraper-0123456789abcdef0123456789"
WINDOW = "30s"
SECONDS = 60.0
PAUSE = 0.25
EMPTY = {
    "Credentials for Kubernetes end": "those of the embedded cluster do not",
    "TLS certificate ends": "the API speaks plain HTTP",
}
"""Panels that rightly show nothing here; their queries still have to succeed."""

POOLED = """\
target_port: [{container_port: 80, protocol: TCP}]
pool: 1
pod:
  apiVersion: v1
  kind: Pod
  metadata: {name: web-1}
  spec:
    containers:
    - name: app
      image: nginx:stable
      ports: [{containerPort: 80, protocol: TCP}]
      resources: {limits: {cpu: 100m, memory: 64Mi}}
"""


@asynccontextmanager
async def scraped(tmp_path: Path) -> AsyncIterator[tuple[Harness, Prometheus]]:
    """A daemon, and a Prometheus with a key that may only read its metrics."""
    program("prometheus")
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "scraper"\nsha256 = "{digest(SCRAPER).hex()}"\nscope = "metrics"\n')
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "web-1.yaml").write_text(POOLED)
    settings = {"STACKD_TEMPLATES__DIRECTORY": str(tmp_path / "templates")}
    async with harness(tmp_path, settings, config=config) as at:
        address = at.url.removeprefix("http://")
        async with prometheus(tmp_path, {"stackd": address}, {"api_key": [SCRAPER]}) as server:
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
    job = await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})
    await at.finished_job(job.json["job_id"])


@asynccontextmanager
async def busy(at: Harness) -> AsyncIterator[None]:
    """Keep the daemon busy within this block; one stack stays, and another's pod was deleted by hand."""

    async def again_and_again() -> None:
        while True:
            await be_busy(at)
            await asyncio.sleep(PAUSE)

    await at.create()
    other = await at.create()
    await at.delete_object("pods", other["stack_id"])
    await at.until_status(other["stack_id"], "stopped")
    working = asyncio.create_task(again_and_again())
    try:
        yield
        assert not working.done(), working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def shown(samples: list[dict[str, Any]]) -> bool:
    """Whether any sample is a number; a quantile over no events is NaN, which the board shows as a gap."""
    return any(math.isfinite(float(sample["value"][1])) for sample in samples)


async def test_every_query_of_the_board_shows_something_of_a_busy_daemon(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (at, server), busy(at):
        empty: list[str] = []

        async def all_show() -> bool:
            empty[:] = [
                f"{target.panel}: {target.expression}"
                for target in targets()
                if not shown(await server.query(target.filled(WINDOW))) and target.panel not in EMPTY
            ]
            return not empty

        await eventually(all_show, lambda: f"nothing to see: {empty}", SECONDS)
        assert {target.panel for target in targets()} >= EMPTY.keys()
        for target in targets():
            for sample in await server.query(target.filled(WINDOW)):
                assert target.legend <= sample["metric"].keys(), f"{target.panel}: the legend is not in {sample}"


async def test_the_variables_of_the_board_find_the_daemon(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (at, server):
        for name, (series, label) in variables().items():
            expected = {"job": ["stackd"], "instance": [at.url.removeprefix("http://")]}[name]

            async def found(series: str = series, label: str = label, expected: list[str] = expected) -> bool:
                values: list[str] = await server.get(f"label/{label}/values", **{"match[]": series})
                return values == expected

            await eventually(found, lambda name=name: f"${name} finds nothing", SECONDS)  # type: ignore[misc]


async def test_every_rule_is_evaluated_and_none_fires_while_all_is_well(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (at, server):
        await at.create()
        seen: dict[str, tuple[str, str]] = {}

        async def evaluated() -> bool:
            groups = (await server.get("rules"))["groups"]
            seen.clear()
            seen.update({rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]})
            return seen == dict.fromkeys(rules(), ("ok", "inactive"))

        await eventually(evaluated, lambda: str(seen), SECONDS)


async def test_a_daemon_that_has_gone_is_seen_to_be_down(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (at, server):

        async def up() -> bool:
            return shown(await server.query('up{job="stackd"} == 1'))

        async def pending() -> bool:
            groups = (await server.get("rules"))["groups"]
            states = {rule["name"]: rule["state"] for group in groups for rule in group["rules"]}
            return bool(states["StackdDown"] == "pending")

        await eventually(up, deadline=SECONDS)
        # the daemon rejects the key: for Prometheus it is down
        at.put_keys_in_force()
        await eventually(pending, deadline=SECONDS)


# ---- the alert rules load, and each fires and rests when it should: checked by Prometheus' own tool


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
