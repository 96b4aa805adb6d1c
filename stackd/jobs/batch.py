"""Batch jobs: the in-process queue, the workers that take jobs from it, and how one job is carried out.

Owns: which job is next, and that each id of a job is counted once (invariant 7). Keys take turns, one chunk of a job each:
no key waits for all that another one has queued. The jobs and their progress are in the file: a job that the end of the
process interrupted is queued again at the next start.

What a job does to its stacks is intended one chunk at a time, before any of it begins. A delete that the cluster has
confirmed is counted in the transaction that removes its row, while the next delete is already under way. A job owns the
stacks that it has begun (``Worker.jobs``) until each has an outcome, so that no others are deleted beyond the job's
concurrency.

An extension is done once the file has it, and is counted in that transaction; the queue then brings the records in the
cluster up to date. It needs no cluster, so a job that extends does not wait behind the other jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import zip_longest
from typing import Any

from stackd.crashpoints import crash_point
from stackd.errors import NotOwner, StackdError, StoreUnavailable, public_text
from stackd.lifecycle.context import Context, new_id
from stackd.lifecycle.diagnostics import capture_logs
from stackd.lifecycle.verbs import settle, start_of
from stackd.lifecycle.worker import Priority
from stackd.logs import stack_log
from stackd.model import EventKind, ItemResult, Job, JobAction, JobRequest, Outcome, Stack
from stackd.store import BY_JOB, Claim, Start

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0  # when to go on with a job after the file could not be written
CHUNK = 50  # how many ids of a job are begun, and counted, in one transaction
EXTEND_PAUSE_SECONDS, RECORD_EVERY_SECONDS = 0.05, 0.01
"""A job that extends pauses after each chunk, and the records of what it has extended are written one after the other,
so that creates are hardly slower meanwhile."""

AT_ONCE = 8
"""How many stacks of a job are restarted, started or stopped at a time, and begun in one transaction: a stack that
waits for its turn keeps its pod and its address."""

STARTS = {JobAction.RESTART: EventKind.RESTART_REQUESTED, JobAction.START: EventKind.START_REQUESTED}

KEYS_AT_ONCE = 4
"""The jobs of so many keys run at the same time, so that a stack that takes long delays its own key only."""

COUNT_EVERY_SECONDS = 0.5  # a job's progress is written at least this often while a slow cluster works through a chunk


class Turns:
    """The jobs that wait, by the key that submitted them: keys take turns, and the jobs of one key run one after the other.

    A key has no second turn while it has one, and whoever has its turn calls ``end``.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, deque[str]] = {}
        self._keys: asyncio.Queue[str] = asyncio.Queue()

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def put(self, job: Job) -> None:
        """Add a job behind the others of its key."""
        if job.by not in self._jobs:
            self._jobs[job.by] = deque()
            self._keys.put_nowait(job.by)
        self._jobs[job.by].append(job.job_id)

    async def next(self) -> tuple[str, str]:
        """The key that waits longest, and its oldest job."""
        key = await self._keys.get()
        return key, self._jobs[key][0]

    def end(self, key: str, *, finished: bool) -> None:
        """End the key's turn, in which its oldest job has perhaps finished."""
        if finished:
            self._jobs[key].popleft()
        if self._jobs[key]:
            self._keys.put_nowait(key)
        else:
            del self._jobs[key]


class BatchQueue:
    """The jobs that wait for a worker; those that extend have a worker of their own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting, self._extending = Turns(), Turns()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._extending)

    def _put(self, job: Job) -> None:
        (self._extending if job.action is JobAction.EXTEND else self._waiting).put(job)

    async def submit(
        self,
        ids: list[str],
        request: JobRequest,
        claim: Claim | None = None,
        answer: Callable[[Job], bytes] | None = None,
    ) -> Job:
        """Accept a job: it is in the file when this returns, and will be carried out whatever happens. Goes on if the
        caller leaves, so that a job in the file is also in the queue. Raises StoreUnavailable, NotOwner."""
        self._context.fence.require()
        job_id = new_id("job")
        writing = self._context.store.jobs.create(job_id, ids, request, claim=claim, answer=answer)
        return await self._context.tasks.run(f"queue {job_id}", self._submit(writing))

    async def _submit(self, writing: Coroutine[Any, Any, Job]) -> Job:
        job = await writing
        crash_point("batch.queued")
        self._put(job)
        log.info("%s: queued, %s %d stacks", job.job_id, job.action, job.total, extra={"job_id": job.job_id})
        return job

    async def run(self) -> None:
        """The worker service: first the jobs that an earlier process left unfinished, then new ones; runs for ever."""
        for job in self._context.store.jobs.unfinished():
            self._put(job)
        async with asyncio.TaskGroup() as group:
            for turns in (*[self._waiting] * KEYS_AT_ONCE, self._extending):
                group.create_task(self._serve(turns), name="batch jobs")

    async def _serve(self, turns: Turns) -> None:
        while True:
            key, job_id = await turns.next()
            finished = False
            try:
                finished = await run_chunk(self._context, job_id)
            except (StoreUnavailable, NotOwner) as error:
                log.warning("%s: cannot go on now: %s", job_id, error, extra={"job_id": job_id})
                await asyncio.sleep(RETRY_SECONDS)
            turns.end(key, finished=finished)


async def run_chunk(context: Context, job_id: str) -> bool:
    """Process the next ids of the job that have no outcome yet; True once the job has finished. Raises StoreUnavailable,
    NotOwner; the next call then continues from there."""
    job = context.store.jobs.get(job_id)
    if job is None:
        return True
    chunk = CHUNK if job.action in (JobAction.DELETE, JobAction.EXTEND) else AT_ONCE
    if ids := await context.store.jobs.pending_items(job_id, chunk):
        context.fence.require()
        await (_extend_chunk if job.action is JobAction.EXTEND else _run_chunk)(context, job, ids)
        job = context.store.jobs.get(job_id)
    if job is None or not job.finished:
        return job is None
    log.info(
        "%s: %s: %s: %d done, %d not found, %d failed of %d",
        job_id, job.status, job.action, job.done, job.not_found, job.failed, job.total,
        extra={"job_id": job_id},
    )  # fmt: skip
    return True


async def _extend_chunk(context: Context, job: Job, ids: list[str]) -> None:
    stacks = await context.store.jobs.begin_items(job.job_id, ids, longest=context.longest_life)
    crash_point("batch.begun")
    for stack in stacks:
        stack_log(log, stack.stack_id, job_id=job.job_id).info("extended by %s", job.job_id)
        context.worker.wake(stack.stack_id, Priority.EXPIRY, delay=len(context.worker) * RECORD_EVERY_SECONDS)
    await asyncio.sleep(EXTEND_PAUSE_SECONDS)


async def _run_chunk(context: Context, job: Job, ids: list[str]) -> None:
    starts: dict[str, Start | StackdError] = {}  # how each of these stacks is to start, or why it cannot start now
    for stack in filter(None, map(context.store.assigned.get, ids if job.action in STARTS else ())):
        try:
            await context.gate.admitted()
            starts[stack.stack_id] = await start_of(context, stack, STARTS[job.action], job.by, BY_JOB)
        except StackdError as error:
            starts[stack.stack_id] = error
    context.worker.jobs.update(ids)  # before the intents are committed: a pass may run before this task continues
    try:
        stacks = await context.store.jobs.begin_items(job.job_id, ids, starts=starts)
        crash_point("batch.begun")
        await _work_on(context, job, stacks)
    finally:  # the next try gets only those that have no outcome in the file
        context.worker.jobs.difference_update(ids)


async def _work_on(context: Context, job: Job, stacks: list[Stack]) -> None:
    progress, deletes = _JobProgress(context, job.job_id), job.action is JobAction.DELETE
    slots = asyncio.Semaphore(context.config.batch_delete.concurrency if deletes else AT_ONCE)

    async def one(stack_id: str) -> None:
        try:
            result = await _one(context, job.action, stack_id)
            progress.add(result)
            why = result.error and f": {result.error}"
            what = "deleted" if deletes and result.outcome is Outcome.DONE else f"{job.action} {result.outcome}"
            stack_log(log, stack_id, job_id=job.job_id).info("%s by %s%s", what, job.job_id, why)
        finally:
            slots.release()

    if deletes:
        for stack in stacks:
            context.abandon_create(stack.stack_id)
        for first in stacks[:1]:
            capture_logs(context, first.stack_id)
    async with asyncio.TaskGroup() as group:
        for stack, following in zip_longest(stacks, stacks[1:]):
            await slots.acquire()
            group.create_task(one(stack.stack_id), name=f"batch {stack.stack_id}")
            if deletes and following is not None:
                capture_logs(context, following.stack_id)  # while its pod still runs
    await progress.count()


async def _one(context: Context, action: JobAction, stack_id: str) -> ItemResult:
    try:
        if action is JobAction.DELETE:
            await context.settle(stack_id)
        else:
            await settle(context, stack_id, "stopped" if action is JobAction.STOP else "started")
    except StackdError as error:
        context.worker.jobs.discard(stack_id)
        why = "delete pod/service failed: " if action is JobAction.DELETE else ""
        return ItemResult(stack_id=stack_id, outcome=Outcome.FAILED, error=why + public_text(error))
    crash_point("batch.confirmed")
    gone = action is not JobAction.DELETE and stack_id not in context.store.stacks
    return ItemResult(stack_id=stack_id, outcome=Outcome.NOT_FOUND if gone else Outcome.DONE)


class _JobProgress:
    """Collects results and writes them together; the next delete does not wait for the write.

    Results that cannot be written are found again: their ids stay without an outcome, and the job goes on with those.
    """

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
        if results:
            await self._context.store.jobs.finish_items(self._job_id, results)
            crash_point("batch.counted")
