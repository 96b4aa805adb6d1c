"""What the watchdog takes for stuck, and what not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from stackd.upkeep.report import working
from stackd.upkeep.watchdog import why_stuck
from tests.stand import eventually, stand


async def test_a_daemon_at_work_is_not_stuck(tmp_path: Path) -> None:
    async with stand(tmp_path) as at:
        assert await why_stuck(at.daemon.room, 5.0) == ""


async def test_an_unreachable_cluster_is_said_and_is_not_stuck(tmp_path: Path) -> None:
    async with stand(tmp_path) as at:
        await at.cluster.faults.refuse()
        room = at.daemon.room
        await eventually(lambda: "Kubernetes away" in working(room))
        assert await why_stuck(room, 5.0) == ""


async def test_a_file_that_does_not_answer_is_stuck(tmp_path: Path) -> None:
    async with stand(tmp_path) as at:
        store = at.daemon.room.store
        begun, hold = threading.Event(), threading.Event()

        def operation(_: object) -> None:
            begun.set()
            hold.wait(10.0)

        holding = asyncio.create_task(store._writer.submit(operation, writes=False))
        await eventually(begun.is_set)
        assert await why_stuck(at.daemon.room, 0.2) == "the state file has not answered within 0.2 s"
        hold.set()
        await holding
        assert await why_stuck(at.daemon.room, 5.0) == ""


async def test_a_brake_is_part_of_the_status(tmp_path: Path) -> None:
    async with stand(tmp_path, {"STACKD_RECONCILE__INTERVAL": "1h"}) as at:
        await at.create()
        room = at.daemon.room
        assert working(room) == "ready: 1 stacks, 2 nodes"
        room.brake.allow({f"stack-{n}": "end" for n in range(20)}, 20, 0.2)
        assert working(room).startswith("ready: 1 stacks, 2 nodes; brake: 20 stacks would be ended")
