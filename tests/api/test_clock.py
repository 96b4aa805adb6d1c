"""Times to live and graces; and a wrong clock deletes nothing: stacks expire by a time that the API server agrees with."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stackd.clock import SystemClock
from stackd.embedded import EmbeddedCluster
from stackd.embedded.store import LoopClock
from tests.harness import Harness, eventually, fast_cluster, harness, request_for

YEARS = 12 * 365 * 86_400.0
MANY = 12


class Ahead(SystemClock):
    """The machine's wall clock, set ``by`` seconds ahead."""

    by = 0.0

    def now(self) -> int:
        return super().now() + round(self.by * 1e9)


class SetWithIt(LoopClock):
    """The API server's clock, which is set together with the machine's."""

    def __init__(self, machine: Ahead) -> None:
        self._machine = machine

    def now(self) -> float:
        return self._machine.now() / 1e9


async def a_few_passes(at: Harness) -> None:
    """Return once everything that depends on the clock has run."""
    await at.passes(3)
    for name in ("expire", "purge"):
        await at.run_now(name)


async def says(at: Harness, words: str) -> bool:
    reply = await at.call("GET", "/readyz")
    return reply.status == 503 and any(words in reason for reason in reply.json["reasons"])


async def is_ready(at: Harness) -> bool:
    return (await at.call("GET", "/readyz")).status == 200


async def test_a_leap_into_the_future_ends_nothing_and_leaves_no_end_there(tmp_path: Path) -> None:
    clock = Ahead()
    async with harness(tmp_path, clock=clock) as at:
        kept = [(await at.create())["stack_id"] for _ in range(3)]
        clock.by = YEARS
        await eventually(lambda: says(at, "s ahead of the API server's: no stack expires"))
        leapt = (await at.create())["stack_id"]
        await a_few_passes(at)
        assert await at.metric("stackd_removals_pending") == 0
        clock.by = 0.0
        await at.until_ready()
        await a_few_passes(at)
        for stack_id in (*kept, leapt):
            ends = datetime.fromisoformat((await at.stack(stack_id))["ttl_expires_at"])
            assert datetime.now(UTC) < ends <= datetime.now(UTC) + timedelta(hours=2)
        reply = await at.call("POST", f"/stacks/{leapt}/extend", {"ttl": "23h"})
        assert reply.status == 409, reply.text


async def test_a_clock_that_was_behind_takes_nothing_from_the_stacks_that_were_made_meanwhile(tmp_path: Path) -> None:
    """Before, these stacks expired at once when the clock was corrected, and could not be extended."""
    clock = Ahead()
    async with harness(tmp_path, clock=clock) as at:
        before = (await at.create())["stack_id"]
        ends_before = (await at.stack(before))["ttl_expires_at"]
        clock.by = -YEARS
        await eventually(lambda: says(at, "s behind the API server's: no stack expires"))
        made = [(await at.create())["stack_id"] for _ in range(3)]
        assert (await at.call("POST", f"/stacks/{made[2]}/restart")).status == 200
        clock.by = 0.0
        await at.until_ready()
        await a_few_passes(at)
        for stack_id in made:
            stack, now = await at.stack(stack_id), datetime.now(UTC)
            assert timedelta(minutes=119) < datetime.fromisoformat(stack["ttl_expires_at"]) - now <= timedelta(hours=2)
            assert timedelta() <= now - datetime.fromisoformat(stack["created_at"]) < timedelta(minutes=1)
        assert (await at.stack(before))["ttl_expires_at"] == ends_before
        assert await at.listed() == [before, *made]
        assert (await at.call("POST", f"/stacks/{made[0]}/extend", {"ttl": "1h"})).status == 200


async def test_a_daemon_that_has_only_ever_had_a_wrong_clock_goes_by_the_clusters(tmp_path: Path) -> None:
    """For example on a machine that started without a network: no stack may expire when its clock is corrected."""
    clock = Ahead()
    clock.by = -YEARS
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster, clock=clock, wait=False) as at:
            await eventually(lambda: says(at, "s behind the API server's: no stack expires"))
            stack_id = (await at.create())["stack_id"]
            job = (await at.call("POST", "/stacks/batch-delete", {"stack_ids": ["stack-0000000000000000"]})).json
            await at.finished_job(job["job_id"])
        async with harness(tmp_path, cluster=cluster) as at:
            await a_few_passes(at)
            ends = datetime.fromisoformat((await at.stack(stack_id))["ttl_expires_at"])
            assert timedelta(minutes=119) < ends - datetime.now(UTC) <= timedelta(hours=2)
            assert (await at.call("GET", f"/stacks/batch-delete/{job['job_id']}")).status == 200


async def test_nothing_expires_before_the_cluster_has_answered(tmp_path: Path) -> None:
    clock = Ahead()
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, cluster=cluster) as at:
            stack_id = (await at.create())["stack_id"]
        clock.by = YEARS
        cluster.faults.pause()
        async with harness(tmp_path, cluster=cluster, clock=clock, wait=False) as at:
            await at.run_now("expire")
            cluster.faults.resume()
            await eventually(lambda: says(at, "s ahead of the API server's: no stack expires"))
            await a_few_passes(at)
            assert await at.listed() == [stack_id]
            assert await at.metric("stackd_deletes_pending") == 0


async def test_many_that_are_due_because_the_clock_was_set_wait_for_the_operator(tmp_path: Path) -> None:
    clock = Ahead()
    async with (
        EmbeddedCluster(fast_cluster(clock=SetWithIt(clock))) as cluster,
        harness(tmp_path, clock=clock, cluster=cluster) as at,
    ):
        stacks = {(await at.create())["stack_id"] for _ in range(MANY)}
        clock.by = 86_400.0
        await at.until_metric("stackd_brake_held_stacks", len(stacks))
        await a_few_passes(at)
        assert await says(at, f"{MANY} stacks would be ended")
        plan = (await at.call("GET", "/reconcile")).json
        assert sorted(stacks) == plan["held"]
        assert (await at.call("POST", "/reconcile/confirm")).status == 200
        await at.until_listed(0)


@pytest.mark.parametrize("made_by", [0.0, -YEARS])
async def test_a_key_of_an_idempotent_request_outlives_a_leap(tmp_path: Path, made_by: float) -> None:
    clock = Ahead()
    async with harness(tmp_path, clock=clock) as at:
        clock.by = made_by
        body, headers = {"stack_ids": ["stack-0000000000000000"]}, {"Idempotency-Key": "once"}
        first = await at.call("POST", "/stacks/batch-delete", body, headers=headers)
        clock.by = made_by + YEARS
        await eventually(lambda: is_ready(at) if not clock.by else says(at, "ahead of the API server's"))
        await at.run_now("purge")
        again = await at.call("POST", "/stacks/batch-delete", body, headers=headers)
        assert again.json["job_id"] == first.json["job_id"]


# ---- times to live, and creates that wait for a node


class AheadSinceBoot(SystemClock):
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


async def test_when_the_grace_is_over_the_scheduler_s_word_is_the_answer(tmp_path: Path) -> None:
    settings = {"STACKD_STACKS__UNSCHEDULABLE_GRACE": "300ms", "STACKD_STACKS__SCHEDULING_TIMEOUT": "1ms"}
    async with harness(tmp_path, settings) as at:
        began = time.monotonic()
        reply = await at.call("POST", "/stacks", request_for("nginx", cpu="2000"))
        assert (reply.status, "no node has room" in reply.error) == (503, True)
        assert time.monotonic() - began >= 0.3
        assert await nothing_is_left(at)


async def test_how_old_the_view_of_the_cluster_is_goes_by_the_daemons_clock(tmp_path: Path) -> None:
    clock = AheadSinceBoot()
    async with (
        EmbeddedCluster(fast_cluster(bookmark_interval=3600)) as cluster,
        harness(tmp_path, cluster=cluster, clock=clock) as at,
    ):

        async def stale() -> bool:
            clock.by += 1000.0  # a watch that was opened just now may still count as an answer of the cluster
            reply = await at.call("GET", "/readyz")
            return reply.status == 503 and "Kubernetes has sent nothing for 1000 s" in reply.json["error"]

        await eventually(stale)
