"""One machine with stackd installed for all of these tests, and a fresh service for each test."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.package import debian
from tests.systemd.machine import HOST_VARIABLE, Machine, booted, box, install, why_not
from tests.systemd.service import Service, on

SECONDS = 300
pytestmark = pytest.mark.systemd


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set a long timeout, since the first test also installs stackd."""
    item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    on_host = os.environ.get(HOST_VARIABLE) == "1"
    reason = why_not() if on_host else debian.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("systemd")
    if on_host:
        install(folder)
        yield Machine(enter=(), environment={}, files=Path("/"))
        return
    machine = box(folder / f"stackd-{os.getpid()}")
    debian.run("dpkg-deb", "--extract", str(debian.built(tmp_path_factory)), str(machine.files))
    with booted(machine):
        machine.must("systemd-sysusers")
        machine.must("systemd-tmpfiles", "--create", "stackd.conf")
        yield machine


@pytest.fixture
async def bare(machine: Machine, tmp_path: Path) -> AsyncIterator[Service]:
    """stackd installed and configured, without credentials and without a cluster."""
    async with on(machine, tmp_path) as service:
        await service.fresh()
        yield service


@pytest.fixture
async def service(bare: Service) -> Service:
    """stackd started on a cluster, and ready."""
    await bare.start_on_a_cluster()
    return bare
