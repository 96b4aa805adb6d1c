"""One machine with stackd installed for all of these tests, and a fresh service for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.ports import free_port
from tests.systemd.machine import HOST_VARIABLE, Machine, boot, box, host, install, power_off, why_not
from tests.systemd.service import Service

SECONDS = 300
pytestmark = pytest.mark.systemd


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set a long timeout, since the first test also installs stackd."""
    item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    if os.environ.get(HOST_VARIABLE) == "1":
        install(Path("/"))
        yield host()
        return
    folder = tmp_path_factory.mktemp("systemd") / f"stackd-{os.getpid()}"
    made = box(folder)
    install(made.files)
    boot(made)
    try:
        made.must("systemd-sysusers")
        made.must("systemd-tmpfiles", "--create", "stackd.conf")
        yield made
    finally:
        power_off(made)


@pytest.fixture(scope="session")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
async def bare(machine: Machine, ports: tuple[int, int], tmp_path: Path) -> AsyncIterator[Service]:
    """stackd installed and configured, without credentials and without a cluster."""
    # with keep-alive connections, each stop could wait one second for a last request
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        service = Service(machine=machine, folder=tmp_path, api_port=ports[0], cluster_port=ports[1], session=session)
        await service.fresh()
        yield service
        await service.try_to("systemctl", "stop", "stackd.service")
        if service.cluster is not None:
            await service.cluster.stop()


@pytest.fixture
async def service(bare: Service) -> Service:
    """stackd started on a cluster, and ready."""
    await bare.start_on_a_cluster()
    return bare
