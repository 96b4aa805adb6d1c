"""Invariant 8, on real processes: on another cluster, or when too much is gone, nothing changes unconfirmed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import PODS
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.processes import ForkServer
from tests.faults.schedule import converge
from tests.faults.world import NAMESPACE, World, world
from tests.harness import eventually, fast_cluster

MANY = 14
SEVERAL_PASSES = 1.2
SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}


@pytest.fixture
async def here(forkserver: ForkServer, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, forkserver, SETTINGS) as made:
        await made.keep_running()
        operations = Operations(made)
        while len(made.ledger.known()) < MANY:
            await operations.create(RUNS_ON)
        yield made
    assert not made.violations, "\n".join([*made.violations, *made.trace])


async def held(here: World) -> list[str]:
    outcome = await here.call("GET", "/readyz")
    stacks: list[str] = outcome.body.get("held", []) if isinstance(outcome.body, dict) else []
    return stacks


async def restart(here: World) -> None:
    """Stop the daemon, and wait until the next one listens."""
    passed = here.counts["starts"]
    here.stop()
    await eventually(lambda: here.counts["starts"] > passed and here.up.is_set(), deadline=30)


async def test_when_most_pods_are_gone_at_once_nothing_is_given_back_until_it_is_confirmed(here: World) -> None:
    store = here.cluster.store
    for stack_id in here.ledger.known():
        store.remove(store.of(PODS).get(NAMESPACE, stack_id))
        here.ledger.touched.add(stack_id)

    async def all_held() -> bool:
        return len(await held(here)) == MANY

    await eventually(all_held, deadline=20)
    here.kill()  # the next process has to hold them, too
    await here.listening()
    await eventually(all_held, deadline=20)
    await asyncio.sleep(SEVERAL_PASSES)
    rows = here.file.rows()
    assert set(rows) == set(here.ledger.known())
    assert not any(row.ended or not row.ports_held for row in rows.values())
    assert (await here.call("POST", "/reconcile/confirm")).body == {"released": MANY}
    assert await converge(here, Oracle(here))
    assert all(row.ended and not row.held for row in here.file.rows().values())


async def test_a_daemon_that_starts_on_another_cluster_takes_nothing_for_gone_before_it_knows_that(here: World) -> None:
    known = here.ledger.known()
    async with EmbeddedCluster(fast_cluster()) as other:
        other.faults.add_fault(action="latency", verb="get", resource="namespaces", seconds=1.0)
        here.cluster.faults.pause()
        job = await here.call("POST", "/stacks/batch-delete", {"stack_ids": known[:3]})
        left = asyncio.create_task(here.call("DELETE", f"/stacks/{known[3]}"))
        await eventually(lambda: sum(row.deleting for row in here.file.rows().values()) == 4)
        other.write_kubeconfig(here.folder / "kubeconfig")
        here.kill()
        assert (await left).status is None
        await here.listening()
        late = await here.call("DELETE", f"/stacks/{known[4]}")
        assert late.status == 503, late
        assert here.file.rows().keys() == set(known)
        assert here.file.job(job.body["job_id"]) is not None
    here.cluster.faults.clear()
    here.cluster.write_kubeconfig(here.folder / "kubeconfig")
    for stack_id in known[:5]:
        here.ledger.ending(stack_id).promised = True
        here.ledger.ending(stack_id).asked += 1
    await restart(here)
    assert await converge(here, Oracle(here))
    assert here.file.rows().keys() == set(known[5:])
