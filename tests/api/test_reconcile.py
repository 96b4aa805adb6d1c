"""A reconciliation pass: what holds it back, what releases it, and what it must not hold up."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stackd.embedded import EmbeddedCluster, Fault
from stackd.embedded.resources import PODS
from stackd.lifecycle.brake import FREE_ENDINGS
from tests.harness import Harness, Reply, eventually, fast_cluster, harness, until

NAMESPACE = "stacks"
MANY = FREE_ENDINGS + 4
OURS = {"app.kubernetes.io/managed-by": "stackd", "stackd.io/instance": "default"}
LEFT_BEHIND = ("stack-00000000000000aa", "stack-00000000000000bb")


async def running(at: Harness, count: int) -> list[str]:
    ids = [(await at.create())["stack_id"] for _ in range(count)]
    for stack_id in ids:
        await at.until_status(stack_id, "running")
    return ids


async def vanish(at: Harness, ids: list[str]) -> None:
    """Delete all these pods at once: the daemon learns of it from the list after a cut connection."""
    await at.cluster.faults.refuse()
    for stack_id in ids:
        at.cluster.store.remove(at.cluster.store.of(PODS).get(NAMESPACE, stack_id))
    at.cluster.faults.compact()
    await at.cluster.faults.listen()


async def held(at: Harness) -> list[str]:
    reply = await at.call("GET", "/readyz")
    stacks: list[str] = reply.json.get("held", [])
    return stacks


async def confirm(at: Harness) -> Reply:
    return await at.call("POST", "/reconcile/confirm")


async def plan(at: Harness) -> dict[str, Any]:
    found: dict[str, Any] = (await at.call("GET", "/reconcile")).json
    return found


async def until_held(at: Harness, count: int) -> None:
    """Return when ``count`` stacks are held back, and a pass could release them."""

    await until(lambda: held(at), lambda seen: len(seen) == count)
    await at.passes(2)


async def nothing_is_used(at: Harness) -> bool:
    return bool((await at.call("GET", "/stats")).json["used_node_ports"] == 0)


def remember_as_removed(folder: Path, names: Iterable[str]) -> None:
    """Write into the file that it has once deleted these stacks."""
    with contextlib.closing(sqlite3.connect(folder / "stackd.db")) as shell, shell:
        shell.executemany(
            "INSERT INTO removed_stacks (stack_id, removed_at) VALUES (?, 1)", [(name,) for name in names]
        )


async def leave_behind(at: Harness, name: str, *, finalizers: tuple[str, ...] = ()) -> None:
    """A pod with stackd's labels that has no row and no record."""
    metadata: dict[str, Any] = {"name": name, "labels": OURS | {"stackd.io/stack": name}}
    if finalizers:
        metadata["finalizers"] = list(finalizers)
    spec = {"containers": [{"name": "app", "image": "nginx"}]}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    made = await at.kubectl("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body)
    assert made["kind"] == "Pod", made


async def doubt(at: Harness) -> None:
    """Let the daemon doubt which cluster this is, and get no answer: its passes are blocked."""
    at.cluster.faults.add(Fault(action="status", verb="get", resource="namespaces", code=500))
    at.cluster.faults.compact()
    at.cluster.faults.drop_watches()

    await until(lambda: plan(at), lambda seen: seen["blocked"])


# ---- a confirmation


async def test_a_confirmation_while_a_pass_can_do_nothing_is_refused_and_releases_nothing_later(at: Harness) -> None:
    ids = await running(at, MANY)
    await doubt(at)
    reply = await confirm(at)
    assert (reply.status, "still checking that this is its own cluster" in reply.error) == (503, True)
    store = at.cluster.store
    for stack_id in ids:
        store.remove(store.of(PODS).get(NAMESPACE, stack_id))
    await at.until_metric("stackd_mirror_objects", 0, kind="pods")
    at.cluster.faults.clear()
    await until_held(at, MANY)
    at.cluster.faults.reset_counts()
    await at.passes(3)
    assert at.cluster.counts.total("get", "pods") == 0, "what is held and was proven gone is not asked for at each pass"
    assert await held(at) == sorted(ids)
    assert (await at.call("GET", "/stats")).json["used_node_ports"] == MANY


async def test_a_confirmation_while_a_pass_can_do_nothing_holds_for_what_was_shown(at: Harness) -> None:
    ids = await running(at, MANY)
    await vanish(at, ids)
    await until_held(at, MANY)
    await doubt(at)
    reply = await confirm(at)
    assert (reply.status, f"{MANY} stacks" in reply.error) == (503, True)
    assert "Retry-After" in reply.headers
    at.cluster.faults.clear()
    await eventually(lambda: nothing_is_used(at))
    assert await held(at) == []


async def test_a_confirmation_releases_what_was_shown_and_nothing_that_comes_after_it(at: Harness) -> None:
    ids = await running(at, 2 * MANY)
    shown, later = ids[:MANY], ids[MANY:]
    await vanish(at, shown)
    await until_held(at, MANY)
    assert (await confirm(at)).json == {"released": MANY}
    assert await held(at) == []
    await vanish(at, later)
    await until_held(at, MANY)
    await at.passes(3)
    assert await held(at) == sorted(later)
    assert (await confirm(at)).json == {"released": MANY}
    await eventually(lambda: nothing_is_used(at))


# ---- what a pass must not hold up, nor count twice


async def test_orphans_that_cannot_be_removed_hold_no_pass_up_and_trip_no_brake(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "0s"}) as at:
        ids = await running(at, 4)
        remember_as_removed(tmp_path, LEFT_BEHIND)
        for name in LEFT_BEHIND:
            await leave_behind(at, name, finalizers=("example.org/stuck",))
        await eventually(lambda: all_going(at))
        await at.passes(FREE_ENDINGS + 3)
        assert (await at.call("GET", "/readyz")).status == 200
        assert (await plan(at))["actions"] == []
        assert await at.metric("stackd_reconcile_actions_total", action="remove-pod") == len(LEFT_BEHIND)
        for name in LEFT_BEHIND:
            patch = {"metadata": {"finalizers": None}}
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
            async with at.session.patch(
                at.cluster.url + path, json=patch, headers={"Content-Type": "application/merge-patch+json"}
            ) as answer:
                assert answer.status == 200
        await at.until_metric("stackd_mirror_objects", len(ids), kind="pods")
        await at.until_metric("stackd_removals_pending", 0)


async def all_going(at: Harness) -> bool:
    pods = await at.objects("pods")
    return all("deletionTimestamp" in pods.get(name, {}).get("metadata", {}) for name in LEFT_BEHIND)


async def test_an_orphan_whose_removal_hangs_is_asked_for_once_at_a_time(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__ORPHAN_GRACE": "0s"}) as at:
        at.cluster.faults.add(Fault(action="hang", verb="delete", resource="pods"))
        remember_as_removed(tmp_path, LEFT_BEHIND)
        await leave_behind(at, LEFT_BEHIND[0])
        await at.until_metric("stackd_removals_pending", 1)
        await at.passes(5)
        assert await at.metric("stackd_removals_pending") == 1
        assert await at.metric("stackd_reconcile_actions_total", action="remove-pod") == 1


async def test_a_service_whose_making_hangs_is_asked_for_once_at_a_time(at: Harness) -> None:
    (stack_id,) = await running(at, 1)
    at.cluster.faults.add(Fault(action="hang", verb="create", resource="services"))
    before = at.cluster.counts.in_flight
    await at.delete_object("services", f"svc-{stack_id}")
    await eventually(lambda: at.cluster.counts.in_flight == before + 1)
    await at.passes(5)
    assert (await plan(at))["actions"] == []
    assert at.cluster.counts.in_flight == before + 1
    at.cluster.faults.clear()


async def test_endings_that_the_file_refuses_trip_no_brake_by_being_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with harness(tmp_path) as at:
        ids = await running(at, 12)
        with contextlib.closing(sqlite3.connect(tmp_path / "stackd.db", isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            await vanish(at, ids[:5])
            await eventually(lambda: caplog.text.count("statuses cannot be written now") >= 3, deadline=20.0)
            shell.execute("ROLLBACK")
        assert await at.metric("stackd_brake_on") == 0
        for stack_id in ids[:5]:
            await at.until_status(stack_id, "stopped")
        assert (await at.call("GET", "/readyz")).status == 200


# ---- reading the plan changes nothing


async def test_two_looks_at_the_plan_change_nothing_that_a_pass_would_do(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        (stack_id,) = await running(at, 1)
        at.cluster.faults.add(Fault(action="status", verb="create", resource="services", code=503))
        await at.delete_object("services", f"svc-{stack_id}")
        await at.until_metric("stackd_mirror_objects", 0, kind="services")
        looks = [(await plan(at))["actions"] for _ in range(3)]
        assert looks == [looks[0]] * 3
        assert not await at.objects("services")
        at.cluster.faults.clear()
        await at.run_now("reconcile")

        await until(lambda: at.objects("services"), lambda seen: f"svc-{stack_id}" in seen)


# ---- batch deletes


LARGE_JOB = 24
OFTEN = {"STACKD_RECONCILE__INTERVAL": "20ms", "STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}


async def begin(at: Harness, ids: list[str]) -> str:
    reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})
    assert reply.status == 202, reply.text
    return str(reply.json["job_id"])


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_deletes_are_in_flight_than_wanted_while_passes_are_made(
    tmp_path: Path, concurrency: int
) -> None:
    async with harness(tmp_path, OFTEN | {"STACKD_BATCH_DELETE__CONCURRENCY": str(concurrency)}) as at:
        ids = await running(at, LARGE_JOB)
        passes = await at.metric("stackd_reconcile_passes_total")
        at.cluster.faults.add_fault(action="latency", verb="delete", seconds=0.01)
        at.cluster.faults.reset_counts()
        job = await at.finished_job(await begin(at, ids))
        assert job["deleted"] == LARGE_JOB
        assert await at.metric("stackd_reconcile_passes_total") > passes + 2, "nothing would have been in the job's way"
        assert at.cluster.counts.peak_in_flight <= 3 * concurrency, "a pod, its log and a Service of each stack"
        assert at.cluster.counts.total("delete") == 2 * LARGE_JOB, "nobody else deletes what the job deletes"


async def test_a_job_that_was_cut_short_stays_sequential_after_the_restart(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, OFTEN, cluster=cluster) as at:
            ids = await running(at, LARGE_JOB)
            cluster.faults.add_fault(action="hang", verb="delete")
            job_id = await begin(at, ids)
            await at.until_metric("stackd_deletes_pending", LARGE_JOB)
        cluster.faults.clear()
        cluster.faults.add_fault(action="latency", verb="delete", seconds=0.01)
        async with harness(tmp_path, OFTEN, cluster=cluster) as later:
            job = await later.finished_job(job_id)
            assert (job["deleted"], job["failed"]) == (LARGE_JOB, 0)
            assert await later.metric("stackd_reconcile_actions_total", action="delete") == 0
