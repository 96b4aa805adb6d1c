"""The Debian package, built once, and a machine that has never had stackd on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.package.debian import build, commit_time, ran, uncompressed, why_not
from tests.systemd.machine import Machine, Ran, booted, box
from tests.systemd.service import Service, on

VERDICTS = "test_verdicts.py"
SECONDS = 400
"""A time limit for tests; the first one also builds the package."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Set a long timeout, since the first test also builds the package."""
    item.add_marker(pytest.mark.timeout(SECONDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The package; if a test needs them, also a second build ``elsewhere``, and lintian's result."""

    deb: Path
    commit_time: int
    elsewhere: Path
    again: Future[Ran] | None
    lintian: Future[Ran] | None


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    here, there = tmp_path_factory.mktemp("deb"), tmp_path_factory.mktemp("deb-built-in-another-folder")
    with ThreadPoolExecutor(max_workers=1) as pool:
        time = commit_time()
        done = build(here)
        assert done.code == 0, done.out + done.err
        (deb,) = here.glob("stackd_*.deb")
        again = lintian = None
        if any(item.path.name == VERDICTS for item in request.session.items):
            again = pool.submit(build, there, copy_of=time)
            lintian = pool.submit(ran, "lintian", "--allow-root", "--no-cfg", str(deb))
        yield Built(deb=deb, commit_time=time, elsewhere=there, again=again, lintian=lintian)


@pytest.fixture(scope="session")
def deb(built: Built) -> Path:
    return built.deb


@pytest.fixture(scope="session")
def packages(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package and a newer one, uncompressed."""
    return uncompressed(deb, tmp_path_factory.mktemp("uncompressed"))


@pytest.fixture(scope="session")
def newer(packages: tuple[Path, Path]) -> Path:
    return packages[1]


@pytest.fixture(scope="session")
def machine(deb: Path, packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the package as it was built in ``/as-built``, and the uncompressed ones in ``/``."""
    machine = box(tmp_path_factory.mktemp("package") / f"package-{os.getpid()}")
    (machine.files / "as-built").mkdir()
    shutil.copy(deb, machine.files / "as-built")
    for package in packages:
        shutil.copy(package, machine.files)
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
