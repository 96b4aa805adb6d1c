"""What happens at intervals: one table (name → when → verb) for APScheduler.

Owns: the table and its scheduler. A verb's known failures (the file or the cluster is away) are said and tried again at
the next time; anything else is a defect and ends the process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from stackd.errors import StackdError
from stackd.tasks import Tasks

log = logging.getLogger(__name__)

EXPIRE_SECONDS = 1.0
PURGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the table; ``every`` in seconds."""

    name: str
    every: float
    verb: Callable[[], Awaitable[object]]


class Schedule:
    """The table at work."""

    def __init__(self, entries: list[Entry], tasks: Tasks) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._tasks = tasks
        self._scheduler = AsyncIOScheduler(
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def start(self) -> None:
        """Begin; the first time of each entry is one interval from now."""
        for entry in self._entries.values():
            trigger = IntervalTrigger(seconds=entry.every)
            self._scheduler.add_job(self._run, trigger, args=[entry], id=entry.name, name=entry.name)
        self._scheduler.start()

    def change(self, name: str, every: float) -> None:
        """Change an interval, in seconds, from now on."""
        self._scheduler.reschedule_job(name, trigger=IntervalTrigger(seconds=every))

    async def now(self, name: str) -> None:
        """Do what an entry does, once and at once."""
        await self._run(self._entries[name])

    def stop(self) -> None:
        """End; what runs goes on."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _run(self, entry: Entry) -> None:
        try:
            await entry.verb()
        except StackdError as error:
            log.warning("%s: %s", entry.name, error)
        except Exception as error:
            self._tasks.fail(entry.name, error)
