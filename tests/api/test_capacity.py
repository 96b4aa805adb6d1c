"""How many more stacks fit, which resource runs out first, and limits: each refusal names the limit that it hit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stackd.embedded import NodeSpec
from stackd.keys import ApiKey, digest
from stackd.lifecycle import capacity
from tests.harness import DEADLINE, KEY, READ_KEY, Harness, request_for, seed

NODES = (
    NodeSpec(name="a", cpu="1070m", memory="1048980Ki", pods="20"),
    NodeSpec(name="b", cpu="2", memory="1Gi", pods="20"),
    NodeSpec(name="control", cpu="64", memory="64Gi", labels={}),
    NodeSpec(name="cordoned", cpu="64", memory="64Gi", unschedulable=True),
)


async def fits(at: Harness, query: str) -> tuple[int, str, dict[str, int]]:
    seen = await at.get(f"/capacity?{query}")
    return seen["fits"], seen["limited_by"], seen["nodes"]


@pytest.mark.kubernetes(nodes=NODES)
async def test_room_is_counted_on_the_nodes_that_take_stacks(at: Harness) -> None:
    assert await fits(at, "cpu=100m&memory=64Mi") == (26, "cpu", {"a": 10, "b": 16})
    assert await fits(at, "cpu=100m&memory=256Mi") == (8, "memory", {"a": 4, "b": 4})
    assert await fits(at, "cpu=1m&memory=1Mi") == (40, "pods", {"a": 20, "b": 20})
    stack_id = await at.running(request_for("nginx", cpu="500m", memory="512Mi"))
    node = (await at.stack(stack_id))["node_id"]
    assert (await fits(at, "cpu=100m&memory=256Mi"))[2][node] == 2
    await at.do("stop", stack_id)
    assert (await fits(at, "cpu=100m&memory=256Mi"))[0] == 8
    for query in ("cpu=much", "cpu=0", "memory=-1", "ports=25", "cpu=1&cpu=2"):
        await at.refused(400, "", f"/capacity?{query}", method="GET")


@pytest.mark.kubernetes(nodes=(NodeSpec(name="a", ephemeral_storage="1Gi"), NodeSpec(name="b", ephemeral_storage="")))
async def test_disk_counts_as_the_limit_range_gives_it_and_as_a_pod_asks_for_it(at: Harness) -> None:
    async def seen(body: dict[str, Any]) -> tuple[int, str, int]:
        answer = await at.post("/capacity", body)
        return answer["fits"], answer["limited_by"], answer["requested_ephemeral_storage_bytes"]

    body = request_for("nginx")
    assert (await seen(body))[1:] == ("ports", 0)
    values = {name: {"ephemeral-storage": size} for name, size in (("default", "1Gi"), ("defaultRequest", "256Mi"))}
    await at.apply("limitranges", "disk", spec={"limits": [{"type": "Container"} | values]})
    assert await seen(body) == (4, "ephemeral_storage", 256 << 20)
    await at.create(body)  # its pod has the LimitRange's default
    more = 'memory: "128Mi"\n          ephemeral-storage: "300Mi"'
    larger = body | {"pod_spec": body["pod_spec"].replace('memory: "128Mi"', more)}
    assert await seen(larger) == (2, "ephemeral_storage", 300 << 20)
    for _ in range(2):
        await at.create(larger)
    await at.refused(503, "", "/stacks", body)
    assert (await seen(body))[0] == 0
    await at.apply("resourcequotas", "limit", spec={"hard": {"limits.ephemeral-storage": "12Gi"}})
    answer = await at.post("/capacity", request_for("nginx"))
    assert (answer["quota"], answer["quota_limited_by"]) == (10, "limit: limits.ephemeral-storage")


@pytest.mark.stackd(stacks__node_port_min="31001", stacks__node_port_max="31006")
async def test_ports_and_the_limit_of_stacks_bind_too(at: Harness) -> None:
    assert (await fits(at, "ports=2"))[:2] == (3, "ports")
    await at.create()
    assert (await fits(at, ""))[0] == 5
    at.reload("limits", max_stacks=2)
    answer = await at.get("/capacity")
    assert (answer["fits"], answer["limited_by"], answer["stacks"]) == (1, "max_stacks", 1)


@pytest.mark.stackd(stacks__node_port_min="31001", stacks__node_port_max="31200")
async def test_node_ports_of_other_services_are_not_free(at: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal passed, and half of the players got no stack."""
    monkeypatch.setattr(capacity, "PORTS_LIMIT_SECONDS", DEADLINE)
    for port in range(31001, 31201, 2):
        at.cluster.faults.take_port(port)
    await at.create()
    assert (await fits(at, ""))[0] > 150, "a GET asks the cluster nothing"
    answer = await at.post("/capacity", seed())
    assert (answer["ports"], answer["free_node_ports"]) == (99, 99)
    assert (await fits(at, ""))[0] == 99
    at.faults.reset_counts()
    await at.post("/capacity", seed())
    assert at.counts.total(resource="services") == 0, "once a minute"


@pytest.mark.stackd(limits__requests_per_second="0.01")
async def test_too_many_requests_of_one_key_are_a_429_and_other_keys_go_on(at: Harness) -> None:
    at.put_keys_in_force(
        ApiKey(name="one", sha256=digest(KEY)), ApiKey(name="two", sha256=digest(READ_KEY), scope="read")
    )
    await at.get("/healthz")
    reply = await at.refused(429, "limits.requests_per_second", "/healthz", method="GET")
    assert 90 <= int(reply.headers["Retry-After"]) <= 100
    await at.get("/healthz", key=READ_KEY)


@pytest.mark.stackd(limits__creates_in_flight="2", batch_delete__max_ids="3")
async def test_too_many_creates_at_the_same_time_and_too_many_ids_are_refused(at: Harness) -> None:
    at.faults.pause()
    creates = [asyncio.create_task(at.create()) for _ in range(2)]
    await at.until_metric("stackd_creates_in_flight", 2)
    await at.refused(429, "limits.creates_in_flight", "/stacks", seed())
    at.faults.resume()
    await asyncio.gather(*creates)
    await at.create()
    ids = [f"stack-{number}" for number in range(4)]
    await at.batch_delete(*ids[1:])
    await at.refused(413, "batch_delete.max_ids", "/stacks/batch-delete", {"stack_ids": ids})
