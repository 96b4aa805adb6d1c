"""Delete the ids of a batch job, one after the other or a few at a time, each counted once (invariant 7).

Owns: the walk through one job. Intents are committed a chunk ahead; what the cluster has confirmed is counted together
with the removal of its row, in one transaction, while the next delete is already under way.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import StackdError
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.retire import clear
from stackd.lifecycle.room import Room
from stackd.model import ItemResult, Outcome, Stack

log = logging.getLogger(__name__)

CHUNK = 50
"""How many ids are begun, and counted, in one transaction."""

COUNT_EVERY_SECONDS = 0.5
"""Progress is written at least this often while a slow cluster works through a chunk."""


async def run_job(room: Room, job_id: str) -> None:
    """Go through all ids of the job that have no outcome yet, and leave it finished.

    Raises StoreUnavailable; then the job goes on from where it was when it is run again.
    """
    while ids := await room.store.pending_items(job_id, CHUNK):
        stacks = await room.store.begin_items(job_id, ids)
        reached("batch.begun")
        for stack in stacks:
            room.abandon_create(stack.stack_id)
        await _delete_all(room, job_id, stacks)
    job = room.store.jobs.get(job_id)
    if job is not None:
        log.info(
            "%s: %s: %d deleted, %d not found, %d failed of %d",
            job_id, job.status, job.deleted, job.not_found, job.failed, job.total,
            extra={"job_id": job_id},
        )  # fmt: skip


async def _delete_all(room: Room, job_id: str, stacks: list[Stack]) -> None:
    tally = _Tally(room, job_id)
    slots = asyncio.Semaphore(room.config.batch_delete.concurrency)

    async def one(stack: Stack) -> None:
        try:
            result = await _delete_one(room, stack)
            tally.add(result)
            said = {"stack_id": stack.stack_id, "job_id": job_id}
            why = result.error and f": {result.error}"
            log.info("%s: %s by %s%s", stack.stack_id, result.outcome, job_id, why, extra=said)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for stack in stacks:
            await slots.acquire()
            group.create_task(one(stack), name=f"batch {stack.stack_id}")
    await tally.count()


async def _delete_one(room: Room, stack: Stack) -> ItemResult:
    stack_id = stack.stack_id
    async with room.locks.of(stack_id):
        current = room.store.stacks.get(stack_id)
        try:
            if current is not None:
                await clear(room, current)
        except StackdError as error:
            room.retirement.add(stack_id)
            return ItemResult(stack_id=stack_id, outcome=Outcome.FAILED, error=f"delete pod/service failed: {error}")
    reached("batch.confirmed")
    return ItemResult(stack_id=stack_id, outcome=Outcome.DELETED)


class _Tally:
    """Results on their way into the file: written together, the next delete not waiting for it."""

    def __init__(self, room: Room, job_id: str) -> None:
        self._room = room
        self._job_id = job_id
        self._results: list[ItemResult] = []
        self._written = room.clock.monotonic()
        self._writing: asyncio.Task[None] | None = None

    def add(self, result: ItemResult) -> None:
        self._results.append(result)
        now = self._room.clock.monotonic()
        if now - self._written >= COUNT_EVERY_SECONDS and (self._writing is None or self._writing.done()):
            self._written = now
            self._writing = self._room.tasks.errand(f"count {self._job_id}", self._write())

    async def count(self) -> None:
        if self._writing is not None:
            await self._writing
        await self._write()

    async def _write(self) -> None:
        results, self._results = self._results, []
        if not results:
            return
        try:
            await self._room.store.finish_items(self._job_id, results)
        except BaseException:
            self._results = results + self._results
            raise
        reached("batch.counted")
