"""``GET /metrics``, and the metrics that ``monitoring/`` uses."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from stackd.play import ROUTES
from tests.harness import Harness, until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(at: Harness) -> Samples:
    """All samples, by name and labels."""
    families = text_string_to_metric_families((await at.call("GET", "/metrics")).text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(samples: Samples, name: str, **labels: Any) -> float:
    return samples[f"stackd_{name}", frozenset(labels.items())]


async def test_requests_are_counted_by_route_template_and_status_from_zero_on(at: Harness) -> None:
    """An alert on the increase of a series that begins at 1 never fires."""
    samples = await scrape(at)
    for route in ROUTES:
        if not route.public:
            labels = {"method": route.method, "route": route.path, "code": "500"}
            assert sample(samples, "http_requests_total", **labels) == 0
    stack = await at.create()
    for path in (*[f"/stacks/{stack['stack_id']}/status"] * 3, "/stacks/stack-none/status", "/no/such/route"):
        await at.call("GET", path)
    samples, status = await scrape(at), {"method": "GET", "route": "/stacks/{stack_id}/status"}
    assert sample(samples, "http_requests_total", **status, code="200") == 3
    assert sample(samples, "http_requests_total", **status, code="404") == 1
    assert sample(samples, "http_request_duration_seconds_count", **status) == 4
    assert sample(samples, "http_requests_total", method="*", route="(elsewhere)", code="404") == 1


async def test_what_waits_is_told_with_its_age(at: Harness) -> None:
    stack = await at.create()
    at.give_kubernetes(timeout=0.5)
    at.faults.add_fault(action="status", verb="delete", code=503)
    await at.refused(503, "", f"/stacks/{stack['stack_id']}", method="DELETE")
    samples = await scrape(at)
    assert (sample(samples, "deletes_pending"), sample(samples, "delete_oldest_age_seconds") > 0) == (1, True)
    at.faults.clear()
    await until(lambda: scrape(at), lambda seen: sample(seen, "deletes_pending") == 0)


async def test_metrics_need_a_key_unless_they_are_public(at: Harness) -> None:
    for public in (False, True):
        at.reload("metrics", public=public)
        for path, key, status in (("/metrics", None, 200), ("/metrics", "sk-wrong", 200), ("/stats", None, 401)):
            assert (await at.call("GET", path, key=key)).status == (status if public else 401)
