"""What holds for all tests: a stackd that is installed where they run, and its configuration, is not theirs; and what is
drawn is judged by what becomes of it, not by the time that a busy machine takes for it, and drawn the same each time. Where
several processes run the tests, there are more of them than CPUs, and tests that share something large share one of them.
"""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from stackd.cli import options
from stackd.doctor import unit

ONE_PROCESS_EACH = ("tests/package/", "tests/systemd/", "tests/ui/")
"""What they share takes longer to set up than most of them take: a machine with a systemd, a browser."""

PROCESSES_PER_CPU = 2
"""Most of what the tests do is waiting: for a daemon's next look, for a time to live, for a systemd."""

settings.register_profile(
    "any-machine", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "INSTALLED", tmp_path / "none-installed" / "config.toml")
    monkeypatch.setattr(unit, "SERVICE", "stackd-none-installed.service")


def pytest_configure() -> None:
    """In the background of a shell Ctrl-C is ignored; the commands under test are not to inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class OneProcessEach(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Deals out single tests, but those of these folders to one process each."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in ONE_PROCESS_EACH if nodeid.startswith(folder)), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many ``--numprocesses logical`` are, unless xdist's own variable says it."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return math.ceil(PROCESSES_PER_CPU * len(os.sched_getaffinity(0)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessEach:
    return OneProcessEach(config, log)
