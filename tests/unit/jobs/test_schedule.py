"""What the scheduler needs of the machine, and what it does when the clock is set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime, timedelta, tzinfo

import pytest
from apscheduler.schedulers import base

from stackd.jobs import schedule
from stackd.jobs.schedule import Entry, Schedule
from stackd.tasks import Tasks
from tests.harness import eventually

SCHEDULE = "from stackd.jobs.schedule import Schedule; from stackd.tasks import Tasks; Schedule([], Tasks())"


@pytest.mark.parametrize("zone", ["EST5EDT,M3.2.0,M11.1.0", "CET-1CEST", "Europe/Nowhere", ""])
def test_the_time_zone_may_be_any_that_the_machine_has(zone: str) -> None:
    code = f"import asyncio\nasync def main():\n    {SCHEDULE}\nasyncio.run(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=os.environ | {"TZ": zone}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
async def test_what_is_due_stays_due_where_the_clock_is_set_right_after_the_start(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a clock that is set back by a day stops the schedule for a day: no stack would expire."""
    by = 0.0
    real = time.time

    class Set(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(seconds=by)

    monkeypatch.setattr(base, "datetime", Set)
    monkeypatch.setattr(schedule, "CHECK_CLOCK_SECONDS", 0.01)
    monkeypatch.setattr(time, "time", lambda: real() + by)
    done = []

    async def verb() -> None:
        done.append(1)

    tasks = Tasks()
    jobs = Schedule([Entry(name="one", every=0.02, verb=verb)], tasks)
    jobs.start()
    by = seconds
    tasks.supervise("clock", jobs.follow_clock())
    try:
        await eventually(lambda: len(done) >= 3)
    finally:
        jobs.stop()
        await tasks.stop()
