"""The operations on batch-delete jobs. Owns: each id has one outcome, counted when it is written (invariant 7).

Counts are increments in the transaction that writes the outcome, never a recount. An id goes pending → started →
its outcome; after a restart the started ones come again, and whether their stacks still have rows decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from stackd.errors import JobNotFound
from stackd.model import DeleteReason, ItemResult, Job, JobStatus, Outcome, Stack
from stackd.store import claims, queries, rows, stacks
from stackd.store.claims import Claim
from stackd.store.transaction import Transaction

ACCEPTED = 202  # the status that a batch delete is answered with (API contract)
MAX_ERRORS = 100
MAX_ERROR_LENGTH = 512


def create(
    tx: Transaction,
    job_id: str,
    ids: Sequence[str],
    claim: Claim | None,
    answer: Callable[[Job], bytes] | None,
    by: str,
) -> Job:
    """A job ``queued`` with all of its ids, and the answer kept with the claim."""
    status = JobStatus.QUEUED if ids else JobStatus.COMPLETED
    tx.run(queries.INSERT_JOB, (job_id, status.value, len(ids), tx.now, tx.now, by))
    tx.run(queries.INSERT_JOB_ITEMS, (job_id, rows.id_array(ids)))
    job = _find(tx, job_id)
    if claim is not None:
        kept = replace(claim, job_id=job_id)
        if answer is not None:
            kept = replace(kept, status=ACCEPTED, answer=answer(job))
        claims.insert(tx, kept)
    return tx.put_job(job)


def pending_items(tx: Transaction, job_id: str, limit: int) -> list[str]:
    """The next ids without an outcome, those that were started before a restart among them, in the job's order."""
    return [stack_id for (stack_id,) in tx.rows(queries.OPEN_ITEMS, (job_id, limit))]


def begin_items(tx: Transaction, job_id: str, ids: Sequence[str]) -> list[Stack]:
    """Mark the stacks of these ids as deleting; count the ids that have none. The stacks that are to be deleted."""
    by = _asker(tx, job_id)
    state = dict(_open_among(tx, job_id, ids))
    existing = stacks.find_all(tx, state)
    pending = [stack_id for stack_id in existing if state[stack_id] == "pending"]
    to_delete = stacks.mark_all_deleting(tx, existing, DeleteReason.BATCH, by)
    if pending:
        tx.run(queries.START_ITEMS, (job_id, rows.id_array(pending)))
    gone = [
        ItemResult(stack_id=stack_id, outcome=Outcome.NOT_FOUND if was == "pending" else Outcome.DELETED)
        for stack_id, was in state.items()
        if stack_id not in existing
    ]
    if pending or gone:
        _write_outcomes(tx, job_id, gone, kept_errors=MAX_ERRORS)
    return to_delete


def finish_items(tx: Transaction, job_id: str, results: Sequence[ItemResult]) -> Job:
    """Write and count the outcomes of ids that have none yet; ``deleted`` removes the stack in the same transaction."""
    job = _find(tx, job_id)
    unfinished = dict(_open_among(tx, job_id, [result.stack_id for result in results]))
    news = [result for result in {r.stack_id: r for r in results}.values() if result.stack_id in unfinished]
    if not news:
        return job
    deleted = [result.stack_id for result in news if result.outcome is Outcome.DELETED]
    if deleted:
        stacks.remove(tx, deleted)
    return _write_outcomes(tx, job_id, news, kept_errors=min(job.failed, MAX_ERRORS))


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Remove at most ``limit`` jobs that were finished before that time; how many went."""
    gone = tx.rows(queries.PURGE_JOBS, (before, limit))
    tx.jobs.extend((job_id, None) for (job_id,) in gone)
    return len(gone)


def _find(tx: Transaction, job_id: str) -> Job:
    row = tx.row(queries.FIND_JOB, (job_id,))
    if row is None:
        raise JobNotFound(job_id)
    return _with_errors(tx, row)


def _asker(tx: Transaction, job_id: str) -> str:
    row = tx.row(queries.JOB_ASKER, (job_id,))
    if row is None:
        raise JobNotFound(job_id)
    return str(row[0])


def _with_errors(tx: Transaction, row: rows.Row) -> Job:
    failed = row[5]
    return rows.job_from_row(row, tx.rows(queries.JOB_ERRORS, (row[0],)) if failed else ())


def _open_among(tx: Transaction, job_id: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in tx.rows(queries.OPEN_ITEMS_AMONG, (rows.id_array(ids), job_id))]


def _write_outcomes(tx: Transaction, job_id: str, results: Sequence[ItemResult], *, kept_errors: int) -> Job:
    tx.many(queries.FINISH_ITEM, _item_rows(job_id, results, MAX_ERRORS - kept_errors))
    counts = Counter(result.outcome.value for result in results)
    parameters = {outcome.value: counts[outcome.value] for outcome in Outcome}
    row = tx.row(queries.COUNT_OUTCOMES, {**parameters, "now": tx.now, "job_id": job_id})
    if row is None:
        raise JobNotFound(job_id)
    return tx.put_job(_with_errors(tx, row))


def _item_rows(job_id: str, results: Sequence[ItemResult], room: int) -> list[tuple[str, str | None, str, str]]:
    """Outcomes as rows; only so many errors are kept as there is room for."""
    written: list[tuple[str, str | None, str, str]] = []
    for result in results:
        error = None
        if result.outcome is Outcome.FAILED and room > 0:
            room -= 1
            error = result.error[:MAX_ERROR_LENGTH]
        written.append((result.outcome.value, error, job_id, result.stack_id))
    return written
