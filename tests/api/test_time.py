"""Time to live, clients that leave, and stops."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from stackd.clock import SystemClock
from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, eventually, fast_cluster, harness, request_for, seed


class Ahead(SystemClock):
    """The machine's clock, with a monotonic time that is ``by`` seconds ahead."""

    by = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.by


async def nothing_is_left(at: Harness) -> bool:
    objects = {**await at.objects("pods"), **await at.objects("services")}
    return not objects and not (await at.call("GET", "/stacks")).json["stacks"]


async def test_a_stack_is_gone_at_its_time_and_needs_no_pass_for_that(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__TTL": "1s", "STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        began = time.monotonic()
        await at.create()
        await eventually(lambda: nothing_is_left(at))
        assert time.monotonic() - began >= 1.0
        assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_stack_whose_time_came_while_stackd_was_down_goes_at_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, {"STACKD_STACKS__TTL": "500ms"}, cluster=cluster) as at:
            await at.create()
        async with harness(tmp_path, cluster=cluster) as later:
            await eventually(lambda: nothing_is_left(later))


async def test_a_client_that_leaves_during_a_create_leaves_nothing_behind(at: Harness) -> None:
    at.cluster.faults.pause()
    leaving = [asyncio.create_task(at.call("POST", "/stacks", seed())) for _ in range(5)]
    await at.until_listed(5)
    for task in leaving:
        task.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    at.cluster.faults.resume()
    await eventually(lambda: nothing_is_left(at))
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == 0


async def test_a_client_that_leaves_while_no_node_has_room_blocks_nothing(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "10m"}) as at:
        waiting = asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="100000")))
        await at.until_metric("stackd_mirror_objects", 1, kind="pods")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await eventually(lambda: nothing_is_left(at))


@pytest.mark.parametrize("scheduling_timeout", ["20s", "1ms"])
async def test_with_a_grace_a_create_waits_for_a_node_that_comes(tmp_path: Path, scheduling_timeout: str) -> None:
    settings = {
        "STACKD_STACKS__UNSCHEDULABLE_GRACE": "1m",
        "STACKD_STACKS__SCHEDULING_TIMEOUT": scheduling_timeout,
    }
    async with harness(tmp_path, settings) as at:
        waiting = asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="2000")))
        await eventually(lambda: unschedulable(at))
        at.cluster.faults.add_node(name="big", labels={"role": "stack"}, cpu="4000", external_ip="203.0.113.7")
        reply = await waiting
        assert reply.status == 201, reply.text
        assert (reply.json["node_id"], reply.json["node_public_ip"]) == ("big", "203.0.113.7")


async def unschedulable(at: Harness) -> bool:
    """Whether the cluster has said that no node can take the pod."""
    conditions = [pod["status"].get("conditions", []) for pod in (await at.objects("pods")).values()]
    return any(each.get("reason") == "Unschedulable" for given in conditions for each in given)


async def test_a_delete_during_a_create_ends_both(at: Harness) -> None:
    at.cluster.faults.pause()
    creating = asyncio.create_task(at.call("POST", "/stacks", seed()))
    (stack_id,) = await at.until_listed(1)
    deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
    await at.until_metric("stackd_deletes_pending", 1)
    at.cluster.faults.resume()
    assert (await deleting).status == 200
    assert (await creating).status == 503
    assert await nothing_is_left(at)


async def test_stopping_finishes_what_is_in_flight_and_refuses_what_is_new(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster, aiohttp.ClientSession() as patient:
        async with harness(tmp_path, cluster=cluster) as at:
            cluster.faults.pause()
            create = asyncio.create_task(replace(at, session=patient).call("POST", "/stacks", seed()))
            await at.until_metric("stackd_creates_in_flight", 1)
            asyncio.get_running_loop().call_later(0.2, cluster.faults.resume)
        reply = await create
        assert reply.status == 201
        async with harness(tmp_path, cluster=cluster) as later:
            assert (await later.stack(reply.json["stack_id"]))["status"] in ("creating", "running")


async def test_a_create_that_is_not_done_when_stopping_is_undone_at_the_next_start(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, {"STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}, cluster=cluster) as at:
            cluster.faults.pause()
            create = asyncio.create_task(at.call("POST", "/stacks", seed()))
            await at.until_metric("stackd_creates_in_flight", 1)
        await asyncio.gather(create, return_exceptions=True)
        cluster.faults.resume()
        async with harness(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "1s"}, cluster=cluster) as later:
            await eventually(lambda: nothing_is_left(later))


async def test_when_the_grace_is_over_the_scheduler_s_word_is_the_answer(tmp_path: Path) -> None:
    settings = {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "300ms", "STACKD_STACKS__SCHEDULING_TIMEOUT": "1ms"}
    async with harness(tmp_path, settings) as at:
        began = time.monotonic()
        reply = await at.call("POST", "/stacks", request_for("nginx", cpu="2000"))
        assert (reply.status, "no node has room" in reply.error) == (503, True)
        assert time.monotonic() - began >= 0.3
        assert await nothing_is_left(at)


async def test_how_old_the_view_of_the_cluster_is_goes_by_the_daemons_clock(tmp_path: Path) -> None:
    clock = Ahead()
    async with (
        EmbeddedCluster(fast_cluster(bookmark_interval=3600)) as cluster,
        harness(tmp_path, cluster=cluster, clock=clock) as at,
    ):

        async def stale() -> bool:
            clock.by += 1000.0  # a watch that was opened just now may still count as an answer of the cluster
            reply = await at.call("GET", "/readyz")
            return reply.status == 503 and "Kubernetes has sent nothing for 1000 s" in reply.json["error"]

        await eventually(stale)
