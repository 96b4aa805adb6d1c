"""Spare Services: there before a create asks for one, taken by creates that fit, and in nobody's way."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from stackd.store import backup_file
from tests.harness import Harness, Machine, Machines, eventually, seed, until

SPARES = 3
KEEPS = {"stacks__spare_services": str(SPARES)}
pytestmark = pytest.mark.stackd(**KEEPS)
OPEN = "- containerPort: 80\n          protocol: TCP"
SPEC = seed()["pod_spec"].replace(OPEN, f"{OPEN}\n        {OPEN.replace('TCP', 'UDP')}")
UDP = {"pod_spec": SPEC, "target_port": [{"container_port": 80, "protocol": "UDP"}]}
TWO = {"pod_spec": SPEC, "target_port": [{"container_port": 80, "protocol": name} for name in ("TCP", "UDP")]}


def is_spare(service: dict[str, Any]) -> bool:
    return "stackd.io/spare" in service["metadata"]["labels"]


async def spares(at: Harness) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in (await at.objects("services")).items() if is_spare(one)}


async def filled(at: Harness, count: int = SPARES) -> dict[str, dict[str, Any]]:
    async def enough() -> bool:
        at.daemon.context.spares.not_before = 0.0  # nobody waits for a quiet moment
        await at.run_now("spares")
        return len(await spares(at)) == count and len(at.daemon.context.spares.rows) == count

    await eventually(enough)
    await at.passes(1)
    queue = at.daemon.context.loop.queue  # what is being worked on is not taken
    await eventually(lambda: not any(spare in queue for spare in at.daemon.context.spares.rows))
    return await spares(at)


async def test_a_create_takes_a_spare_with_its_id_and_node_port(at: Harness, caplog: pytest.LogCaptureFixture) -> None:
    there = await filled(at)
    at.counts.clear()
    stack = await at.create()
    assert (at.counts.total("create", "services"), at.counts.total("patch", "services")) == (0, 1)
    before = there[stack["service_name"]]
    after = (await at.objects("services"))[stack["service_name"]]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert [port["nodePort"] for port in before["spec"]["ports"]] == [port["node_port"] for port in stack["ports"]]
    assert after["spec"]["selector"] == {"stackd.io/stack": stack["stack_id"]}
    assert not is_spare(after)
    assert "annotations were missing" not in caplog.text, "a spare has none"
    await filled(at)  # another one takes its place


async def test_a_spare_belongs_to_nobody(at: Harness) -> None:
    for service in (await filled(at)).values():
        assert "stackd.io/assigned" in service["spec"]["selector"], "it selects no pod"
        assert "stackd.io/record" not in (service["metadata"].get("annotations") or {})
    stats, capacity = await at.get("/stats"), await at.get("/capacity")
    assert (await at.listed(), stats["total_stacks"], stats["used_node_ports"]) == ([], 0, 0)
    assert stats["spare_services"] == capacity["spare_services"] == await at.metric("stackd_spare_services") == SPARES
    assert (capacity["unassigned"], capacity["free_node_ports"]) == (0, 32767 - 31001 + 1)
    (spare_id, *_) = at.daemon.context.spares.rows
    for method in ("GET", "DELETE"):
        await at.refused(404, "", f"/stacks/{spare_id}", method=method)
    assert len(await filled(at)) == SPARES


async def test_a_create_waits_for_no_spare_that_is_being_made(at: Harness) -> None:
    there = await filled(at)
    at.faults.add_fault(action="hang", verb="create", resource="services", count=SPARES)
    made = [(await at.create())["stack_id"] for _ in there]
    await eventually(lambda: at.counts.in_flight == SPARES)
    begun = set(at.daemon.context.spares.rows)
    made.append((await at.create())["stack_id"])
    assert (len(begun), begun.isdisjoint(made)) == (SPARES, True)
    at.faults.clear()
    await filled(at)


@pytest.mark.stackd(**KEEPS, limits__max_stacks="1")
async def test_a_create_beyond_a_limit_takes_no_spare(at: Harness) -> None:
    await filled(at)
    await at.create()
    there = await filled(at)
    assert (await at.call("POST", "/stacks", seed())).status >= 400
    assert {f"svc-{name}" for name in at.daemon.context.spares.rows} == there.keys()


async def test_a_create_that_is_refused_leaves_the_spare(at: Harness) -> None:
    there = await filled(at)
    at.faults.add_fault(action="status", verb="create", resource="pods", code=403, count=1)
    assert (await at.call("POST", "/stacks", seed())).status >= 400
    kept = await filled(at)
    assert len(kept.keys() & there.keys()) == SPARES - 1, "the one that was taken is undone, and replaced"


@pytest.mark.stackd(**KEEPS, stacks__node_port_max="31006")
async def test_spares_give_way_when_ports_run_out(at: Harness) -> None:
    await filled(at)
    for _ in range(3):
        await at.create(TWO)
    assert (await at.get("/stats"))["used_node_ports"] == 6


@pytest.mark.parametrize("line", ["services", "services.nodeports"])
async def test_spares_give_way_when_a_quota_is_used_up(at: Harness, line: str) -> None:
    await filled(at)
    await at.apply("resourcequotas", "few", spec={"hard": {line: str(SPARES)}})
    made = [await at.create(UDP) for _ in range(SPARES)]
    assert sorted(await at.listed()) == sorted(one["stack_id"] for one in made)
    assert await spares(at) == {}
    assert (await at.call("POST", "/stacks", UDP)).status == 503


async def test_nothing_is_asked_because_of_spares_at_rest(at: Harness) -> None:
    await filled(at)
    at.counts.clear()
    for _ in range(3):
        await at.daemon.schedule.now("spares")
        await at.passes(1)
    assert not (at.counts.total(resource="services") or at.counts.total(resource="pods"))
    assert len(await filled(at)) == SPARES


async def test_a_service_that_somebody_deletes_is_no_stacks_loss(at: Harness) -> None:
    there = await filled(at)
    for name in there:
        await at.delete_object("services", name)
    assert (await at.create())["status"] in ("creating", "running")
    await filled(at)


async def test_spares_outlive_a_restart_and_are_replaced_with_a_lost_file(vm: Machine) -> None:
    at = await vm.start()
    there = await filled(at)
    stack = await at.create()
    await filled(at)
    at = await vm.start()
    kept = await filled(at)
    assert len(kept.keys() & there.keys()) == SPARES - 1
    await vm.lose_file()
    at = await vm.start()
    await until(lambda: spares(at), lambda seen: len(seen) == SPARES and not seen.keys() & kept.keys())
    assert await at.listed() == [stack["stack_id"]]
    at = await vm.start(stacks__spare_services="0")
    await until(lambda: at.objects("services"), lambda seen: list(seen) == [stack["service_name"]])


async def creates(at: Harness, count: int) -> dict[str, Any]:
    """So many new stacks, by id; each node port has one holder."""
    made = [await at.create() for _ in range(count)]
    ports = [port["nodePort"] for one in (await at.objects("services")).values() for port in one["spec"]["ports"]]
    assert len(ports) == len(set(ports))
    return {one["stack_id"]: one for one in made}


async def test_a_restored_file_has_none_of_the_spares_that_were_taken_since(vm: Machine, tmp_path: Path) -> None:
    copy, at = tmp_path / "copy.db", await vm.start()
    there = await filled(at)
    await asyncio.to_thread(backup_file, tmp_path / "stackd.db", copy)
    taken, deleted = [await at.running() for _ in range(2)]
    assert {f"svc-{taken}", f"svc-{deleted}"} < there.keys()
    await at.delete(deleted)
    before, record = await at.stack(taken), (await at.objects("services"))[f"svc-{taken}"]["metadata"]["annotations"]
    await vm.lose_file()
    shutil.copy(copy, tmp_path / "stackd.db")
    at = await vm.start()
    assert await at.listed() == [taken]
    await filled(at)
    made = await creates(at, SPARES)
    assert made.keys().isdisjoint({taken, deleted}), "an id is never given to two stacks"
    assert sorted(await at.listed()) == sorted([taken, *made])
    assert (await at.objects("services"))[f"svc-{taken}"]["metadata"]["annotations"] == record
    assert {**await at.stack(taken), "updated_at": ""} == {**before, "updated_at": ""}


async def test_two_owners_in_turn_share_no_spare(vms: Machines) -> None:
    """Each has a file of its own, with rows of the spares that it had when it was owner last."""
    one = await vms.start("vm1", **KEEPS)
    of_one = await filled(one)
    stacks = await creates(one, 1)
    await vms.stop("vm1")
    two = await vms.start("vm2", **KEEPS)
    await until(lambda: spares(two), lambda seen: len(seen) == SPARES and not seen.keys() & of_one.keys())
    assert await two.listed() == [*stacks]
    stacks |= await creates(two, 2)
    await vms.stop("vm2")
    one = await vms.start("vm1", **KEEPS)
    await filled(one)
    stacks |= await creates(one, SPARES)
    assert len(stacks) == 3 + SPARES, "an id is never given to two stacks"
    assert sorted(await one.listed()) == sorted(stacks)
    await filled(one)
    assert (await one.objects("services")).keys() == (await spares(one)).keys() | {f"svc-{name}" for name in stacks}


async def test_only_spares_keep_nobody_from_choosing_another_namespace(
    vm: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    at = await vm.start()
    await filled(at)
    at = await vm.start(stacks__spare_services="0", stacks__namespace="elsewhere")
    await at.get("/readyz")
    assert not at.daemon.context.spares.rows
    assert "kubectl delete services -n stacks" in caplog.text, "stackd may have no rights there any more"
