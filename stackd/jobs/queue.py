"""The in-process queue of batch-delete jobs, and the worker that drains it.

Owns: which job is next. The jobs and their progress are in the file: a job that the end of the process interrupted is
queued again at the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from stackd.errors import StoreUnavailable
from stackd.lifecycle.context import Context, new_id
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.delete import run_job
from stackd.model import Job
from stackd.store import Claim

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0


class BatchQueue:
    """The jobs that wait for the worker, oldest first."""

    def __init__(self, context: Context) -> None:
        self._context = context
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
        """Accept a job: it is in the file when this returns, and will be carried out whatever happens.

        Goes on if the caller leaves, so that a job in the file is also in the queue. Raises StoreUnavailable, NotOwner.
        """
        self._context.fence.require()
        job_id = new_id("job")
        writing = self._context.store.jobs.create(job_id, ids, claim=claim, answer=answer, by=by)
        return await self._context.tasks.result_of(self._context.tasks.spawn(f"queue {job_id}", self._submit(writing)))

    async def _submit(self, writing: Coroutine[Any, Any, Job]) -> Job:
        job = await writing
        reached("batch.queued")
        self._waiting.put_nowait(job.job_id)
        log.info("%s: queued, %d stacks", job.job_id, job.total, extra={"job_id": job.job_id})
        return job

    async def run(self) -> None:
        """The worker service: first the jobs that an earlier process left unfinished, then new ones; runs for ever."""
        for job in self._context.store.jobs.unfinished():
            self._waiting.put_nowait(job.job_id)
        while True:
            job_id = await self._waiting.get()
            await self._work(job_id)

    async def _work(self, job_id: str) -> None:
        while True:
            try:
                await run_job(self._context, job_id)
            except StoreUnavailable as error:
                log.warning("%s: cannot go on now: %s", job_id, error, extra={"job_id": job_id})
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return
