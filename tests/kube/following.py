"""A mirror that follows the scripted server, for the tests of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from stackd.kube.client import Cluster
from stackd.kube.mirror import Mirror, MirrorChange, PodChanged
from stackd.kube.objects import PodState
from stackd.kube.watch import Timings
from tests.kube.wire import NAMESPACE, Stream

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
NODES = "/api/v1/nodes"
QUICK = Timings(first_pause=0.005, longest_pause=0.05, idle_limit=5.0)


@asynccontextmanager
async def mirroring(cluster: Cluster, timings: Timings = QUICK) -> AsyncIterator[tuple[Mirror, list[MirrorChange]]]:
    mirror = Mirror(cluster, timings=timings)
    changes: list[MirrorChange] = []
    mirror.subscribe(changes.append)
    task = asyncio.create_task(mirror.run())
    try:
        await asyncio.wait_for(mirror.wait_synced(), 10)
        yield mirror, changes
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def seen(mirror: Mirror, name: str, version: int) -> PodState:
    wanted = str(version)
    return await mirror.until(
        name, lambda state: state if state and state.resource_version == wanted else None, timeout=30
    )


def told(changes: list[MirrorChange]) -> list[tuple[str, str]]:
    """What the mirror reported of pods."""
    pods = [change for change in changes if isinstance(change, PodChanged)]
    return [(c.name, "came" if c.before is None else "went" if c.after is None else "changed") for c in pods]


def then(*events: tuple[str, dict[str, Any]], stay: bool = True) -> Callable[[Stream], Any]:
    """A watch that sends these events, and then stays open (or is ended by the server)."""

    async def script(stream: Stream) -> None:
        for kind, obj in events:
            await stream.send(kind, obj)
        if stay:
            await asyncio.sleep(60)

    return script
