"""A reconciliation pass: what holds it back, what releases it, and what it must not hold up; and what a job asks meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from stackd.embedded.resources import PODS
from stackd.lifecycle.gate import FREE_ENDINGS
from tests.brakes import LEFT_BEHIND, MANY, OURS, leave_behind, plan, remove_pods, running, until_held, unverify, vanish
from tests.harness import Harness, eventually, seed, until

LARGE_JOB = 12
OFTEN = {"reconcile__interval": "50ms"}
pytestmark = pytest.mark.stackd(**OFTEN)


def remember_as_removed(folder: Path, names: Iterable[str]) -> None:
    """Write into the file that it has once deleted these stacks."""
    with contextlib.closing(sqlite3.connect(folder / "stackd.db")) as shell, shell:
        rows = [(name,) for name in names]
        shell.executemany("INSERT INTO removed_stacks (stack_id, removed_at) VALUES (?, 1)", rows)


async def test_a_confirmation_releases_only_what_was_shown(at: Harness) -> None:
    ids = await running(at, 2 * MANY)
    shown, later = ids[:MANY], ids[MANY:]
    await unverify(at)
    await at.refused(503, "still checking that this is its own cluster", "/reconcile/confirm")  # nothing was shown
    remove_pods(at, shown)
    await at.until_metric("stackd_mirror_objects", MANY, kind="pods")
    at.faults.clear()
    assert await until_held(at, MANY) == sorted(shown)
    at.faults.reset_counts()
    await at.passes(3)
    assert at.counts.total("get", "pods") == 0, "what is held and was proven gone is not asked for at each pass"
    assert await at.used_ports() == 2 * MANY
    assert await at.post("/reconcile/confirm") == {"released": MANY}
    await vanish(at, later)
    assert await until_held(at, MANY) == sorted(later)
    await unverify(at)
    await at.refused(503, f"{MANY} stacks", "/reconcile/confirm")  # which were shown: it holds for them
    at.faults.clear()
    await until(at.used_ports, lambda seen: seen == 0)
    assert (await plan(at))["held"] == []


@pytest.mark.parametrize("watched", [True, False])
async def test_a_lost_node_sets_off_no_brake(at: Harness, *, watched: bool) -> None:
    """Its pods fail and are deleted at the same time, whether the watches report that or a list shows what is left."""
    ids = await running(at, MANY)
    if not watched:
        at.faults.freeze_watches()
    for node in await at.objects("nodes"):
        at.faults.remove_node(node)
    if not watched:
        await eventually(lambda: not at.cluster.store.of(PODS).records)
        at.faults.compact()
        at.faults.drop_watches()
    await until(at.used_ports, lambda seen: seen == 0)
    assert {stack["stack_id"]: stack["status"] for stack in await at.stacks()} == dict.fromkeys(ids, "node_deleted")
    assert await at.metric("stackd_brake_held_stacks") == 0


async def test_pods_that_the_cluster_disrupts_set_off_no_brake(at: Harness) -> None:
    """Of a node that has come back: the pods say why they are deleted, and the node is there."""
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}
    ids, pods = await running(at, MANY), await at.objects("pods")
    for name in ids:
        conditions = [*pods[name]["status"]["conditions"], evicted]
        at.faults.change(f"/api/v1/namespaces/stacks/pods/{name}/status", {"status": {"conditions": conditions}})
    remove_pods(at, ids)
    await until(at.used_ports, lambda seen: seen == 0)
    assert {stack["status"] for stack in await at.stacks()} == {"node_deleted"}
    assert await at.metric("stackd_brake_held_stacks") == 0


@pytest.mark.stackd(**OFTEN, reconcile__orphan_grace="2s")
async def test_only_what_is_left_of_a_removed_stack_is_removed(at: Harness, tmp_path: Path) -> None:
    removed, unknown, elsewhere = (f"stack-00000000000000{end}" for end in ("aa", "cc", "bb"))
    await at.create()
    began = time.monotonic()
    remember_as_removed(tmp_path, [removed])
    other = OURS | {"stackd.io/instance": "other"}
    for name, labels in ((removed, OURS), (unknown, OURS), (elsewhere, other), ("plain", {})):
        await leave_behind(at, name, labels)
        service = {"type": "NodePort", "selector": {"x": name}, "ports": [{"port": 80, "protocol": "TCP"}]}
        await at.apply("services", f"svc-{name}", labels=labels, spec=service)
    await until(at.pods_and_services, lambda seen: seen.keys().isdisjoint({removed, f"svc-{removed}"}))
    await at.until_metric("stackd_unknown_objects", 2)
    assert time.monotonic() - began > 0.9  # creation times are whole seconds
    assert {one["name"] for one in (await plan(at))["unknown"]} == {unknown, f"svc-{unknown}"}
    kept = {name for each in (unknown, elsewhere, "plain") for name in (each, f"svc-{each}")}
    assert kept < (await at.pods_and_services()).keys()


@pytest.mark.stackd(reconcile__interval="10m")
async def test_a_pod_whose_create_takes_effect_after_its_stack_was_removed_is_removed_at_once(at: Harness) -> None:
    at.give_kubernetes(timeout=0.5)
    at.faults.add_fault(action="late", verb="create", resource="pods", count=1, seconds=2.0)
    at.faults.add_fault(action="cut", verb="create", resource="pods")
    pods = at.cluster.store.of(PODS)
    came: list[str] = []
    at.cluster.store.observe(lambda change: came.append(change.after.key[1]) if change.after.resource is PODS else None)
    await at.refused(503, "", "/stacks", seed())
    await at.until_listed(0)
    await eventually(lambda: bool(came))
    await eventually(lambda: not pods.records, lambda: "it waits for a pass")


@pytest.mark.stackd(**OFTEN, reconcile__orphan_grace="0s")
async def test_what_no_stack_can_be_made_of_is_left_alone_until_the_operator_agrees(at: Harness) -> None:
    (stack_id,), name = await running(at, 1), LEFT_BEHIND[0]
    await leave_behind(at, name)
    await until(lambda: plan(at), lambda seen: [one["name"] for one in seen["unknown"]] == [name])
    await at.passes(3)
    (unknown,) = (await plan(at))["unknown"]
    assert (unknown["kind"], unknown["why"]) == ("pods", "no Service carries its record")
    assert set(await at.objects("pods")) == {stack_id, name}
    await at.get("/readyz")
    assert await at.metric("stackd_unknown_objects") == 1
    assert await at.post("/reconcile/confirm") == {"released": 0, "removed": [f"pods {name}"]}
    await until(lambda: at.objects("pods"), lambda seen: set(seen) == {stack_id})
    await until(lambda: plan(at), lambda seen: seen["unknown"] == [])
    assert await at.metric("stackd_reconcile_actions_total", action="remove-pod") == 0


@pytest.mark.stackd(**OFTEN, reconcile__orphan_grace="0s", server__shutdown_timeout="200ms")
async def test_what_cannot_be_removed_is_asked_for_once(at: Harness, tmp_path: Path) -> None:
    (stack_id,), (*stuck, hanging) = await running(at, 1), LEFT_BEHIND
    for name in stuck:
        await leave_behind(at, name, finalizers=["example.org/stuck"])
    await at.until_metric("stackd_unknown_objects", len(stuck))
    remember_as_removed(tmp_path, stuck)
    await until(
        lambda: at.objects("pods"), lambda seen: all("deletionTimestamp" in seen[name]["metadata"] for name in stuck)
    )
    at.faults.add_fault(action="hang", verb="delete", resource="pods")
    at.faults.add_fault(action="hang", verb="create", resource="services")
    before = at.counts.in_flight
    await leave_behind(at, hanging)
    await at.until_metric("stackd_unknown_objects", 1)
    remember_as_removed(tmp_path, [hanging])
    await at.delete_object("services", f"svc-{stack_id}")
    asked = before + len(LEFT_BEHIND) + 1
    await eventually(lambda: at.counts.in_flight == asked)
    await at.passes(FREE_ENDINGS + 3)
    await at.get("/readyz")
    assert (at.counts.in_flight, (await plan(at))["actions"]) == (asked, [])
    assert await at.metric("stackd_reconcile_actions_total", action="remove-pod") == len(LEFT_BEHIND)


@pytest.mark.stackd(reconcile__interval="20ms", batch_delete__concurrency="1")
async def test_no_more_deletes_are_in_flight_than_wanted_while_passes_are_made(at: Harness) -> None:
    ids = await running(at, LARGE_JOB)
    passes = await at.metric("stackd_reconcile_passes_total")
    at.faults.add_fault(action="latency", verb="delete", seconds=0.01)
    at.faults.reset_counts()
    assert (await at.finished_job(await at.batch_delete(*ids)))["deleted"] == LARGE_JOB
    assert await at.metric("stackd_reconcile_passes_total") > passes + 2, "nothing would have been in the job's way"
    assert at.counts.peak_in_flight <= 4, "a pod, its log and a Service, and the Lease"
    assert at.counts.total("delete") == 2 * LARGE_JOB, "nobody else deletes what the job deletes"


@pytest.mark.stackd(**OFTEN, reconcile__orphan_grace="0s")
async def test_what_is_left_of_many_removed_stacks_sets_off_no_brake(at: Harness, tmp_path: Path) -> None:
    """Creates were undone, and their requests were carried out late."""
    names = [f"stack-00000000000001{number:02d}" for number in range(MANY)]
    remember_as_removed(tmp_path, names)
    for name in names:
        await leave_behind(at, name)
    await until(lambda: at.objects("pods"), lambda seen: not seen)
    await at.until_ready()
    assert await at.metric("stackd_brake_held_stacks") == 0


async def test_a_stack_that_the_brake_holds_is_extended_in_the_cluster_too(at: Harness) -> None:
    ids = await running(at, MANY)
    await vanish(at, ids)
    await until_held(at, MANY)
    extended = await at.do("extend", ids[0], "2h")
    service = (await at.objects("services"))[f"svc-{ids[0]}"]
    assert service["metadata"]["annotations"]["stackd.io/expires-at"][:19] == extended["ttl_expires_at"][:19]
    assert ids[0] in await until_held(at, MANY)
