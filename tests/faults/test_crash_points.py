"""The daemon dies at each crash point, for certain, the first and the second time it gets there; nothing is lost."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.faults.crash_scenes import SCENES, Scene, Stage
from tests.faults.operations import Operations
from tests.faults.oracle import InvariantMonitor, Oracle
from tests.faults.plan import POINTS
from tests.faults.processes import ForkServer
from tests.faults.schedule import ask_again, check_ports, converge
from tests.faults.troubles import Troubles
from tests.faults.world import World, world

# Connections are cut at any moment here, at both ends; asyncio's messages about it are no findings.
pytestmark = pytest.mark.filterwarnings("ignore:.*_SelectorTransport:pytest.PytestUnraisableExceptionWarning")

DEATH_SECONDS = 75.0
SETTINGS = {"STACKD_STACKS__NODE_PORT_MIN": "31001", "STACKD_STACKS__NODE_PORT_MAX": "31012"}
AT_ONCE = 4
FAMILIES = sorted({point.split(".")[0] for point in POINTS})
GROUPS = [FAMILIES[first : first + AT_ONCE] for first in range(0, len(FAMILIES), AT_ONCE)]
"""Crash tests mostly wait, so several run at once."""

WORLDS = 8 * len(os.sched_getaffinity(0))
"""How many daemons run at a time; with more, their starts keep the machine so busy that none is ready in time."""


def test_every_crash_point_has_a_scene() -> None:
    assert {title.split()[0] for title in SCENES} == set(POINTS)


@pytest.mark.timeout(480)
@pytest.mark.parametrize("families", GROUPS, ids=["-".join(group) for group in GROUPS])
async def test_a_crash_at_any_point_loses_nothing_and_leaks_nothing(
    families: list[str], forkserver: ForkServer, tmp_path: Path
) -> None:
    wanted = [
        (title, time)
        for title, scene in SCENES.items()
        if title.split(".")[0] in families
        for time in range(1, scene.times + 1)
    ]
    places = asyncio.Semaphore(WORLDS)

    async def one(title: str, time: int) -> World:
        async with places:
            return await crash(title, time, forkserver, tmp_path)

    worlds = await asyncio.gather(*(one(title, time) for title, time in wanted))
    failed = [
        "\n".join([f"{title}:{time}", *one.violations, *one.trace, *one.process.lines[-40:]])
        for (title, time), one in zip(wanted, worlds, strict=True)
        if one.violations
    ]
    assert not failed, "\n\n".join(failed)


async def crash(title: str, time: int, forkserver: ForkServer, folder: Path) -> World:
    """Let the daemon die when it reaches the point for the ``time``-th time; the next one recovers, and is judged."""
    scene, point = SCENES[title], title.split(maxsplit=1)[0]
    place = folder / f"{title}-{time}"
    place.mkdir()
    async with world(place, forkserver, dict(SETTINGS)) as here:
        if scene.pool:
            here.put_template(scene.pool, scene.pooled)
            here.pool = scene.pool if point.startswith("assign.") else 0
        here.starts.extend([f"{earlier}:1" if earlier else "" for earlier in scene.before] + [f"{point}:{time}"])
        monitor = InvariantMonitor(here, late=scene.late)
        stage = Stage(
            world=here,
            operations=Operations(here, routes=scene.routes),
            troubles=Troubles(here, seed=time),
            monitor=monitor,
            point=point,
        )
        oracle = Oracle(here)
        if await _die(stage, scene) and await _recover(stage, oracle):
            oracle.final()
            check_ports(here, stage.troubles, late=scene.late)
            await oracle.answers()
    return here


async def _die(stage: Stage, scene: Scene) -> bool:
    try:
        async with asyncio.timeout(DEATH_SECONDS):
            await stage.world.keep_running()
            while not stage.over:
                await scene.act(stage)
    except TimeoutError:
        stage.world.violated("the point is reached", stage.point)
        return False
    return True


async def _recover(stage: Stage, oracle: Oracle) -> bool:
    await stage.troubles.lift()
    if not await converge(stage.world, oracle):
        return False
    await ask_again(stage.world, stage.operations)
    return await converge(stage.world, oracle)
