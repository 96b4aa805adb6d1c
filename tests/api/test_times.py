"""Times to live, extensions and graces; and a wrong clock ends nothing: stacks expire by a time that the API server confirms."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from stackd.clock import SystemClock, to_nanoseconds
from stackd.embedded import EmbeddedCluster
from stackd.embedded.store import LoopClock
from stackd.lifecycle.loop import CREATES_AT_ONCE
from tests.api.scenes import life, noted_end
from tests.brakes import LEFT_BEHIND, leave_behind
from tests.harness import Harness, Machine, Reply, eventually, fast_cluster, request_for, seed, until

YEARS = 12 * 365 * 86_400.0
MANY = 12
NO_STACK = {"stack_ids": ["stack-0000000000000000"]}


class Ahead(SystemClock):
    """The machine's wall clock is set ``by`` seconds ahead."""

    by = 0.0

    def now(self) -> int:
        return super().now() + round(self.by * 1e9)


class SetWithIt(LoopClock):
    """The API server's clock, which is set together with the machine's."""

    def __init__(self, machine: SystemClock) -> None:
        self._machine = machine

    def now(self) -> float:
        return self._machine.now() / 1e9


async def a_few_passes(at: Harness) -> None:
    """Return once everything that depends on the clock has run."""
    await at.passes(3)
    for name in ("expire", "purge"):
        await at.run_now(name)


async def remains(at: Harness, stack_id: str) -> timedelta:
    return datetime.fromisoformat((await at.stack(stack_id))["ttl_expires_at"]) - datetime.now(UTC)


@pytest.mark.stackd(cluster__lease_duration="4s")
async def test_a_leap_of_the_clock_takes_no_time_from_any_stack(vm: Machine) -> None:
    async def job_under(key: str) -> str:
        reply = await at.post("/stacks/batch-delete", NO_STACK, 202, headers={"Idempotency-Key": key})
        return str(reply["job_id"])

    clock = Ahead()
    at = await vm.start(clock=clock)
    before = await at.create()
    first = await job_under("first")
    clock.by = YEARS
    await at.until_unready("s ahead of the API server's: no stack expires")
    leapt = (await at.create())["stack_id"]
    await a_few_passes(at)
    assert await at.metric("stackd_removals_pending") == 0
    assert await job_under("first") == first, "the key of a request outlives the leap"
    clock.by = -YEARS
    await at.until_unready("s behind the API server's: no stack expires")
    made = [(await at.create())["stack_id"] for _ in range(3)]
    await at.do("restart", made[2])
    second = await job_under("second")
    clock.by = 0.0
    await at.until_ready()
    await a_few_passes(at)
    assert [await job_under("first"), await job_under("second")] == [first, second]
    for stack_id in (leapt, *made):
        assert timedelta(minutes=119) < await remains(at, stack_id) <= timedelta(hours=2)
    for stack_id in made:
        age = datetime.now(UTC) - datetime.fromisoformat((await at.stack(stack_id))["created_at"])
        assert timedelta() <= age < timedelta(minutes=1)
    assert (await at.stack(before["stack_id"]))["ttl_expires_at"] == before["ttl_expires_at"]
    assert {before["stack_id"], leapt, *made} == set(await at.listed())
    await at.refused(409, "", f"/stacks/{leapt}/extend", {"ttl": "23h"})
    await at.do("extend", made[0], ttl="1h")


async def test_many_that_are_due_because_the_clock_was_set_wait_for_the_operator(vm: Machine) -> None:
    clock = Ahead()
    async with EmbeddedCluster(fast_cluster(clock=SetWithIt(clock))) as vm.cluster:
        at = await vm.start(clock=clock)
        stacks = [(await at.create())["stack_id"] for _ in range(MANY)]
        clock.by = 86_400.0
        await at.until_metric("stackd_brake_held_stacks", MANY)
        await a_few_passes(at)
        await at.until_unready(f"{MANY} stacks would be ended")
        assert (await at.get("/reconcile"))["held"] == sorted(stacks)
        await at.post("/reconcile/confirm")
        await at.until_listed(0)
        await vm.stop()


class Suspended:
    """The clocks of a machine that was suspended: the wall clock and CLOCK_BOOTTIME have gone on meanwhile."""

    seconds = 0.0

    def time_ns(self) -> int:
        return time.time_ns() + round(self.seconds * 1e9)

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) + self.seconds


async def test_a_machine_that_was_suspended_deletes_at_once_what_has_expired_meanwhile(
    vm: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Suspended()
    monkeypatch.setattr(SystemClock, "now", machine.time_ns)
    monkeypatch.setattr(SystemClock, "monotonic", machine.boottime)
    async with EmbeddedCluster(fast_cluster(clock=SetWithIt(SystemClock()))) as vm.cluster:
        at = await vm.start()
        for _ in range(MANY):
            await at.create()
        kept = (await at.create(ttl="20h"))["stack_id"]
        machine.seconds = 3 * 3600.0
        assert await at.until_listed(1) == [kept]
        await at.until_ready()
        assert timedelta(hours=16) < await remains(at, kept) <= timedelta(hours=20)
        await vm.stop()


@pytest.mark.stackd(cluster__lease_duration="4s", reconcile__orphan_grace="1h")
async def test_no_object_without_a_row_is_old_by_a_clock_that_is_wrong(vm: Machine) -> None:
    clock = Ahead()
    at = await vm.start(clock=clock)
    clock.by = YEARS
    await at.until_unready("s ahead of the API server's: no stack expires")
    await leave_behind(at, LEFT_BEHIND[0])
    await at.until_metric("stackd_mirror_objects", 1, kind="pods")
    await at.passes(3)
    assert (await at.get("/reconcile"))["unknown"] == []
    await vm.stop()


async def test_on_another_cluster_nothing_expires(at: Harness) -> None:
    """The time was confirmed by that one."""
    stack_id, gate = (await at.create(ttl="3s"))["stack_id"], at.daemon.context.gate
    gate.wrong_cluster = "the file belongs to another cluster"
    await until(lambda: remains(at, stack_id), lambda left: left < timedelta())
    await at.run_now("expire")
    assert await at.metric("stackd_deletes_pending") == 0
    gate.wrong_cluster = ""
    await at.until_listed(0)


# ---- creates that wait for a node


async def nothing_is_left(at: Harness) -> bool:
    return not await at.pods_and_services() and not await at.listed()


async def unschedulable(at: Harness) -> bool:
    conditions = [each for pod in (await at.objects("pods")).values() for each in pod["status"].get("conditions", [])]
    return any(each.get("reason") == "Unschedulable" for each in conditions)


@pytest.mark.stackd(stacks__unschedulable_grace="1m", stacks__scheduling_timeout="1ms")
async def test_with_a_grace_a_create_waits_for_a_node_that_comes_unless_its_client_leaves(
    at: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stackd.lifecycle.create.SUSPECT_SECONDS", 60.0)  # it is not looked at again before
    leaving = asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="100000")))
    await eventually(lambda: unschedulable(at))
    leaving.cancel()
    await eventually(lambda: nothing_is_left(at))
    waiting = asyncio.create_task(at.create(request_for("nginx", cpu="2000")))
    await eventually(lambda: unschedulable(at))
    at.faults.add_node(name="big", labels={"role": "stack"}, cpu="4000", external_ip="203.0.113.7")
    stack = await waiting
    assert (stack["node_id"], stack["node_public_ip"]) == ("big", "203.0.113.7")


@pytest.mark.stackd(stacks__unschedulable_grace="300ms", stacks__scheduling_timeout="1ms")
async def test_when_the_grace_is_over_the_scheduler_s_word_is_the_answer(at: Harness) -> None:
    began = time.monotonic()
    reply = await at.refused(503, "no node has room", "/stacks", request_for("nginx", cpu="2000"))
    assert time.monotonic() - began >= 0.3
    assert ("Insufficient cpu" in reply.detail, "nodes are available" in reply.error) == (True, False), "for operators"
    assert await nothing_is_left(at)


@pytest.mark.stackd(stacks__unschedulable_grace="1h")
async def test_a_create_that_has_room_does_not_wait_behind_any_number_that_have_none(at: Harness) -> None:
    many = CREATES_AT_ONCE + 13
    waiting = [asyncio.create_task(at.call("POST", "/stacks", request_for("nginx", cpu="2000"))) for _ in range(many)]
    await until(lambda: at.objects("pods"), lambda seen: len(seen) >= CREATES_AT_ONCE)
    assert (await at.create())["node_id"]
    await until(lambda: at.objects("pods"), lambda seen: len(seen) == many + 1)
    for each in waiting:
        assert not each.done()
        each.cancel()
    await at.until_listed(1)


@pytest.mark.stackd(limits__creates_in_flight="1")
async def test_a_create_whose_client_leaves_during_its_last_write_is_undone(at: Harness) -> None:
    """Nobody would know of the stack until its time to live ends."""

    async def has_left() -> bool:
        return (await at.call("POST", "/stacks", {})).status == 400  # 429 as long as the first create is under way

    at.faults.pause()
    leaving = asyncio.create_task(at.call("POST", "/stacks", seed()))
    await eventually(lambda: at.rows("SELECT 1 FROM stacks"))
    with at.no_writing():
        at.faults.resume()
        await until(at.pods_and_services, lambda seen: at.is_writing and len(seen) == 2)
        leaving.cancel()
        await eventually(has_left)
    await eventually(lambda: nothing_is_left(at))


# ---- times to live that a client asks for, and extensions


async def extend(at: Harness, stack_id: str, ttl: str, key: str = "") -> Reply:
    headers = {"Idempotency-Key": key} if key else {}
    return await at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": ttl}, headers=headers)


async def test_a_create_can_ask_for_its_own_time_to_live(at: Harness) -> None:
    for ttl in ("25h", "0s", "0.0000000001s", "soon", "30", 1800):
        await at.refused(400, "ttl", "/stacks", request_for("nginx") | {"ttl": ttl})
    assert await at.listed() == []
    assert (life(await at.create(ttl="30m")), life(await at.create())) == (1800, 7200)


async def test_an_extension_adds_to_the_end_within_the_longest_life(at: Harness) -> None:
    created = await at.create(ttl="10m")
    stack_id, path = created["stack_id"], f"/stacks/{created['stack_id']}/extend"
    extended = await at.do("extend", stack_id, ttl="30m")
    assert (life(extended), extended["updated_at"] > created["updated_at"]) == (2400, True)
    assert (await at.stack(stack_id))["ttl_expires_at"] == extended["ttl_expires_at"]
    assert (await at.get(f"/stacks/{stack_id}/status"))["ttl"] == extended["ttl_expires_at"]
    at.reload("stacks", max_ttl=3600.0)
    await at.refused(409, "at most 20m more", path, {"ttl": "21m"})
    await at.do("extend", stack_id, ttl="20m")
    await at.refused(409, "so it cannot be extended further", path, {"ttl": "1s"})
    await at.refused(404, "", "/stacks/stack-none/extend", {"ttl": "1m"})
    at.faults.pause()
    deleting = asyncio.create_task(at.delete(stack_id))
    await at.until_metric("stackd_deletes_pending", 1)
    await at.refused(409, "is being deleted", path, {"ttl": "1m"})
    at.faults.resume()
    await deleting


async def test_a_stack_whose_pod_has_ended_is_not_extended(at: Harness) -> None:
    """Nobody uses it any more: whoever extends it would read that there is more time."""
    stack_id = (await at.create(request_for("registry.example/fail")))["stack_id"]
    ended = await until(partial(at.stack, stack_id), lambda seen: seen["ended"])
    reply = await at.refused(409, "", f"/stacks/{stack_id}/extend", {"ttl": "1m"})
    assert reply.code == "stack_ended"
    job = await at.post("/stacks/batch", {"action": "extend", "ttl": "1m", "stack_ids": [stack_id]}, 202)
    path = f"/stacks/batch/{job['job_id']}"
    (error,) = (await until(partial(at.get, path), lambda seen: seen["status"] == "failed"))["errors"]
    assert (error["code"], (await at.stack(stack_id))["ttl_expires_at"]) == ("stack_ended", ended["ttl_expires_at"])


@pytest.mark.stackd(reconcile__interval="1h")
async def test_a_stack_is_gone_at_its_time_without_a_pass(at: Harness) -> None:
    other, extended = await at.create(ttl="1s"), await at.create(ttl="3s")
    extended = await at.do("extend", extended["stack_id"], ttl="1s")
    await at.until_listed(0)
    for stack in (extended, other):
        deleted = next(one for one in await at.timeline(stack["stack_id"]) if one["kind"] == "delete_requested")
        assert to_nanoseconds(deleted["at"]) >= to_nanoseconds(stack["ttl_expires_at"])
    assert (await nothing_is_left(at), await at.used_ports()) == (True, 0)


async def test_an_extension_is_answered_once_the_cluster_has_it(at: Harness) -> None:
    """The record in the cluster has the end: a lost file would lose an extension that is only in the file."""
    faults: list[dict[str, Any]] = [{"action": "status", "code": code} for code in (503, 403)]
    for fault in (*faults, {"action": "hang"}, {"action": "lost_reply"}):
        created = await at.create()
        stack_id = key = created["stack_id"]
        at.faults.add_fault(verb="patch", resource="services", **fault)
        for _ in range(2):
            with at.hurried(timeout=0.3, attempt_timeout=0.1):
                reply = await extend(at, stack_id, "10m", key)
            if fault["action"] != "lost_reply":  # which may have been read back by the second try
                assert (reply.status, "is extended until" in reply.error) == (503, True)
                assert await noted_end(at, stack_id) == created["ttl_expires_at"]
        at.faults.clear()
        first = await until(partial(extend, at, stack_id, "10m", key), lambda seen: seen.status == 200)
        assert life(first.json) == 7800, "it counts once"
        assert await noted_end(at, stack_id) == first.json["ttl_expires_at"]
        again = await extend(at, stack_id, "10m", key)
        assert (again.status, again.headers.get("Idempotency-Replayed")) == (200, "true")
        assert again.json["ttl_expires_at"] == first.json["ttl_expires_at"]
    stack_id = (await at.create())["stack_id"]
    at.faults.add_fault(action="status", code=403, verb="patch", resource="services")
    with at.hurried(timeout=0.3):
        assert (await extend(at, stack_id, "10m", "gone")).status == 503
    await at.delete(stack_id)
    assert (await extend(at, stack_id, "10m", "gone")).status == 404


async def test_an_extension_that_a_delete_overtakes_is_not_acknowledged(at: Harness) -> None:
    """The cluster has neither of them yet: a lost file would bring the stack back with its end before."""
    created = await at.create()
    stack_id = created["stack_id"]
    at.faults.add_fault(action="hang", verb="patch|delete")
    async with asyncio.TaskGroup() as group:
        extending = group.create_task(extend(at, stack_id, "10m"))
        await until(partial(at.stack, stack_id), lambda seen: seen["ttl_expires_at"] != created["ttl_expires_at"])
        deleting = group.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
        reply = await extending
        assert (reply.status, reply.json["code"]) == (409, "stack_deleting")
        at.faults.clear()
    assert (await deleting).status in (200, 503)
    await at.until_listed(0)


@pytest.mark.stackd(reconcile__interval="1h")
async def test_an_extension_is_written_on_the_service_whatever_has_become_of_it(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    at.faults.add_fault(action="status", code=422, verb="patch", resource="services")
    assert (await extend(at, stack_id, "1h")).status == 503
    at.faults.clear()
    end = (await at.stack(stack_id))["ttl_expires_at"]
    await until(lambda: noted_end(at, stack_id), lambda seen: seen == end)  # without waiting for a pass

    await at.patch("services", f"svc-{stack_id}", {"metadata": {"labels": {"stackd.io/instance": None}}})
    extended = await at.do("extend", stack_id, ttl="1h")  # the watch does not show the Service any more
    assert await noted_end(at, stack_id) == extended["ttl_expires_at"]

    stopped = (await at.create())["stack_id"]
    await at.do("stop", stopped)
    at.faults.add_fault(action="status", code=403, verb="create", resource="services")
    await at.delete_object("services", f"svc-{stopped}")
    assert (await extend(at, stopped, "1h")).status == 503
    at.faults.clear()
    extended = await at.do("extend", stopped, ttl="1h")
    assert await noted_end(at, stopped) == extended["ttl_expires_at"]
