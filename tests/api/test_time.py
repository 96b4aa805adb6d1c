"""Time to live, clients that leave, and stopping."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from tests.stand import Stand, eventually, fast_cluster, request_for, seed, stand


async def nothing_is_left(at: Stand) -> bool:
    objects = {**await at.objects("pods"), **await at.objects("services")}
    return not objects and not (await at.call("GET", "/stacks")).json["stacks"]


async def test_a_stack_is_gone_within_two_seconds_of_its_time(tmp_path: Path) -> None:
    async with stand(tmp_path, {"STACKD_STACKS__TTL": "1s"}) as at:
        began = time.monotonic()
        await at.create()
        await eventually(lambda: nothing_is_left(at))
        assert 1.0 <= time.monotonic() - began < 3.0 + 1.0
        assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_stack_whose_time_came_while_stackd_was_down_goes_at_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with stand(tmp_path, {"STACKD_STACKS__TTL": "500ms"}, cluster=cluster) as at:
            await at.create()
        async with stand(tmp_path, cluster=cluster) as later:
            await eventually(lambda: nothing_is_left(later))


async def test_a_client_that_leaves_during_a_create_leaves_nothing_behind(at: Stand) -> None:
    at.cluster.faults.pause()
    leaving = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(5)]
    await eventually(lambda: len(at.daemon.room.store.stacks) == 5)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    at.cluster.faults.resume()
    await eventually(lambda: nothing_is_left(at))
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_client_that_leaves_while_no_node_has_room_blocks_nothing(tmp_path: Path) -> None:
    async with stand(tmp_path, {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "15s"}) as at:
        waiting = asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="100000")))
        await eventually(lambda: len(at.daemon.room.mirror.pods) == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: nothing_is_left(at), deadline=5.0)


@pytest.mark.parametrize("scheduling_timeout", ["20s", "1ms"])
async def test_with_a_grace_a_create_waits_for_a_node_that_comes(tmp_path: Path, scheduling_timeout: str) -> None:
    settings = {
        "STACKD_STACKS__UNSCHEDULABLE_GRACE": "8s",
        "STACKD_STACKS__SCHEDULING_TIMEOUT": scheduling_timeout,
    }
    async with stand(tmp_path, settings) as at:
        waiting = asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="2000")))
        await eventually(lambda: any(p.scheduled is False for p in at.daemon.room.mirror.pods.values()))
        at.cluster.faults.add_node(name="big", labels={"role": "stack"}, cpu="4000", external_ip="203.0.113.7")
        reply = await waiting
        assert reply.status == 201, reply.text
        assert (reply.json["node_id"], reply.json["node_public_ip"]) == ("big", "203.0.113.7")


async def test_a_delete_during_a_create_ends_both(at: Stand) -> None:
    at.cluster.faults.pause()
    creating = asyncio.create_task(at.call("POST", "/stacks", seed()))
    await eventually(lambda: len(at.daemon.room.store.stacks) == 1)
    (stack,) = at.daemon.room.store.stacks.ordered()
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack.stack_id}"))
    await eventually(lambda: at.daemon.room.store.stacks.ordered()[0].deleting_since is not None)
    at.cluster.faults.resume()
    assert (await deleting).status == 200
    assert (await creating).status == 503
    assert await nothing_is_left(at)


async def test_stopping_finishes_what_is_in_flight_and_refuses_what_is_new(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster, aiohttp.ClientSession() as patient:
        async with stand(tmp_path, cluster=cluster) as at:
            cluster.faults.pause()
            create = asyncio.create_task(replace(at, session=patient).call("POST", "/stacks", seed()))
            await eventually(lambda: len(at.daemon.room.creating) == 1)
            asyncio.get_running_loop().call_later(0.2, cluster.faults.resume)
        reply = await create
        assert reply.status == 201
        async with stand(tmp_path, cluster=cluster) as later:
            assert (await later.stack(reply.json["stack_id"]))["status"] in ("creating", "running")


async def test_a_create_that_is_not_done_when_stopping_is_undone_at_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with stand(tmp_path, {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}, cluster=cluster) as at:
            cluster.faults.pause()
            create = asyncio.create_task(at.call("POST", "/stacks", seed()))
            await eventually(lambda: len(at.daemon.room.creating) == 1)
        await asyncio.gather(create, return_exceptions=True)
        cluster.faults.resume()
        async with stand(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "1s"}, cluster=cluster) as later:
            await eventually(lambda: nothing_is_left(later))


async def test_when_the_grace_is_over_the_scheduler_s_word_is_the_answer(tmp_path: Path) -> None:
    settings = {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "300ms", "STACKD_STACKS__SCHEDULING_TIMEOUT": "1ms"}
    async with stand(tmp_path, settings) as at:
        began = time.monotonic()
        reply = await at.call("POST", "/stacks", request_for("nginx", cpu="2000"))
        assert (reply.status, "no node has room" in reply.error) == (503, True)
        assert time.monotonic() - began >= 0.3
        assert await nothing_is_left(at)
