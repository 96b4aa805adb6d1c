"""Nothing is lost and nothing is left on a real cluster: killed processes, lost files, mistakes of an operator."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from tests.cluster.conftest import VARIABLE
from tests.cluster.players import Players
from tests.cluster.real import Process, Real
from tests.gate import Gate

STACKS = int(os.environ.get("STACKD_TEST_STACKS", "8"))
EVENTS = ("kill", "stop", "cut") if VARIABLE in os.environ else ("stop",)
"""An owner that goes on later is harder to bear than one that is dead."""


@pytest.mark.parametrize("event", EVENTS)
async def test_a_takeover_loses_nothing_that_was_acknowledged(both: tuple[Process, Process, Gate], event: str) -> None:
    """Under load the owner is killed, paused or cut off from the API server."""
    owner, standby, way = both
    verbs = ("create", "create", "delete", "stop", "start", "extend")
    players = Players(real=owner.real, verbs=verbs)
    await owner.start()
    players.created = {stack["stack_id"]: stack for stack in await owner.real.create_many(STACKS)}
    await standby.start(role="standby")
    await standby.real.refused(503, "owns the stacks", "/stacks", method="GET")
    async with players.pressing(os.environ.get("STACKD_TEST_SEED", event)):
        await asyncio.sleep(random.Random(event).uniform(0.5, 2.5))
        if event == "cut":
            way.held = True
        else:
            owner.send(signal.SIGKILL if event == "kill" else signal.SIGSTOP)
        await standby.until("owner")
        taken_over = time.monotonic()
        way.held = False
        if event == "stop":
            owner.send(signal.SIGCONT)
        await asyncio.sleep(2.0)  # time for the old owner to do what it still would
    assert not [what for at, what in players.acknowledged if at > taken_over], "two acknowledged"
    await players.verify(standby.real)
    await standby.real.agreed()


# ---- no mistake of an operator ends a player's stack


async def created(real: Real) -> list[str]:
    """The ids of ``STACKS`` stacks; the second was extended, the third stopped, the fourth stopped and started."""
    ids = [stack["stack_id"] for stack in await real.create_many(STACKS, labels={"team": "7"})]
    await real.do("extend", ids[1], ttl="10m")
    await real.settled()
    for stack_id in ids[2:4]:
        await real.do("stop", stack_id)
    await real.do("start", ids[3])
    await real.settled()
    return ids


async def test_a_lost_file_ends_nothing_and_forgets_no_stack(process: Process) -> None:
    """Neither does a file that is rebuilt, nor a configuration for another namespace or instance."""
    await process.start()
    real = process.real
    ids = await created(real)
    await real.delete(ids[0])
    before, objects = await real.answers(), await real.uids()
    process.kill()
    for command, key in (("check", "STACKD_STACKS__NAMESPACE"), ("serve", "STACKD_CLUSTER__INSTANCE")):
        code, output = await process.run(command, **{key: "another"})
        assert (code, len(output.strip().splitlines()), "another" in output) == (2, 1, True), output
    for rebuild in (False, True):
        process.kill()
        process.lose_file()
        if rebuild:
            assert (await process.run("rebuild"))[0] == 0
        await process.start()
        assert await real.answers() == before
        await real.passes(3)
        assert (await real.answers(), await real.uids()) == (before, objects)
    await real.do("start", ids[2])
    await real.settled()
    assert (await real.stack(ids[2]))["ports"] == before[ids[2]]["ports"]
