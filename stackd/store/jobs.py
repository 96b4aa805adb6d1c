"""Batch-delete jobs: in memory for reads, and their operations.

Owns: each id has one outcome, which is counted once (invariant 7). The transaction that writes the outcome increments
the counts; they are never recounted. An id goes from pending to started to its outcome. After a restart the started
ids are processed again; their outcome depends on whether their stacks still have rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from stackd.errors import JobNotFound
from stackd.model import DeleteOutcome, DeleteReason, ItemResult, Job, JobError, JobStatus, Stack
from stackd.store import claims, rows
from stackd.store.claims import Claim
from stackd.store.transaction import Submit, Table, Transaction, id_array, operation

MAX_ERRORS = 100
MAX_ERROR_LENGTH = 512
JobSubscriber = Callable[[str, Job | None], None]


# Each field of a job is a column of the same name, except the errors, which are in the job's items.
_NAMES = tuple(field.name for field in fields(Job) if field.name != "errors")
_COLUMNS = ", ".join(_NAMES)

ALL_JOBS = f"SELECT {_COLUMNS} FROM jobs"
FIND_JOB = f"SELECT {_COLUMNS} FROM jobs WHERE job_id = ?"
INSERT_JOB = f"INSERT INTO jobs ({_COLUMNS}) VALUES (?, ?, ?, 0, 0, 0, ?, ?, ?)"
INSERT_JOB_ITEMS = (
    "INSERT INTO job_items (job_id, seq, stack_id, state) SELECT ?, key, value, 'pending' FROM json_each(?)"
)
# Without this index, each batch would scan all finished items of a long job again.
OPEN_ITEMS = (
    "SELECT stack_id FROM job_items INDEXED BY job_items_open"
    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
)
BEGUN_ITEMS = (
    "SELECT i.stack_id FROM jobs AS j CROSS JOIN job_items AS i INDEXED BY job_items_open ON i.job_id = j.job_id"
    " WHERE j.status IN ('queued', 'running') AND i.state IN ('pending', 'started') AND i.state = 'started'"
)
OPEN_ITEMS_AMONG = (
    "SELECT i.stack_id, i.state FROM json_each(?) AS wanted"
    " CROSS JOIN job_items AS i ON i.job_id = ? AND i.stack_id = wanted.value"
    " WHERE i.state IN ('pending', 'started') ORDER BY i.seq"
)
START_ITEMS = "UPDATE job_items SET state = 'started' WHERE job_id = ? AND stack_id IN (SELECT value FROM json_each(?))"
FINISH_ITEM = "UPDATE job_items SET state = ?, error = ? WHERE job_id = ? AND stack_id = ?"
JOB_ERRORS = (
    "SELECT stack_id, error FROM job_items INDEXED BY job_items_errors"
    " WHERE job_id = ? AND error IS NOT NULL ORDER BY seq"
)
COUNT_OUTCOMES = (
    "UPDATE jobs SET deleted = deleted + :deleted, not_found = not_found + :not_found, failed = failed + :failed,"
    " updated_at = max(updated_at, :now), status = CASE"
    " WHEN deleted + not_found + failed + :deleted + :not_found + :failed < total THEN 'running'"
    " WHEN failed + :failed = total THEN 'failed' ELSE 'completed' END"
    f" WHERE job_id = :job_id RETURNING {_COLUMNS}"
)
PURGE_JOBS = (
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE status IN ('completed', 'failed')"
    " AND updated_at < ? LIMIT ?) RETURNING job_id"
)


def from_row(row: Iterable[object], errors_of: Callable[[str], Iterable[Sequence[str]]]) -> Job:
    """The job of a row; ``errors_of(job_id)`` returns its rows of ``JOB_ERRORS``."""
    found: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    errors = errors_of(found["job_id"]) if found["failed"] else ()
    return Job(
        **found | {"status": JobStatus(found["status"])},
        errors=tuple(JobError(stack_id=stack_id, error=error) for stack_id, error in errors),
    )


def create(
    tx: Transaction,
    job_id: str,
    ids: Sequence[str],
    *,
    claim: Claim | None = None,
    answer: Callable[[Job], bytes] | None = None,
    by: str = "stackd",
) -> Job:
    """Create a job for ``by``; ``ids`` must have no duplicates. ``answer(job)`` becomes the claim's response (202).

    The job is ``queued``, or ``completed`` if there are no ids. Raises ``Conflict`` if the claim's key is in use.
    """
    status = JobStatus.QUEUED if ids else JobStatus.COMPLETED
    tx.run(INSERT_JOB, (job_id, status.value, len(ids), tx.now, tx.now, by))
    tx.run(INSERT_JOB_ITEMS, (job_id, id_array(ids)))
    job = _find(tx, job_id)
    if claim is not None:
        kept = replace(claim, job_id=job_id)
        if answer is not None:
            kept = replace(kept, status=claims.ACCEPTED, answer=answer(job))
        claims.insert(tx, kept)
    return tx.put_job(job)


def pending_items(tx: Transaction, job_id: str, limit: int) -> list[str]:
    """The next ids without an outcome, in the job's order, including those that were started before a restart."""
    return [stack_id for (stack_id,) in tx.rows(OPEN_ITEMS, (job_id, limit))]


def begin_items(tx: Transaction, job_id: str, ids: Sequence[str]) -> list[Stack]:
    """Mark the stacks of these ids as deleting and return them; ids without a stack get their outcome at once.

    Raises ``JobNotFound``.
    """
    by = _find(tx, job_id).by
    state = dict(_open_among(tx, job_id, ids))
    existing = {name: stack for name, stack in rows.find_all(tx, state).items() if not stack.unassigned}
    pending = [stack_id for stack_id in existing if state[stack_id] == "pending"]
    to_delete = rows.mark_all_deleting(tx, existing, DeleteReason.BATCH, by)
    if pending:
        tx.run(START_ITEMS, (job_id, id_array(pending)))
    gone = [
        ItemResult(stack_id=stack_id, outcome=DeleteOutcome.NOT_FOUND if was == "pending" else DeleteOutcome.DELETED)
        for stack_id, was in state.items()
        if stack_id not in existing
    ]
    if pending or gone:
        _write_outcomes(tx, job_id, gone, kept_errors=MAX_ERRORS)
    return to_delete


def finish_items(tx: Transaction, job_id: str, results: Sequence[ItemResult]) -> Job:
    """Write and count each id's outcome once; returns the job after that. Raises ``JobNotFound``.

    The outcome ``deleted`` also deletes the stack's row, in the same transaction.
    """
    job = _find(tx, job_id)
    unfinished = dict(_open_among(tx, job_id, [result.stack_id for result in results]))
    news = [result for result in {r.stack_id: r for r in results}.values() if result.stack_id in unfinished]
    if not news:
        return job
    deleted = [result.stack_id for result in news if result.outcome is DeleteOutcome.DELETED]
    if deleted:
        rows.remove(tx, deleted)
    return _write_outcomes(tx, job_id, news, kept_errors=min(job.failed, MAX_ERRORS))


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Delete at most ``limit`` jobs that finished before ``before``; returns how many."""
    gone = tx.rows(PURGE_JOBS, (before, limit))
    tx.jobs.extend((job_id, None) for (job_id,) in gone)
    return len(gone)


def _find(tx: Transaction, job_id: str) -> Job:
    row = tx.row(FIND_JOB, (job_id,))
    if row is None:
        raise JobNotFound(job_id)
    return _with_errors(tx, row)


def _with_errors(tx: Transaction, row: Iterable[object]) -> Job:
    return from_row(row, lambda job_id: tx.rows(JOB_ERRORS, (job_id,)))


def _open_among(tx: Transaction, job_id: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in tx.rows(OPEN_ITEMS_AMONG, (id_array(ids), job_id))]


def _write_outcomes(tx: Transaction, job_id: str, results: Sequence[ItemResult], *, kept_errors: int) -> Job:
    tx.many(FINISH_ITEM, _item_rows(job_id, results, MAX_ERRORS - kept_errors))
    counts = Counter(result.outcome.value for result in results)
    parameters = {outcome.value: counts[outcome.value] for outcome in DeleteOutcome}
    row = tx.row(COUNT_OUTCOMES, {**parameters, "now": tx.now, "job_id": job_id})
    if row is None:
        raise JobNotFound(job_id)
    return tx.put_job(_with_errors(tx, row))


def _item_rows(job_id: str, results: Sequence[ItemResult], most: int) -> list[tuple[str, str | None, str, str]]:
    """The outcomes as rows, with at most ``most`` errors."""
    written: list[tuple[str, str | None, str, str]] = []
    for result in results:
        error = None
        if result.outcome is DeleteOutcome.FAILED and most > 0:
            most -= 1
            error = result.error[:MAX_ERROR_LENGTH]
        written.append((result.outcome.value, error, job_id, result.stack_id))
    return written


class Jobs(Table):
    """All jobs in the file: in memory for reads on the event loop, and their operations."""

    def __init__(self, jobs: Iterable[Job], submit: Submit) -> None:
        super().__init__(submit)
        self._by_id = {job.job_id: job for job in jobs}
        self._unfinished = {job.job_id for job in self._by_id.values() if not job.finished}
        self._subscribers: list[JobSubscriber] = []

    def get(self, job_id: str) -> Job | None:
        """The job, or None."""
        return self._by_id.get(job_id)

    def unfinished(self) -> list[Job]:
        """The jobs that still have ids without an outcome, oldest first."""
        jobs = [self._by_id[job_id] for job_id in self._unfinished]
        return sorted(jobs, key=lambda job: (job.created_at, job.job_id))

    def __len__(self) -> int:
        return len(self._by_id)

    def subscribe(self, callback: JobSubscriber) -> None:
        """Call ``callback(job_id, job)`` on the loop after each change (None: the job is purged); it must not raise."""
        self._subscribers.append(callback)

    def publish(self, changes: Iterable[tuple[str, Job | None]]) -> None:
        """Apply a committed group, and call the subscribers."""
        for job_id, job in changes:
            self._unfinished.discard(job_id)
            if job is None:
                self._by_id.pop(job_id, None)
            else:
                self._by_id[job_id] = job
                if not job.finished:
                    self._unfinished.add(job_id)
            for callback in self._subscribers:
                callback(job_id, job)

    create = operation(create)
    pending_items = operation(pending_items, writes=False)
    begin_items = operation(begin_items)
    finish_items = operation(finish_items)
