"""What happens at intervals: one table (name → when → verb) for APScheduler.

Owns: the table and its scheduler. A verb's known failures (the file or the cluster is away) are said and tried again at
the next time; anything else is a defect and ends the process.

APScheduler goes by the wall clock, and that may be set: back, and nothing would be due for as long; forward by a year, and
each of a year's missed times would be counted. So the next time is always reckoned from now, and again when the clock jumps.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from stackd.errors import StackdError
from stackd.tasks import Tasks

log = logging.getLogger(__name__)

EXPIRE_SECONDS = 1.0
PURGE_SECONDS = 60.0
QUOTAS_SECONDS = 20.0
CHECK_CLOCK_SECONDS = 1.0
JUMP_SECONDS = 0.5
"""The wall clock and the monotonic one drift apart by less than that between two checks, unless the former is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table; ``every`` in seconds."""

    name: str
    every: float
    verb: Callable[[], Awaitable[object]]


class Every(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """``seconds`` from whatever time it is now."""

    def __init__(self, seconds: float) -> None:
        self.interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        """The next time, for APScheduler."""
        return now + self.interval


class Schedule:
    """The table at work."""

    def __init__(self, entries: list[Entry], tasks: Tasks) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._every = {entry.name: entry.every for entry in entries}
        self._tasks = tasks
        self._ahead = 0.0
        # In UTC: the machine's time zone would be looked up, and not every one that TZ may name is found.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Begin; the first time of each entry is one interval from now."""
        self._ahead = _ahead()  # before the first times are reckoned: the clock may be set from here on
        for entry in self._entries.values():
            trigger = Every(self._every[entry.name])
            self._scheduler.add_job(self._due, trigger, args=[entry], id=entry.name, name=entry.name)
        self._scheduler.start()

    def change(self, name: str, every: float) -> None:
        """Change an interval, in seconds, from now on."""
        self._every[name] = every
        if self._scheduler.running:
            self._scheduler.reschedule_job(name, trigger=Every(every))

    async def follow_clock(self) -> None:
        """The service that notices when the wall clock is set after the start, and reckons all times anew."""
        while True:
            await asyncio.sleep(CHECK_CLOCK_SECONDS)
            before, self._ahead = self._ahead, _ahead()
            if abs(self._ahead - before) >= JUMP_SECONDS:
                log.warning("the wall clock was set by %+.1f s", self._ahead - before)
                for name, every in self._every.items():
                    self.change(name, every)
            self._scheduler.wakeup()  # set and put right again between two checks, it may have gone to sleep for long

    async def now(self, name: str) -> None:
        """Do what an entry does, once and at once."""
        await self._run(self._entries[name])

    def stop(self) -> None:
        """End; what runs goes on. (APScheduler's own end would cut it short, and call that an error.)"""
        if self._scheduler.running:
            self._scheduler.pause()

    async def _due(self, entry: Entry) -> None:
        """A background task, so that a graceful stop can wait for it."""
        try:
            await self._tasks.spawn(entry.name, self._run(entry))
        except asyncio.CancelledError:
            log.debug("%s: cut short by the stop", entry.name)

    async def _run(self, entry: Entry) -> None:
        try:
            await entry.verb()
        except StackdError as error:
            log.warning("%s: %s", entry.name, error)
        except Exception as error:  # noqa: BLE001 - a defect: it ends the process
            self._tasks.fail(entry.name, error)


def _ahead() -> float:
    """How far the wall clock is ahead of the monotonic one."""
    return time.time() - time.monotonic()
