"""Delete the ids of a batch job, one by one or a few at a time, each counted once (invariant 7).

Owns: the walk through one job. Intents are committed a chunk ahead; what the cluster has confirmed is counted together
with the removal of its row, in one transaction, while the next delete is already under way. What a job has begun is its own
(``Context.being_deleted``) until it has an outcome, so that nobody else deletes it, and more at once than is wanted.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import StackdError, told
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.delete import delete_objects
from stackd.model import DeleteOutcome, ItemResult, Stack

log = logging.getLogger(__name__)

CHUNK = 50
"""How many ids are begun, and counted, in one transaction."""

COUNT_EVERY_SECONDS = 0.5
"""Progress is written at least this often while a slow cluster works through a chunk."""


async def run_job(context: Context, job_id: str) -> None:
    """Go through all ids of the job that have no outcome yet, and leave it finished.

    Raises StoreUnavailable; then the job goes on from where it was when it is run again.
    """
    while ids := await context.store.jobs.pending_items(job_id, CHUNK):
        context.being_deleted.update(ids)  # before the intents are committed, for a pass may come before this goes on
        stacks = await context.store.jobs.begin_items(job_id, ids)
        reached("batch.begun")
        for stack in stacks:
            context.abandon_create(stack.stack_id)
        await _delete_all(context, job_id, stacks)
        context.being_deleted.difference_update(ids)
    job = context.store.jobs.get(job_id)
    if job is not None:
        log.info(
            "%s: %s: %d deleted, %d not found, %d failed of %d",
            job_id, job.status, job.deleted, job.not_found, job.failed, job.total,
            extra={"job_id": job_id},
        )  # fmt: skip


async def _delete_all(context: Context, job_id: str, stacks: list[Stack]) -> None:
    tally = _Tally(context, job_id)
    slots = asyncio.Semaphore(context.config.batch_delete.concurrency)

    async def one(stack: Stack) -> None:
        try:
            result = await _delete_one(context, stack)
            tally.add(result)
            extra = {"stack_id": stack.stack_id, "job_id": job_id}
            why = result.error and f": {result.error}"
            log.info("%s: %s by %s%s", stack.stack_id, result.outcome, job_id, why, extra=extra)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for stack in stacks:
            await slots.acquire()
            group.create_task(one(stack), name=f"batch {stack.stack_id}")
    await tally.count()


async def _delete_one(context: Context, stack: Stack) -> ItemResult:
    stack_id = stack.stack_id
    async with context.locks.of(stack_id):
        current = context.store.stacks.get(stack_id)
        try:
            if current is not None:
                await delete_objects(context, current)
        except StackdError as error:
            context.being_deleted.discard(stack_id)
            context.removals.retry(stack_id)
            return ItemResult(
                stack_id=stack_id, outcome=DeleteOutcome.FAILED, error=f"delete pod/service failed: {told(error)}"
            )
    reached("batch.confirmed")
    return ItemResult(stack_id=stack_id, outcome=DeleteOutcome.DELETED)


class _Tally:
    """Results on their way into the file: written together, the next delete not waiting for it."""

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
        reached("batch.counted")
