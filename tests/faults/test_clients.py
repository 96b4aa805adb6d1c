"""Clients that disconnect, on real processes: their create is undone, but never in the middle of a call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.invariant_monitor import InvariantMonitor
from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.processes import ForkServer
from tests.faults.schedule import converge
from tests.faults.world import world

SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}


@pytest.mark.parametrize("resource", ["pods", "services"])
async def test_a_create_whose_client_leaves_is_undone(resource: str, forkserver: ForkServer, tmp_path: Path) -> None:
    async with world(tmp_path, forkserver, SETTINGS) as here:
        InvariantMonitor(here, late=False)
        await here.keep_running()
        await here.ready()
        operations = Operations(here)
        await operations.create(RUNS_ON)
        here.cluster.faults.add_fault(action="latency", verb="create", resource=resource, seconds=0.5)
        creates = [operations.new_create(RUNS_ON) for _ in range(5)]
        await asyncio.gather(*(operations.attempt(create, patience=0.2) for create in creates))
        assert all(create.open for create in creates)
        assert await converge(here, Oracle(here))
        assert not [row for create in creates for row in here.file.marked(create.marker)]
        assert len(here.file.rows()) == 1
    assert not here.violations, "\n".join([*here.violations, *here.trace])


async def test_a_create_under_a_key_goes_on_without_its_client(forkserver: ForkServer, tmp_path: Path) -> None:
    async with world(tmp_path, forkserver, SETTINGS) as here:
        InvariantMonitor(here, late=False)
        await here.keep_running()
        await here.ready()
        operations = Operations(here)
        await operations.create(RUNS_ON)
        here.cluster.faults.add_fault(action="latency", verb="create", resource="services", seconds=0.5)
        create = operations.new_create(RUNS_ON, keyed=True)
        assert (await operations.attempt(create, patience=0.2)).status is None
        assert await converge(here, Oracle(here))
        assert len(here.file.marked(create.marker)) == 1
        assert (await operations.attempt(create)).status == 201
        assert len(here.file.rows()) == 2
    assert not here.violations, "\n".join([*here.violations, *here.trace])
