"""Somebody else uses names of stackd: stackd leaves their objects alone, and still deletes its own (invariant 5)."""

from __future__ import annotations

from pathlib import Path

from tests.faults.invariant_monitor import InvariantMonitor
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.processes import ForkServer
from tests.faults.schedule import converge
from tests.faults.world import world

SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}
FIRST, LAST = 0.0, 0.999


async def test_a_delete_leaves_a_pod_of_somebody_else_that_has_the_name(forkserver: ForkServer, tmp_path: Path) -> None:
    async with world(tmp_path, forkserver, SETTINGS) as here:
        InvariantMonitor(here, late=False)
        await here.keep_running()
        await here.ready()
        operations = Operations(here)
        for _ in range(2):
            await operations.create(RUNS_ON)
        deleted, batched = here.ledger.known()
        await operations.usurp(FIRST)
        assert (await operations.delete_one(deleted)).status == 200
        await operations.usurp(LAST)
        await operations.batch([LAST], 1)
        assert await converge(here, Oracle(here))
        assert not here.file.rows()
        assert {deleted, batched} <= here.objects("pods").keys()
        Oracle(here).final()
    assert not here.violations, "\n".join([*here.violations, *here.trace])
