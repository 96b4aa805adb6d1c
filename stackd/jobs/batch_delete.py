"""Batch-delete jobs: the in-process queue, the worker that takes jobs from it, and how one job is carried out.

Owns: which job is next, and that each id of a job is counted once (invariant 7). The jobs and their progress are in the
file: a job that the end of the process interrupted is queued again at the next start.

The deletes of a job are intended one chunk at a time, before any of them begins. A delete that the cluster has
confirmed is counted in the transaction that removes its row, while the next delete is already under way. A job owns the
stacks that it has begun (``Worker.jobs``) until each has an outcome, so that no others are deleted beyond the job's
concurrency.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from itertools import zip_longest
from typing import Any

from stackd.errors import StackdError, StoreUnavailable, public_text
from stackd.lifecycle.context import Context, new_id
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.diagnostics import capture_logs
from stackd.logs import stack_log
from stackd.model import DeleteOutcome, ItemResult, Job, Stack
from stackd.store import Claim

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""When to go on with a job after the file could not be written."""

CHUNK = 50
"""How many ids of a job are begun, and counted, in one transaction."""

COUNT_EVERY_SECONDS = 0.5
"""A job's progress is written at least this often while a slow cluster works through a chunk."""


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
        crash_point("batch.queued")
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


async def run_job(context: Context, job_id: str) -> None:
    """Process all ids of the job that have no outcome yet, and leave the job finished.

    Raises StoreUnavailable; the next run of the job then continues from there.
    """
    while ids := await context.store.jobs.pending_items(job_id, CHUNK):
        context.worker.jobs.update(ids)  # before the intents are committed: a pass may run before this task continues
        stacks = await context.store.jobs.begin_items(job_id, ids)
        crash_point("batch.begun")
        for stack in stacks:
            context.abandon_create(stack.stack_id)
        await _delete_chunk(context, job_id, stacks)
        context.worker.jobs.difference_update(ids)
    job = context.store.jobs.get(job_id)
    if job is not None:
        log.info(
            "%s: %s: %d deleted, %d not found, %d failed of %d",
            job_id, job.status, job.deleted, job.not_found, job.failed, job.total,
            extra={"job_id": job_id},
        )  # fmt: skip


async def _delete_chunk(context: Context, job_id: str, stacks: list[Stack]) -> None:
    progress = _JobProgress(context, job_id)
    slots = asyncio.Semaphore(context.config.batch_delete.concurrency)

    async def one(stack: Stack) -> None:
        try:
            result = await _delete_one(context, stack)
            progress.add(result)
            why = result.error and f": {result.error}"
            stack_log(log, stack.stack_id, job_id=job_id).info("%s by %s%s", result.outcome, job_id, why)
        finally:
            slots.release()

    for first in stacks[:1]:
        capture_logs(context, first.stack_id)
    async with asyncio.TaskGroup() as group:
        for stack, following in zip_longest(stacks, stacks[1:]):
            await slots.acquire()
            group.create_task(one(stack), name=f"batch {stack.stack_id}")
            if following is not None:
                capture_logs(context, following.stack_id)  # while its pod still runs
    await progress.count()


async def _delete_one(context: Context, stack: Stack) -> ItemResult:
    stack_id = stack.stack_id
    try:
        await context.settle(stack_id)
    except StackdError as error:
        context.worker.jobs.discard(stack_id)
        return ItemResult(
            stack_id=stack_id, outcome=DeleteOutcome.FAILED, error=f"delete pod/service failed: {public_text(error)}"
        )
    crash_point("batch.confirmed")
    return ItemResult(stack_id=stack_id, outcome=DeleteOutcome.DELETED)


class _JobProgress:
    """Collects results and writes them together; the next delete does not wait for the write."""

    def __init__(self, context: Context, job_id: str) -> None:
        self._context = context
        self._job_id = job_id
        self._results: list[ItemResult] = []
        self._written = context.clock.monotonic()
        self._writing: asyncio.Task[None] | None = None

    def add(self, result: ItemResult) -> None:
        self._results.append(result)
        now = self._context.clock.monotonic()
        if now - self._written >= COUNT_EVERY_SECONDS and (self._writing is None or self._writing.done()):
            self._written = now
            self._writing = self._context.tasks.spawn(f"count {self._job_id}", self._write())

    async def count(self) -> None:
        if self._writing is not None:
            await self._writing
        await self._write()

    async def _write(self) -> None:
        results, self._results = self._results, []
        if not results:
            return
        try:
            await self._context.store.jobs.finish_items(self._job_id, results)
        except BaseException:
            self._results = results + self._results
            raise
        crash_point("batch.counted")
