"""Nothing is lost when another machine takes over; with a real cluster, after each way in which the owner may go."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from tests.cluster.conftest import VARIABLE
from tests.cluster.players import Players
from tests.cluster.real import Process
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
