from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stackd.kube import watch
from stackd.kube.client import Cluster
from stackd.workqueue import RetryPolicy
from tests.kube.wire import NAMESPACE, Wire, wired
from tests.target import target_at


@pytest.fixture(autouse=True)
def quick_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses before a watch is opened again."""
    monkeypatch.setattr(watch, "RETRIES", RetryPolicy(first=0.005, longest=0.05))
    monkeypatch.setattr(watch, "IDLE_SECONDS", 5.0)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A scripted API server."""
    async with wired() as scripted:
        yield scripted


@pytest.fixture
async def cluster(wire: Wire) -> AsyncIterator[Cluster]:
    """A client of the scripted API server."""
    target = target_at(wire.url, namespace=NAMESPACE, timeout=60.0, attempt_timeout=20.0)
    connected = await Cluster.connect(target)
    yield connected
    await connected.close()
