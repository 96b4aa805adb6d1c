"""The in-process queue of batch-delete jobs, and the worker that drains it.

Owns: which job is next. The jobs themselves, and how far each has come, are in the file: a job that was cut short by the
end of the process is queued again at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from stackd.errors import StoreUnavailable
from stackd.lifecycle.batch import run_job
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.room import Room, new_id
from stackd.model import Job
from stackd.store import Claim

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class BatchQueue:
    """The jobs that wait for the worker, oldest first."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._waiting: asyncio.Queue[str] = asyncio.Queue()

    def __len__(self) -> int:
        return self._waiting.qsize()

    async def submit(
        self,
        ids: list[str],
        claim: Claim | None = None,
        answer: Callable[[Job], bytes] | None = None,
        *,
        by: str = "stackd",
    ) -> Job:
        """Accept a job: it is in the file when this returns, and will be worked off whatever happens.

        Goes on if the caller leaves, so that what is in the file is in the queue as well. Raises StoreUnavailable.
        """
        job_id = new_id("job")
        made = self._room.store.create_job(job_id, ids, claim=claim, answer=answer, by=by)
        return await asyncio.shield(self._room.tasks.errand(f"queue {job_id}", self._submit(made)))

    async def _submit(self, made: Coroutine[Any, Any, Job]) -> Job:
        job = await made
        reached("batch.queued")
        self._waiting.put_nowait(job.job_id)
        log.info("%s: queued, %d stacks", job.job_id, job.total, extra={"job_id": job.job_id})
        return job

    async def run(self) -> None:
        """The worker service: first the jobs that an earlier process left unfinished, then what comes, for ever."""
        for job in self._room.store.jobs.unfinished():
            self._waiting.put_nowait(job.job_id)
        while True:
            job_id = await self._waiting.get()
            await self._work(job_id)

    async def _work(self, job_id: str) -> None:
        while True:
            try:
                await run_job(self._room, job_id)
            except StoreUnavailable as error:
                log.warning("%s: cannot go on now: %s", job_id, error, extra={"job_id": job_id})
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
