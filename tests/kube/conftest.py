from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from stackd.kube.client import Cluster
from tests.kube.wire import NAMESPACE, Wire, wired
from tests.target import target_at


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
