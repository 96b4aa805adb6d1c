"""Invariant 8, on real processes: on another cluster, or when too much is gone, nothing changes unconfirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.process import ForkServer
from tests.faults.schedule import converge, held_back
from tests.faults.world import World, world
from tests.harness import eventually, fast_cluster

MANY = 14
SEVERAL_PASSES = 1.2
SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}


@pytest.fixture
async def here(forkserver: ForkServer, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, forkserver, SETTINGS) as here:
        await here.keep_running()
        operations = Operations(here)
        while len(here.ledger.by_id()) < MANY:
            await asyncio.gather(*(operations.create() for _ in range(MANY - len(here.ledger.by_id()))))
        yield here
    assert not here.violations, "\n".join([*here.violations, *here.trace])


async def test_when_most_pods_are_gone_at_once_nothing_is_given_back_until_it_is_confirmed(here: World) -> None:
    for stack_id in here.ledger.by_id():
        here.remove("pods", stack_id)
        here.ledger.touched.add(stack_id)

    async def all_held_back() -> bool:
        return len(await held_back(here)) == MANY

    await eventually(all_held_back, deadline=20)
    here.machine.kill()  # the next process has to hold them, too
    await here.listening()
    await eventually(all_held_back, deadline=20)
    await asyncio.sleep(SEVERAL_PASSES)
    rows = here.file.rows()
    assert rows.keys() == here.ledger.by_id().keys()
    assert not any(row.ended or not row.ports_held for row in rows.values())
    assert (await here.call("POST", "/reconcile/confirm")).body == {"released": MANY}
    assert await converge(here, Oracle(here))
    assert all(row.ended and not row.held for row in here.file.rows().values())


async def test_a_daemon_that_starts_on_another_cluster_takes_nothing_for_gone_before_it_knows_that(here: World) -> None:
    ids, machine = list(here.ledger.by_id()), here.machine
    async with EmbeddedCluster(fast_cluster()) as other:
        other.faults.add_fault(action="latency", verb="get", resource="namespaces", seconds=1.0)
        here.cluster.faults.pause()
        job = await here.call("POST", "/stacks/batch-delete", {"stack_ids": ids[:3]})
        unanswered = asyncio.create_task(here.call("DELETE", f"/stacks/{ids[3]}"))
        await eventually(lambda: sum(row.deleting for row in here.file.rows().values()) == 4)
        other.write_kubeconfig(machine.kubeconfig)
        machine.kill()
        assert (await unanswered).status is None
        await here.listening()
        assert (await here.call("DELETE", f"/stacks/{ids[4]}")).status == 503
        assert here.file.rows().keys() == set(ids)
        assert here.file.job(job.body["job_id"]) is not None
    here.cluster.faults.clear()
    here.cluster.write_kubeconfig(machine.kubeconfig)
    for stack_id in ids[:5]:
        here.ledger.endings[stack_id].promised = True
        here.ledger.endings[stack_id].asked += 1
    starts = here.counts["starts"]
    machine.stop()
    await eventually(lambda: here.counts["starts"] > starts and machine.up.is_set(), deadline=30)
    assert await converge(here, Oracle(here))
    assert here.file.rows().keys() == set(ids[5:])
