"""A stackd for each test, on a machine and a cluster of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from stackd.embedded import EmbeddedCluster
from tests.harness import Harness, Machine, Machines, fast_cluster


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The daemon's own loop: it reads more at once than asyncio's. Where a network is cut, its collector complains of what
    no peer has closed."""
    return (
        {"asyncio": asyncio.new_event_loop}
        if item.path.name == "test_two_vms.py"
        else {"uvloop": uvloop.new_event_loop}
    )


@pytest.fixture
async def vm(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Machine]:
    """A machine; ``@pytest.mark.stackd`` has the settings of its stackd, ``@pytest.mark.kubernetes`` its cluster's."""
    stackd, kubernetes = map(request.node.get_closest_marker, ("stackd", "kubernetes"))
    async with EmbeddedCluster(fast_cluster(**(kubernetes.kwargs if kubernetes else {}))) as cluster:
        machine = Machine(folder=tmp_path, cluster=cluster, options=dict(stackd.kwargs) if stackd else {})
        yield machine
        cluster.faults.clear()  # a stop waits for what hangs
        await machine.stop()


@pytest.fixture
async def at(vm: Machine) -> Harness:
    return await vm.start()


@pytest.fixture
async def vms(tmp_path: Path) -> AsyncIterator[Machines]:
    async with EmbeddedCluster(fast_cluster()) as cluster:
        machines = Machines(cluster=cluster, folder=tmp_path)
        yield machines
        cluster.faults.clear()
        for machine in machines.each.values():
            await machine.stop()
