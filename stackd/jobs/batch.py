"""Batch jobs: whose turn it is, and how one job is carried out.

Owns: which job is next, and that each id of a job is counted once (invariant 7). Keys take turns, one chunk of a job each:
no key waits for all that another one has queued. The jobs and their progress are in the file: a job that the end of the
process interrupted is queued again at the next start.

A job commits what it wishes for its stacks, so many at a time, and waits for their rows; the loop does the work, and tries it
again. An id has its outcome once its row says so, or once something about its stack keeps it from being done: the cluster
refuses, or something holds it up. Kubernetes that is away, a Lease that lapses, a brake and a stop leave it without one.

A job that deletes takes one stack after the other, by default: each is to be deleted once it is its turn. What the cluster has
confirmed is counted a moment later, with others. After a crash in between, an id that was begun and has no row counts as
deleted.

A job that extends writes all new ends into the file first, even while Kubernetes is away, so that none of its stacks
expires. An extension is counted once the cluster's record has it, too: an owner with another file reads it there. Such a
job does not wait behind the other jobs.

A job that creates has no ids yet: ``creating`` makes its stacks, each once. A create that nothing about itself has ended is
undone, and made when it is the key's turn again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

from stackd.crashpoints import crash_point
from stackd.errors import Conflict, StackdError, StackNotFound, public_code, public_text
from stackd.jobs.creating import CREATES_AT_ONCE, created
from stackd.jobs.outcomes import Outcomes
from stackd.lifecycle.context import Context, new_id
from stackd.lifecycle.diagnostics import capture_logs
from stackd.lifecycle.loop import Priority, is_gone
from stackd.lifecycle.verbs import is_started, is_stopped, newest_of, record, start_of, until_done
from stackd.logs import stack_log
from stackd.model import (
    DeleteReason,
    EventKind,
    ItemResult,
    Job,
    JobAction,
    JobRequest,
    JobStatus,
    Outcome,
    Stack,
    WantedStack,
)
from stackd.store import BY_JOB, Claim, Start
from stackd.tasks import Waiters, set_within
from stackd.timing import COUNT_EVERY_SECONDS, JOB_RETRIES
from stackd.workqueue import WorkQueue

log = logging.getLogger(__name__)

CHUNK = 50  # how many ids of a job are begun, and counted, in one transaction
EXTEND_PAUSE_SECONDS, RECORD_EVERY_SECONDS, RECORDS_AT_ONCE = 0.05, 0.01, 4
"""A job that extends pauses after each chunk, and writes so many records into the cluster at a time, so often, so that
creates are hardly slower meanwhile."""

AT_ONCE = 8
"""How many stacks of a job are restarted, started or stopped at a time, and begun in one transaction: a stack that
waits for its turn keeps its pod and its address."""

STARTS = {
    JobAction.RESTART: EventKind.RESTART_REQUESTED,
    JobAction.RENEW: EventKind.RESTART_REQUESTED,
    JobAction.START: EventKind.START_REQUESTED,
}

KEYS_AT_ONCE = 4
"""The jobs of so many keys run at the same time, so that a stack that takes long delays its own key only."""


class Turns:
    """The jobs that wait, by the key that submitted them: keys take turns, a chunk of the oldest job each, and so many at the
    same time. What cannot go on now, the work queue tries again."""

    def __init__(self, context: Context, run: Callable[[Context, str], Awaitable[bool]], at_once: int) -> None:
        self._context, self._run, self._slots = context, run, asyncio.Semaphore(at_once)
        self._jobs: dict[str, deque[str]] = {}
        self.queue: WorkQueue[str] = WorkQueue("jobs of", context.tasks, JOB_RETRIES, may_be_cut=True)

    def __len__(self) -> int:
        return sum(map(len, self._jobs.values()))

    def add(self, job: Job) -> None:
        self._jobs.setdefault(job.by.id, deque()).append(job.job_id)
        self.queue.add(job.by.id)

    def start(self) -> None:
        self.queue.start(self._work, self._failed)

    async def _work(self, key: str) -> None:
        jobs = self._jobs[key]
        async with self._slots:
            if await self._run(self._context, jobs[0]):
                jobs.popleft()
        if jobs:
            self.queue.add(key)
        else:
            del self._jobs[key]

    def _failed(self, key: str, error: StackdError, _: float | None) -> None:
        job_id = self._jobs[key][0]
        extra = {"job_id": job_id, "same": f"{job_id} waits"}
        log.warning("%s: cannot go on now: %s", job_id, error, extra=extra)


class BatchQueue:
    """The jobs that are not finished. Those that extend have turns of their own: for the file, which does not wait for the
    cluster, and for the records."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting, self._recording = (Turns(context, run_chunk, KEYS_AT_ONCE) for _ in range(2))
        self._extending = Turns(context, self._extend, 1)
        context.cluster.connection.contact.subscribe(self._contact_changed)
        self.outcomes = Outcomes(context)
        self.waiters: Waiters[Job] = Waiters()
        context.store.jobs.subscribe(self._changed)

    def _changed(self, before: Job | None, job: Job | None) -> None:
        """Wake who waits for the job (a subscriber of the store)."""
        if changed := job or before:
            self.waiters.wake(changed.job_id, job)

    async def until(self, job: Job, statuses: Collection[JobStatus], timeout: float) -> Job:
        """The job as soon as it has one of these statuses or has finished; after ``timeout`` seconds, as it is."""

        def reached(now: Job | None) -> Job | None:
            seen = now or job  # else it was purged
            return seen if now is None or seen.status in statuses or seen.finished else None

        def current() -> Job | None:
            return self._context.store.jobs.get(job.job_id)

        try:
            return await self.waiters.until(job.job_id, reached, current, timeout)
        except TimeoutError:
            return current() or job

    def __len__(self) -> int:
        return sum(map(len, self._all))

    def _enqueue(self, job: Job) -> None:
        (self._extending if job.action is JobAction.EXTEND else self._waiting).add(job)

    async def submit(self, ids: list[str], request: JobRequest, claim: Claim | None = None) -> Job:
        """Accept a job: it is in the file when this returns, and will be carried out whatever happens. Goes on if the
        caller leaves, so that a job in the file is also in the queue. Raises StoreUnavailable, NotOwner,
        TooManyRequests."""
        self._context.fence.require()
        job_id = new_id("job")
        writing = self._context.store.jobs.create(job_id, ids, request, claim=claim)
        return await self._context.tasks.run(f"queue {job_id}", self._submit(writing))

    async def _submit(self, writing: Coroutine[Any, Any, Job]) -> Job:
        job = await writing
        crash_point("batch.queued")
        if not job.finished:
            self._enqueue(job)
        log.info("%s: %s, %s %d stacks", job.job_id, job.status, job.action, job.total, extra={"job_id": job.job_id})
        return job

    def start(self) -> None:
        """Carry out the jobs that an earlier process left unfinished, and then new ones."""
        for job in self._context.store.jobs.unfinished():
            self._enqueue(job)
        for turns in self._all:
            turns.start()

    @property
    def _all(self) -> tuple[Turns, ...]:
        return self._waiting, self._extending, self._recording

    def _contact_changed(self, lost: bool) -> None:
        if not lost:
            for turns in self._all:
                turns.queue.retry_all()

    async def _extend(self, context: Context, job_id: str) -> bool:
        extended = await extend_chunk(context, job_id)
        if extended and (job := context.store.jobs.get(job_id)) is not None:
            self._recording.add(job)
        return extended


async def run_chunk(context: Context, job_id: str) -> bool:
    """Process the next ids of the job that have no outcome yet; True once the job has finished. Raises what keeps
    some of them from having one now; the next call then continues from there."""
    job = context.store.jobs.get(job_id)
    if job is None:
        return True
    chunk = AT_ONCE if job.action in (*STARTS, JobAction.STOP) else CHUNK
    if ids := await context.store.jobs.pending_items(job_id, chunk):
        context.fence.require()
        await _run_chunk(context, job, ids)
        job = context.store.jobs.get(job_id)
    if job is None or not job.finished:
        return job is None
    log.info(
        "%s: %s: %s: %d done, %d not found, %d failed of %d",
        job_id, job.status, job.action, job.done, job.not_found, job.failed, job.total,
        extra={"job_id": job_id},
    )  # fmt: skip
    return True


async def extend_chunk(context: Context, job_id: str) -> bool:
    """Extend the next stacks of the job in the file; True once it has extended all. Raises StoreUnavailable, NotOwner."""
    ids = await context.store.jobs.pending_items(job_id, CHUNK, begun=False)
    if not ids:
        return True
    context.fence.require()
    await context.store.jobs.begin_items(
        job_id, ids, longest=context.longest_life, closes=context.settings.templates.closes
    )
    crash_point("batch.begun")
    await asyncio.sleep(EXTEND_PAUSE_SECONDS)
    return False


async def _run_chunk(context: Context, job: Job, ids: list[str]) -> None:
    if job.action in STARTS or job.action is JobAction.CREATE:
        await context.gate.admitted()
    if job.action is JobAction.CREATE:
        begun: Sequence[Stack | WantedStack] = await context.store.jobs.begin_creates(job.job_id, len(ids))
    else:
        starting = filter(None, map(context.store.assigned.get, ids if job.action in STARTS else ()))
        starts = {stack.stack_id: await _start(context, job, stack) for stack in starting}
        begun = await context.store.jobs.begin_items(
            job.job_id, ids, longest=context.longest_life, closes=context.settings.templates.closes, starts=starts
        )
    crash_point("batch.begun")
    await _work_on(context, job, begun)


async def _start(context: Context, job: Job, stack: Stack) -> Start | StackdError:
    """How the stack is to start, or why it cannot."""
    try:
        template = newest_of(context, stack) if job.action is JobAction.RENEW else None
        return await start_of(context, stack, STARTS[job.action], job.by, BY_JOB, template=template)
    except (Conflict, StackNotFound) as error:
        return error


async def _work_on(context: Context, job: Job, items: Sequence[Stack | WantedStack]) -> None:
    """Wait for the outcomes of these items, and count them. Raises what keeps some from having one."""
    progress, deletes = _Progress(context, job.job_id), job.action is JobAction.DELETE
    at_once = {JobAction.EXTEND: RECORDS_AT_ONCE, JobAction.CREATE: CREATES_AT_ONCE}.get(job.action, AT_ONCE)
    slots = asyncio.Semaphore(context.config.batch_delete.concurrency if deletes else at_once)
    waiting: list[StackdError] = []

    async def one(item: Stack | WantedStack) -> None:
        try:
            result = await _outcome(context, job, item)
            progress.results.append(result)
            why = result.error and f": {result.error}"
            what = "deleted" if deletes and result.outcome is Outcome.DONE else f"{job.action} {result.outcome}"
            of_stack = stack_log(log, result.created or result.stack_id, job_id=job.job_id)
            of_stack.info("%s by %s%s", what, job.job_id, why)
        except StackdError as error:
            waiting.append(error)
        finally:
            slots.release()

    for first in items[:1] if deletes else ():
        capture_logs(context, _id_of(first))
    async with asyncio.TaskGroup() as counting:
        counting.create_task(progress.follow(), name=f"count {job.job_id}")
        async with asyncio.TaskGroup() as group:
            for item, following in zip_longest(items, items[1:]):
                await slots.acquire()
                group.create_task(one(item), name=f"batch {_id_of(item)}")
                if deletes and following is not None:
                    capture_logs(context, _id_of(following))  # while its pod still runs
                if job.action is JobAction.EXTEND:
                    await asyncio.sleep(RECORD_EVERY_SECONDS)
        progress.over.set()
    await progress.count()
    for error in waiting[:1]:
        raise error


def _id_of(item: Stack | WantedStack) -> str:
    return str(item.index) if isinstance(item, WantedStack) else item.stack_id


async def _outcome(context: Context, job: Job, item: Stack | WantedStack) -> ItemResult:
    """What has come of the item. Raises what is not about the item itself: then nothing has yet."""
    stack_id, new_stack = _id_of(item), None
    try:
        if isinstance(item, WantedStack):
            new_stack = await created(context, job, item)
        else:
            await _until_as_wanted(context, job, stack_id)
    except StackNotFound:
        pass
    except StackdError as error:
        if not error.stays:
            raise
        why = "delete pod/service failed: " if job.action is JobAction.DELETE else ""
        return ItemResult(
            stack_id=stack_id, outcome=Outcome.FAILED, error=why + public_text(error), code=public_code(error)
        )
    crash_point("batch.confirmed")
    kept = new_stack is not None or job.action is JobAction.DELETE or stack_id in context.store.stacks
    return ItemResult(stack_id=stack_id, outcome=Outcome.DONE if kept else Outcome.NOT_FOUND, created=new_stack)


async def _until_as_wanted(context: Context, job: Job, stack_id: str) -> None:
    """Return once the stack is as the job wants it. Raises what keeps it from that, and is about the stack itself."""
    if job.action is JobAction.DELETE:
        await context.store.stacks.mark_deleting_soon([stack_id], DeleteReason.BATCH, job.by)
        crash_point("batch.delete_marked")
        context.abandon_create(stack_id)
        await context.loop.reconcile_until(stack_id, is_gone, context.longest_call, Priority.BATCH, patient=True)
    elif job.action is JobAction.EXTEND:
        await record(context, stack_id, patient=True)
    elif job.action is JobAction.STOP:
        await until_done(context, stack_id, "stopped", is_stopped, patient=True)
    else:
        await until_done(context, stack_id, "started", is_started, patient=True)


class _Progress:
    """The ``results`` that are not counted yet; many are written together, and the next delete does not wait for the write."""

    def __init__(self, context: Context, job_id: str) -> None:
        self.results: list[ItemResult] = []
        self.over = asyncio.Event()
        self._context, self._job_id = context, job_id

    async def follow(self) -> None:
        """Count again and again, until it is ``over``."""
        while not await set_within(self.over, COUNT_EVERY_SECONDS):
            with suppress(StackdError):  # those that were not written are found again
                await self.count()

    async def count(self) -> None:
        """Count the results. Raises StoreUnavailable, NotOwner."""
        results, self.results = self.results, []
        if results:
            await self._context.store.jobs.finish_items(self._job_id, results)
            crash_point("batch.counted")
