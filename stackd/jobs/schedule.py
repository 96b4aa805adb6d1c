"""What runs at intervals: one table (name → when → verb) for APScheduler.

Owns: the table and its scheduler. A verb's known failures (the file or the cluster is unavailable) are logged, and it
is tried again at the next time; any other exception is a defect and ends the process.

APScheduler uses the wall clock. If the clock is set back, nothing would run for as long. If it is set forward by a
year, APScheduler would count every missed time of that year. So the next time is always computed from now, and again
when the clock jumps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta

import apscheduler.executors.asyncio  # noqa: F401 - else it is imported when the schedule starts, which may find no free descriptor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.base import STATE_RUNNING
from apscheduler.triggers.base import BaseTrigger

from stackd.clock import boottime
from stackd.errors import StackdError
from stackd.tasks import Tasks
from stackd.timing import CLOCK_SET_SECONDS

log = logging.getLogger(__name__)

CHECK_CLOCK_SECONDS = 1.0

Table = Mapping[str, tuple[float, Callable[[], Awaitable[object]]]]
"""By name: every how many seconds, and the verb."""


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """A trigger that fires ``seconds`` from now, whatever the time is."""

    def __init__(self, seconds: float) -> None:
        self.interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        return now + self.interval


class Schedule:
    """The table at work."""

    def __init__(self, table: Table, tasks: Tasks) -> None:
        self._every = {name: every for name, (every, _) in table.items()}
        self._verbs = {name: verb for name, (_, verb) in table.items()}
        self._tasks = tasks
        self._ahead = 0.0
        # In UTC: otherwise APScheduler looks up the machine's time zone, and not every value of TZ is found.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Begin; the first time of each entry is one interval from now."""
        self._ahead = _ahead()  # before the first times are computed: the clock may be set from here on
        for name, every in self._every.items():
            self._scheduler.add_job(self._due, Every(every), args=[name], id=name, name=name)
        self._scheduler.start()

    def change(self, name: str, every: float) -> None:
        self._every[name] = every
        if self._scheduler.running:
            self._scheduler.reschedule_job(name, trigger=Every(every))

    async def follow_clock(self) -> None:
        """The service that notices when the wall clock is set after the start, and computes all times again."""
        while True:
            await asyncio.sleep(CHECK_CLOCK_SECONDS)
            before, self._ahead = self._ahead, _ahead()
            if abs(self._ahead - before) >= CLOCK_SET_SECONDS:
                log.warning("the wall clock was set by %+.1f s", self._ahead - before)
                for name, every in self._every.items():
                    self.change(name, every)
            self._scheduler.wakeup()  # in case the clock was set and corrected between two checks

    async def now(self, name: str) -> None:
        try:
            await self._verbs[name]()
        except StackdError as error:
            log.warning("%s: %s", name, error)
        except Exception as error:  # noqa: BLE001 - a defect: it ends the process
            self._tasks.fail(name, error)

    def stop(self) -> None:
        """Start no more runs; those under way go on. (APScheduler's shutdown would cancel them and log an error.)"""
        if self._scheduler.running:
            self._scheduler.pause()

    async def _due(self, name: str) -> None:
        """Run the entry in a background task, so that a graceful stop can wait for it; not if it has begun already."""
        if self._scheduler.state != STATE_RUNNING:
            return
        try:
            await self._tasks.spawn(name, self.now(name))
        except asyncio.CancelledError:
            log.debug("%s: cut short by the stop", name)


def _ahead() -> float:
    return time.time() - boottime()
