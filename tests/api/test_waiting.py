"""Waiting for a status without asking again and again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.stand import Reply, Stand, eventually, fast_cluster, request_for, seed, stand

SLOW_START = {"start_delay": 0.4}


async def wait(at: Stand, stack_id: str, status: str, timeout: str = "10s") -> Reply:
    return await at.call("GET", f"/stacks/{stack_id}/status?wait={status}&timeout={timeout}")


async def test_the_answer_comes_as_soon_as_it_is_so(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(**SLOW_START)) as cluster, stand(tmp_path, cluster=cluster) as at:
        created = await at.create()
        began = time.monotonic()
        reply = await wait(at, created["stack_id"], "running")
        assert (reply.status, reply.json["status"]) == (200, "running")
        assert 0.2 < time.monotonic() - began < 5.0
        assert list(reply.json) == ["stack_id", "status", "ttl", "ports", "node_public_ip"]
        began = time.monotonic()
        assert (await wait(at, created["stack_id"], "running")).json["status"] == "running"
        assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("image", "status"), [("registry.example/fail", "failed"), ("registry.example/exit0", "stopped")]
)
async def test_who_waits_for_what_cannot_be_any_more_is_told_at_once(at: Stand, image: str, status: str) -> None:
    stack_id = (await at.create(request_for(image)))["stack_id"]
    began = time.monotonic()
    await wait(at, stack_id, "node_deleted", "60s")
    assert (await wait(at, stack_id, "creating", "60s")).json["status"] == status
    assert time.monotonic() - began < 5.0


async def test_at_the_timeout_the_answer_is_what_is(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, stand(tmp_path, cluster=cluster) as at:
        created = await at.create()
        began = time.monotonic()
        reply = await wait(at, created["stack_id"], "running", "300ms")
        assert (reply.status, reply.json["status"]) == (200, "creating")
        assert 0.3 <= time.monotonic() - began < 3.0
        assert (await wait(at, created["stack_id"], "running", "0s")).json["status"] == "creating"


async def test_a_stack_that_goes_meanwhile_is_a_404(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, stand(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        waiting = asyncio.create_task(wait(at, stack_id, "running", "30s"))
        await eventually(lambda: len(at.daemon.room.rows) == 1)
        assert (await at.call("DELETE", f"/stacks/{stack_id}")).status == 200
        reply = await waiting
        # It is told as soon as the delete is intended (as it is then) or once the stack is gone.
        assert reply.status in (200, 404)
        assert (await wait(at, stack_id, "running")).status == 404


async def test_many_can_wait_and_each_costs_no_more_than_its_request(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=1.0)) as cluster, stand(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        before = len(asyncio.all_tasks())
        waiting = [asyncio.create_task(wait(at, stack_id, "running")) for _ in range(50)]
        await eventually(lambda: len(at.daemon.room.rows) == 50)
        # Of these, one task is the test's own and one the connection's that aiohttp makes.
        assert len(asyncio.all_tasks()) - before <= 3 * 50
        assert {reply.json["status"] for reply in await asyncio.gather(*waiting)} == {"running"}
        assert len(at.daemon.room.rows) == 0


async def test_a_client_that_leaves_waits_no_more(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster, stand(tmp_path, cluster=cluster) as at:
        stack_id = (await at.create())["stack_id"]
        waiting = asyncio.create_task(wait(at, stack_id, "running", "60s"))
        await eventually(lambda: len(at.daemon.room.rows) == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: len(at.daemon.room.rows) == 0)


async def test_stopping_answers_those_who_wait(tmp_path: Path) -> None:
    settings = {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "8s"}
    async with EmbeddedCluster(fast_cluster(start_delay=30.0)) as cluster:
        async with stand(tmp_path, settings, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
            answered: list[Reply] = []

            async def waiting() -> None:
                answered.append(await wait(at, stack_id, "running", "60s"))

            task = asyncio.create_task(waiting())
            await eventually(lambda: len(at.daemon.room.rows) == 1)
            at.daemon.room.rows.give_up()  # as the daemon does first of all when it stops
            await task
            assert (answered[0].status, answered[0].json["status"]) == (200, "creating")
            began = time.monotonic()
        assert time.monotonic() - began < 4.0


@pytest.mark.parametrize(
    "query", ["wait=ready", "wait=running&timeout=soon", "wiat=running", "wait=running&wait=failed"]
)
async def test_what_cannot_be_waited_for_is_refused(at: Stand, query: str) -> None:
    stack_id = (await at.create())["stack_id"]
    reply = await at.call("GET", f"/stacks/{stack_id}/status?{query}")
    assert (reply.status, bool(reply.error)) == (400, True)


async def test_an_unknown_stack_is_a_404_at_once(at: Stand) -> None:
    assert (await wait(at, "stack-none", "running", "60s")).status == 404
    assert (await at.call("POST", "/stacks", seed())).status == 201
