"""A batch delete runs as many deletes at a time as configured, whatever else goes on, and across restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, fast_cluster, harness

MANY = 24
OFTEN = {"STACKD_RECONCILE__INTERVAL": "20ms", "STACKD_SERVER__SHUTDOWN_TIMEOUT": "200ms"}


async def running(at: Harness, count: int) -> list[str]:
    ids = [str((await at.create())["stack_id"]) for _ in range(count)]
    for stack_id in ids:
        await at.until_status(stack_id, "running")
    return ids


async def begin(at: Harness, ids: list[str]) -> str:
    reply = await at.call("POST", "/stacks/batch-delete", {"stack_ids": ids})
    assert reply.status == 202, reply.text
    return str(reply.json["job_id"])


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_deletes_are_in_flight_than_wanted_while_passes_are_made(
    tmp_path: Path, concurrency: int
) -> None:
    async with harness(tmp_path, OFTEN | {"STACKD_BATCH_DELETE__CONCURRENCY": str(concurrency)}) as at:
        ids = await running(at, MANY)
        passes = await at.metric("stackd_reconcile_passes_total")
        at.cluster.faults.add_fault(action="latency", verb="delete", seconds=0.01)
        at.cluster.faults.reset_counts()
        job = await at.finished_job(await begin(at, ids))
        assert job["deleted"] == MANY
        assert await at.metric("stackd_reconcile_passes_total") > passes + 2, "nothing would have been in the job's way"
        assert at.cluster.counts.peak_in_flight <= 3 * concurrency, "a pod, its log and a Service of each stack"
        assert at.cluster.counts.total("delete") == 2 * MANY, "nobody else deletes what the job deletes"


async def test_a_job_that_was_cut_short_stays_sequential_after_the_restart(tmp_path: Path) -> None:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        async with harness(tmp_path, OFTEN, cluster=cluster) as at:
            ids = await running(at, MANY)
            cluster.faults.add_fault(action="hang", verb="delete")
            job_id = await begin(at, ids)
            await at.until_metric("stackd_deletes_pending", MANY)
        cluster.faults.clear()
        cluster.faults.add_fault(action="latency", verb="delete", seconds=0.01)
        async with harness(tmp_path, OFTEN, cluster=cluster) as later:
            job = await later.finished_job(job_id)
            assert (job["deleted"], job["failed"]) == (MANY, 0)
            assert await later.metric("stackd_reconcile_actions_total", action="delete") == 0


async def test_what_a_job_could_not_delete_is_deleted_in_the_background(at: Harness) -> None:
    ids = await running(at, 3)
    fault = {"action": "status", "verb": "delete", "resource": "pods", "code": 422}
    at.cluster.faults.add_fault(**fault, name=ids[1], count=1)
    job = await at.finished_job(await begin(at, ids))
    assert (job["deleted"], job["failed"]) == (2, 1)
    await at.until_listed(0)
    assert await at.metric("stackd_deletes_pending") == 0
    assert not await at.objects("pods")


async def test_a_delete_that_is_asked_for_is_not_taken_on_by_a_pass_as_well(tmp_path: Path) -> None:
    async with harness(tmp_path, OFTEN) as at:
        (stack_id,) = await running(at, 1)
        at.cluster.faults.add_fault(action="hang", verb="delete", resource="pods", count=1)
        deleting = asyncio.create_task(at.call("DELETE", f"/stacks/{stack_id}"))
        await at.until_metric("stackd_deletes_pending", 1)
        await at.passes(3)
        assert await at.metric("stackd_reconcile_actions_total", action="delete") == 0
        assert at.cluster.counts.total("delete", "pods") == 0, "the only one is still under way"
        deleting.cancel()
