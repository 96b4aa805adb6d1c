"""The wall clock is set under a running daemon; what is due by it stays due."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.ledger import RUNS_ON
from tests.faults.operations import Operations
from tests.faults.oracle import Oracle
from tests.faults.processes import ForkServer
from tests.faults.schedule import converge
from tests.faults.world import World, world
from tests.harness import eventually

DAY = 86_400.0
YEAR = 365 * DAY
PROMPT_SECONDS = 15.0
SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31040"}


@pytest.fixture
async def here(forkserver: ForkServer, tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, forkserver, SETTINGS) as made:
        await made.keep_running()
        await made.ready()
        yield made
    assert not made.violations, "\n".join([*made.violations, *made.trace])


async def test_a_clock_that_was_set_back_by_a_day_puts_nothing_off(here: World) -> None:
    operations = Operations(here)
    await operations.create(RUNS_ON)
    here.skew.jump(-DAY)
    here.ledger.set_back(here.skew.now())
    await here.ready()  # it has seen that the API server was set back, too
    await operations.create(RUNS_ON, ttl="1s")
    first, second = here.ledger.known()
    await eventually(lambda: here.file.row(second) is None, deadline=PROMPT_SECONDS)
    here.cluster.store.remove(here.record("services", f"svc-{first}"))
    await eventually(lambda: f"svc-{first}" in here.ours("services"), deadline=PROMPT_SECONDS)
    assert await converge(here, Oracle(here))


async def test_a_clock_that_was_decades_behind_costs_nothing_when_it_is_put_right(here: World) -> None:
    here.skew.jump(-30 * YEAR)
    await here.ready()
    operations = Operations(here)
    await operations.create(RUNS_ON)
    here.skew.jump(30 * YEAR)
    await eventually(lambda: not here.file.rows(), deadline=PROMPT_SECONDS)
    assert (await here.call("GET", "/stacks")).seconds < 1.0
    assert await converge(here, Oracle(here))


async def test_a_stack_whose_time_is_up_while_nobody_is_there_goes_after_the_restart(here: World) -> None:
    operations = Operations(here)
    await operations.create(RUNS_ON)
    starts = here.counts["starts"]
    here.kill()
    here.skew.jump(DAY)
    await eventually(lambda: here.counts["starts"] > starts, deadline=PROMPT_SECONDS)
    await eventually(lambda: not here.file.rows(), deadline=PROMPT_SECONDS)
    assert await converge(here, Oracle(here))


async def test_a_stack_from_before_a_restart_goes_when_its_time_is_up(here: World) -> None:
    operations = Operations(here)
    await operations.create(RUNS_ON)
    starts = here.counts["starts"]
    here.kill()
    await eventually(lambda: here.counts["starts"] > starts and here.up.is_set(), deadline=PROMPT_SECONDS)
    await here.ready()
    here.skew.jump(DAY)
    await eventually(lambda: not here.file.rows(), deadline=PROMPT_SECONDS)
    assert await converge(here, Oracle(here))
