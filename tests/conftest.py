"""What holds for all tests.

No test sees a stackd that is installed on this machine, or its configuration, or trusts the authorities that this
machine trusts: to load those takes 10 ms for each TLS context. Hypothesis has no deadline, since a busy
machine is slow, and draws the same examples each time. Under xdist there are more processes than CPUs, and tests that
share something expensive run in one process.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from stackd.cli import installed, machine  # noqa: F401 - the helps name the real INSTALLED, so they are made before
from stackd.doctor import service
from stackd.logs import NOISY

ONE_PROCESS_EACH = ("tests/package/", "tests/systemd/", "tests/ui/")
"""Tests of these folders share something that is slow to set up: a machine with systemd, a browser."""

os.environ |= dict.fromkeys(("SSL_CERT_FILE", "SSL_CERT_DIR"), os.devnull)

settings.register_profile(
    "any-machine", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "INSTALLED", Path("/nonexistent/stackd/config.toml"))
    monkeypatch.setattr(service, "SERVICE", "stackd-none-installed.service")


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a daemon in this process has set up: its handler, and what it leaves out of all records."""
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks", "_srcfile"):
        if hasattr(logging, name):
            monkeypatch.setattr(logging, name, getattr(logging, name))
    handlers = logging.getLogger().handlers[:]
    levels = {logger: logger.level for logger in map(logging.getLogger, (None, *NOISY))}
    yield
    logging.getLogger().handlers[:] = handlers
    for logger, level in levels.items():
        logger.setLevel(level)


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for its background jobs; the commands under test must not inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class OneProcessEach(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Distributes single tests, but all tests of one of ``ONE_PROCESS_EACH`` go to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in ONE_PROCESS_EACH if nodeid.startswith(folder)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many processes ``--numprocesses logical`` starts, as the tests mostly wait; unless xdist's own variable says it."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessEach:
    return OneProcessEach(config, log)
