"""Requests that wait for a status, so that a client need not poll."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, Reply, fast_cluster, harness, request_for

SLOW_START = {"start_delay": 0.4}


async def wait(at: Harness, stack_id: str, status: str, timeout: str = "10s") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/status?wait={status}&timeout={timeout}")


async def test_the_answer_comes_as_soon_as_it_is_so(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(**SLOW_START)) as cluster, harness(tmp_path, cluster=cluster) as at:
        created = await at.create()
        began = time.monotonic()
        reply = await wait(at, created["stack_id"], "running")
        assert (reply.status, reply.json["status"]) == (200, "running")
        assert 0.2 < time.monotonic() - began < 15
        assert list(reply.json) == ["stack_id", "status", "ttl", "ports", "node_public_ip"]
        began = time.monotonic()
        assert (await wait(at, created["stack_id"], "running")).json["status"] == "running"
        assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("image", "status"), [("registry.example/fail", "failed"), ("registry.example/exit0", "stopped")]
)
async def test_who_waits_for_what_cannot_be_any_more_is_told_at_once(at: Harness, image: str, status: str) -> None:
    stack_id = (await at.create(request_for(image)))["stack_id"]
    began = time.monotonic()
    await wait(at, stack_id, "node_deleted", "60s")
    assert (await wait(at, stack_id, "creating", "60s")).json["status"] == status
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("wanted", ["running", "deleted"])
async def test_at_the_timeout_the_answer_is_what_is(tmp_path: Path, wanted: str) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        created = await at.create()
        began = time.monotonic()
        reply = await wait(at, created["stack_id"], wanted, "300ms")
        assert (reply.status, reply.json["status"]) == (200, "creating")
        assert 0.3 <= time.monotonic() - began < 15
        assert (await wait(at, created["stack_id"], wanted, "0s")).json["status"] == "creating"


async def test_a_stack_that_goes_meanwhile_is_a_404(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        waiting = asyncio.create_task(wait(at, stack_id, "running", "30s"))
        await at.until_metric("stackd_waiting_requests", 1)
        assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
        reply = await waiting
        # The response comes as soon as the delete is committed (as it is then) or once the stack is gone.
        assert reply.status in (200, 404)
        assert (await wait(at, stack_id, "running")).status == 404


async def test_many_can_wait_and_each_costs_no_more_than_its_request(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=1.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        before = len(asyncio.all_tasks())
        waiting = [asyncio.create_task(wait(at, stack_id, "running")) for _ in range(50)]
        await at.until_metric("stackd_waiting_requests", 50)
        # Of each request's three tasks, one is the test's and one belongs to aiohttp's connection.
        assert len(asyncio.all_tasks()) - before <= 3 * 50
        assert {reply.json["status"] for reply in await asyncio.gather(*waiting)} == {"running"}
        assert await at.metric("stackd_waiting_requests") == 0


async def test_a_client_that_leaves_waits_no_more(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        waiting = asyncio.create_task(wait(at, stack_id, "running", "60s"))
        await at.until_metric("stackd_waiting_requests", 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await at.until_metric("stackd_waiting_requests", 0)


async def test_who_waits_for_the_end_is_answered_as_the_delete_is(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    waiting = asyncio.create_task(wait(at, stack_id, "deleted"))
    await at.until_metric("stackd_waiting_requests", 1)
    deleted = await at.call("DELETE", f"/stacks/{stack_id}")
    assert (deleted.status, deleted.text) == (200, (await waiting).text)
    assert (await wait(at, stack_id, "deleted")).status == 404


async def test_a_delete_that_waits_is_answered_when_the_background_has_done_it(at: Harness) -> None:
    stack_id = await at.running()
    at.cluster.faults.add_fault(action="status", verb="delete", resource="pods", code=422, count=1)
    reply = await at.call("DELETE", f"/stacks/{stack_id}?wait=deleted&timeout=20s")
    assert (reply.status, reply.json) == (200, {"deleted": True, "stack_id": stack_id})
    assert await at.listed() == []
    assert not await at.objects("pods")


async def test_a_delete_that_waits_in_vain_says_that_it_goes_on(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    at.cluster.faults.add_fault(action="status", verb="delete", resource="pods", code=422)
    began = time.monotonic()
    reply = await at.call("DELETE", f"/stacks/{stack_id}?wait=deleted&timeout=1s")
    assert (reply.status, "; stackd keeps trying: " in reply.error) == (503, True)
    assert 0.9 < time.monotonic() - began < 15
    assert (await at.call("DELETE", f"/stacks/{stack_id}?wait=running")).status == 400
    at.cluster.faults.clear()
    await at.until_listed(0)


async def test_stopping_answers_those_who_wait(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, harness(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        waiting = asyncio.create_task(wait(at, stack_id, "running", "60s"))
        await at.until_metric("stackd_waiting_requests", 1)
        at.end_waits()  # the first thing that the daemon does when it stops
        async with asyncio.timeout(30):
            assert ((await waiting).status, (await waiting).json["status"]) == (200, "creating")


REFUSED = ["wait=ready", "wait=running&timeout=soon", "wiat=running", "wait=running&wait=failed"]


async def test_what_cannot_be_waited_for_is_refused(at: Harness) -> None:
    for query in REFUSED:
        stack_id = (await at.create())["stack_id"]
        reply = await at.call("GET", f"/stacks/{stack_id}/status?{query}")
        assert (reply.status, bool(reply.error)) == (400, True)
