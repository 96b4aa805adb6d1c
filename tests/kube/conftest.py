from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from aioresponses import aioresponses

from stackd.kube import watch
from stackd.kube.client import Cluster
from stackd.workqueue import RetryPolicy
from tests.kube.wire import NAMESPACE, SERVER, Wire, wired
from tests.target import target_at


@pytest.fixture(autouse=True)
def quick_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before a watch is opened again."""
    monkeypatch.setattr(watch, "RETRIES", RetryPolicy(first=0.005, longest=0.05))
    monkeypatch.setattr(watch, "IDLE_SECONDS", 5.0)


@pytest.fixture
def player() -> Iterator[aioresponses]:
    """Responses come from recordings instead of a network."""
    with aioresponses() as playing:
        yield playing


@pytest.fixture
async def recorded(player: aioresponses) -> AsyncIterator[Cluster]:
    """A cluster that is played from recordings."""
    cluster = await Cluster.connect(target_at(SERVER, namespace=NAMESPACE, timeout=1.0))
    yield cluster
    await cluster.close()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A scripted API server."""
    async with wired() as scripted:
        yield scripted


@pytest.fixture
async def cluster(wire: Wire) -> AsyncIterator[Cluster]:
    """A client of the scripted API server."""
    target = target_at(wire.url, namespace=NAMESPACE, timeout=3.0, attempt_timeout=1.0)
    connected = await Cluster.connect(target)
    yield connected
    await connected.close()
