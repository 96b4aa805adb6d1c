"""``GET /metrics``, and the metrics that ``monitoring/`` uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stackd.web.app import ROUTES
from tests.harness import Harness, harness, request_for, until
from tests.monitoring.board import MONITORING, expressions

METRIC = re.compile(r"\b(?:stackd|process)_[a-z_]+\b")
SAMPLES = ("_bucket", "_sum", "_count")


async def scrape(at: Harness) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All samples, by name and labels."""
    reply = await at.call("GET", "/metrics")
    assert reply.status == 200, reply.text
    families = text_string_to_metric_families(reply.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


async def families(at: Harness) -> dict[str, str]:
    """The name of each family, as it is written in the text, and its type."""
    lines = (await at.call("GET", "/metrics")).text.splitlines()
    return {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}


async def test_requests_are_counted_by_route_template_and_status(at: Harness) -> None:
    stack = await at.create()
    for _ in range(3):
        await at.call("GET", f"/stacks/{stack['stack_id']}/status")
    await at.call("GET", "/stacks/stack-none/status")
    await at.call("GET", "/no/such/route")
    samples = await scrape(at)
    route = "/stacks/{stack_id}/status"
    assert sample(samples, "stackd_http_requests_total", method="GET", route=route, code="200") == 3
    assert sample(samples, "stackd_http_requests_total", method="GET", route=route, code="404") == 1
    assert sample(samples, "stackd_http_request_duration_seconds_count", method="GET", route=route) == 4
    assert sample(samples, "stackd_http_requests_total", method="*", route="(elsewhere)", code="404") == 1


async def test_a_first_500_is_an_increase_of_a_number_that_was_there_before(at: Harness) -> None:
    """The counter must exist before with 0: an alert on the increase of a series that begins at 1 never fires."""
    ours = [route for route in ROUTES if not route.public]
    samples = await scrape(at)
    for route in ours:
        labels = {"method": route.method, "route": route.path, "code": "500"}
        assert sample(samples, "stackd_http_requests_total", **labels) == 0


async def test_creates_are_counted_by_outcome_and_measured_by_phase(at: Harness) -> None:
    stack = await at.create()
    await at.until_status(stack["stack_id"], "running")
    await at.call("POST", "/stacks", {"target_port": [], "pod_spec": "nonsense"})
    refused = await at.call("POST", "/stacks", request_for("nginx", cpu="900000"))
    assert refused.status == 503
    samples = await scrape(at)
    outcomes = {dict(labels)["outcome"]: n for (name, labels), n in samples.items() if name == "stackd_creates_total"}
    assert outcomes == {"created": 1, "invalid": 1, "no_room": 1}
    for phase, count in {"validate": 3, "reserve": 2, "pod": 2, "service": 2, "schedule": 1, "accept": 1}.items():
        assert sample(samples, "stackd_create_phase_duration_seconds_count", phase=phase) == count
    assert sample(samples, "stackd_time_to_running_seconds_count") == 1


async def test_stacks_ports_and_kubernetes_requests_are_told(at: Harness) -> None:
    stack = await at.create()
    await at.until_status(stack["stack_id"], "running")
    samples = await scrape(at)
    assert sample(samples, "stackd_stacks", status="running", node=stack["node_id"]) == 1
    assert sample(samples, "stackd_node_ports", state="used") == 1
    assert sample(samples, "stackd_node_ports", state="free") == 32767 - 31001
    assert sample(samples, "stackd_kubernetes_requests_total", verb="create", resource="pods", code="201") == 1
    assert sample(samples, "stackd_kubernetes_request_duration_seconds_count", verb="watch", resource="pods") == 1
    assert sample(samples, "stackd_store_commits_total") >= 2
    assert sample(samples, "stackd_store_commit_duration_seconds_count") == sample(
        samples, "stackd_store_commits_total"
    )
    assert sample(samples, "stackd_ready") == 1


async def test_what_waits_is_told_with_its_age(at: Harness) -> None:
    stack = await at.create()
    at.give_kubernetes(timeout=0.5)
    at.cluster.faults.add_fault(action="status", verb="delete", code=503)
    assert (await at.call("DELETE", f"/stacks/{stack['stack_id']}")).status == 503
    samples = await scrape(at)
    assert sample(samples, "stackd_deletes_pending") == 1
    assert sample(samples, "stackd_delete_oldest_age_seconds") > 0
    at.cluster.faults.clear()

    await until(lambda: scrape(at), lambda seen: sample(seen, "stackd_deletes_pending") == 0)


async def test_metrics_need_a_key_unless_they_are_public(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        assert (await at.call("GET", "/metrics", key=None)).status == 401
        assert (await at.call("GET", "/metrics", key="sk-wrong-0123456789")).status == 401
    (tmp_path / "public").mkdir()
    async with harness(tmp_path / "public", {"STACKD_METRICS__PUBLIC": "true"}) as at:
        assert (await at.call("GET", "/metrics", key=None)).status == 200
        assert (await at.call("GET", "/stats", key=None)).status == 401


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json"])
async def test_every_metric_that_a_rule_or_a_panel_names_exists(at: Harness, file: str) -> None:
    known = await families(at)
    names = {name for text in expressions(MONITORING / file) for name in METRIC.findall(text)}
    assert names, file
    assert {name for name in names if not exists(name, known)} == set()


async def test_the_dashboard_shows_every_metric(at: Harness) -> None:
    shown = {name for text in expressions(MONITORING / "grafana-dashboard.json") for name in METRIC.findall(text)}
    bases = {name.removesuffix("_bucket") for name in shown}
    assert set(await families(at)) - bases == set()


async def test_every_metric_is_documented_with_its_type_and_no_other_is(at: Harness) -> None:
    rows = re.findall(r"^\| `([a-z_]+)` \| (\w+) \|", (MONITORING / "README.md").read_text(), re.MULTILINE)
    assert dict(rows) == await families(at)


def exists(name: str, known: dict[str, str]) -> bool:
    if name in known:
        return True
    base = next((name.removesuffix(end) for end in SAMPLES if name.endswith(end)), name)
    return known.get(base) == "histogram"
