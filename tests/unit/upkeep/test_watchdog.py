"""What the watchdog takes for a hanging daemon, and what not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from stackd.upkeep.health import line, why_stuck
from tests.harness import eventually, harness


async def test_a_daemon_at_work_is_not_stuck(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        assert await why_stuck(at.daemon.context, 5.0) == ""


async def test_an_unreachable_cluster_is_said_and_is_not_stuck(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        await at.cluster.faults.refuse()
        context = at.daemon.context
        await eventually(lambda: "Kubernetes away" in line(context, at.daemon.ready))
        assert await why_stuck(context, 5.0) == ""


async def test_a_file_that_does_not_answer_is_stuck(tmp_path: Path) -> None:
    async with harness(tmp_path) as at:
        store = at.daemon.context.store
        begun, hold = threading.Event(), threading.Event()

        def operation(_: object) -> None:
            begun.set()
            hold.wait(10.0)

        holding = asyncio.create_task(store._writer.submit(operation, writes=False))
        await eventually(begun.is_set)
        assert await why_stuck(at.daemon.context, 0.2) == "the state file has not answered within 0.2 s"
        hold.set()
        await holding
        assert await why_stuck(at.daemon.context, 5.0) == ""
