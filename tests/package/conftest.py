"""The Debian package, built once, and a machine that has never had stackd on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.package.debian import NEWER, build_newer, built, why_not
from tests.systemd.machine import Machine, booted, box
from tests.systemd.service import Service, on

SECONDS = 400
"""A time limit for tests; the first one also builds the package."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set a long timeout, since the first test also builds the package."""
    item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return built(tmp_path_factory)


@pytest.fixture(scope="session")
def newer() -> Path:
    return Path(f"stackd_{NEWER}.deb")


@pytest.fixture(scope="session")
def machine(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the package and a newer one in ``/``."""
    machine = box(tmp_path_factory.mktemp("package") / f"package-{os.getpid()}")
    shutil.copy(deb, machine.files)
    build_newer(deb, machine.files)
    with booted(machine):
        machine.must("rm", "-f", "/usr/sbin/policy-rc.d")  # it keeps packages in containers from starting services
        yield machine


@pytest.fixture
async def service(machine: Machine, deb: Path, tmp_path: Path) -> AsyncIterator[Service]:
    """stackd installed on a machine without a trace of it; only its ports differ from the default configuration."""
    machine.must("dpkg", "--purge", "stackd")
    machine.must("dpkg", "--install", f"/{deb.name}")
    async with on(machine, tmp_path) as service:
        edit = f"[server]\nport = {service.api_port}\n[stacks]\nrequire_ingress_network_policy = false\n"
        machine.must("tee", "-a", "/etc/stackd/config.toml", stdin=edit)
        yield service
