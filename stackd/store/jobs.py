"""Batch jobs: in memory for reads, and their operations.

Owns: each id has one outcome, which is counted once (invariant 7). The transaction that writes the outcome increments
the counts; they are never recounted. An id goes from pending to started to its outcome. After a restart the started
ids are processed again; the outcome of a delete depends on whether its stack still has a row. What a job intends for an
id is written in the transaction that marks the id as started, so that an id is extended or restarted once. A stack that a
job creates has a claim, as one with an Idempotency-Key has: so it is created once. The claim goes when it is counted.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from msgspec import json

from stackd.codes import ErrorCode
from stackd.errors import JobNotFound, StackdError, StackNotFound, TooManyRequests, public_code, public_text
from stackd.model import (
    ItemResult,
    Job,
    JobAction,
    JobError,
    JobItem,
    JobOutcome,
    JobRequest,
    JobStatus,
    Outcome,
    OutcomeReason,
    Principal,
    Stack,
    WantedStack,
)
from stackd.store import changes, rows
from stackd.store.changes import BY_JOB, Extension, Start
from stackd.store.rows import Claim
from stackd.store.transaction import (
    IDS,
    Columns,
    Submit,
    Table,
    Transaction,
    View,
    id_array,
    json_text,
    labels_from,
    labels_text,
    operation,
)

DELETE = JobRequest()
MAX_ERRORS = 100
MAX_ERROR_LENGTH = 512
ITEMS_PER_KEY, JOB_COST = 100_000, 10
"""How many stacks the jobs of one API key may have in all, about 15 MB; each job counts as so many more."""


def _outcome(stored: dict[str, Any]) -> JobOutcome:
    reasons = (OutcomeReason(**reason | {"stack_ids": tuple(reason["stack_ids"])}) for reason in stored.pop("reasons"))
    return JobOutcome(**stored, reasons=tuple(reasons))


JOBS = Columns(
    Job,
    read={
        "status": JobStatus,
        "action": JobAction,
        "by": Principal.parse,
        "labels": labels_from,
        "common": labels_from,
        "outcome": lambda text: None if text is None else _outcome(json.decode(text)),
    },
    write={
        "by": str,
        "labels": labels_text,
        "common": labels_text,
        "outcome": lambda _: None,
    },  # a job begins without an outcome
    without="errors",
)
ALL_JOBS = f"SELECT {JOBS.sql} FROM jobs"
# Without these indexes, each batch would scan all finished items of a long job again.
OPEN_ITEMS = (
    "SELECT stack_id FROM job_items INDEXED BY job_items_open"
    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
)
OPEN_ITEMS_AMONG = (
    "SELECT i.stack_id, i.state FROM json_each(?) AS wanted"
    " CROSS JOIN job_items AS i ON i.job_id = ? AND i.stack_id = wanted.value"
    " WHERE i.state IN ('pending', 'started') ORDER BY i.seq"
)
JOB_ERRORS = (
    "SELECT seq, stack_id, state, error, code, wanted FROM job_items INDEXED BY job_items_errors"
    " WHERE job_id = ? AND error IS NOT NULL ORDER BY seq"
)
ITEMS = "SELECT seq, stack_id, state, error, code, wanted FROM job_items WHERE job_id = ? ORDER BY seq"
OPEN_CREATES = (
    "SELECT seq, wanted FROM job_items INDEXED BY job_items_open"
    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
)
KNOWN = (
    "SELECT wanted.value FROM json_each(?) AS wanted CROSS JOIN stacks AS s ON s.stack_id = wanted.value"
    " WHERE s.unassigned = 0 ORDER BY wanted.key"
)
KEPT = f"SELECT total(items + {JOB_COST}) FROM jobs INDEXED BY jobs_by WHERE principal = ?"
OLDEST_FINISHED = (
    f"SELECT job_id, items + {JOB_COST} FROM jobs INDEXED BY jobs_by"
    " WHERE principal = ? AND status IN ('completed', 'failed') ORDER BY created_at"
)
COUNT_OUTCOMES = (
    "UPDATE jobs SET done = done + :done, not_found = not_found + :not_found, failed = failed + :failed,"
    " updated_at = max(updated_at, :now), status = CASE"
    " WHEN done + not_found + failed + :done + :not_found + :failed < total THEN 'running'"
    " WHEN failed + :failed = total THEN 'failed' ELSE 'completed' END"
    f" WHERE job_id = :job_id RETURNING {JOBS.sql}"
)


Starts = Mapping[str, Start | StackdError]
"""For each id that is to start, how it does, or why it cannot."""

NO_STARTS: Starts = {}
NEVER: Mapping[str, int] = {}


def load(connection: sqlite3.Connection) -> list[Job]:
    return [_with_errors(connection.execute, row) for row in connection.execute(ALL_JOBS).fetchall()]


def create(
    tx: Transaction,
    job_id: str,
    ids: Sequence[str],
    request: JobRequest = DELETE,
    *,
    claim: Claim | None = None,
) -> Job:
    """Create a job; ``ids`` must have no duplicates, and be empty if the request has labels.

    Ids that no stack of a client has are counted as not found at once, and only their number is kept: no later stack gets
    one of them. The job is ``queued``, or ``completed`` if no other ids are left. The oldest finished jobs of its key make
    way for it (``ITEMS_PER_KEY``). Raises ``TooManyRequests`` if the unfinished ones alone are too many; ``Conflict`` if the
    claim's key is in use.
    """
    total, known = chosen(tx, ids, request)
    _make_way(tx, request.by.id, len(known))
    template, common = _in_common(tx, known, request)
    job = Job(
        job_id=job_id,
        status=JobStatus.QUEUED if known else JobStatus.COMPLETED,
        total=total,
        done=0,
        not_found=total - len(known),
        failed=0,
        errors=(),
        created_at=tx.now,
        updated_at=tx.now,
        by=request.by,
        action=request.action,
        ttl=request.ttl,
        labels=request.labels,
        template=template,
        common=common,
    )
    insert = f"INSERT INTO jobs ({JOBS.sql}, items) VALUES ({JOBS.parameters}, :items)"
    tx.run(insert, JOBS.values(job) | {"items": len(known)})
    if request.each:
        items, values = (
            "SELECT ?, key, key, 'pending', value FROM json_each(?)",
            json_text([_wanted(item) for item in request.each]),
        )
    else:
        items, values = "SELECT ?, key, value, 'pending', NULL FROM json_each(?)", id_array(known)
    tx.run(f"INSERT INTO job_items (job_id, seq, stack_id, state, wanted) {items}", (job_id, values))
    if claim is not None:
        rows.insert_claim(tx, replace(claim, job_id=job_id, status=rows.ACCEPTED))
    return _save(tx, job)


def chosen(tx: Transaction, ids: Sequence[str], request: JobRequest) -> tuple[int, list[str]]:
    """How many ids a job of this request would have now, and those of them that belong to clients' stacks. The ids of stacks
    that it is to create are their indexes in the request."""
    if request.action is JobAction.CREATE:
        return len(request.each), [str(item.index) for item in request.each]
    if request.labels:
        all_ = {**request.labels, **request.among}
        # What is being created or deleted can only be deleted.
        deletes = request.action is JobAction.DELETE
        ids = rows.with_labels(tx, all_, unsettled=deletes) if request.labels.items() <= all_.items() else []
    return len(ids), [stack_id for (stack_id,) in tx.rows(KNOWN, (id_array(ids),))]


def _in_common(tx: Transaction, ids: Sequence[str], request: JobRequest) -> tuple[str | None, Mapping[str, str]]:
    """The template and the labels that all the stacks of a new job have."""
    if request.each:
        found = [(item.template or request.template, item.labels.items()) for item in request.each]
    else:
        rows_ = tx.rows(f"SELECT template, labels FROM stacks WHERE stack_id IN {IDS}", (id_array(ids),))
        found = [(template, labels_from(labels).items()) for template, labels in rows_]
    templates = {template for template, _ in found}
    common = set.intersection(*(set(labels) for _, labels in found)) if found else set()
    return templates.pop() if len(templates) == 1 else None, dict(sorted(common))


def _make_way(tx: Transaction, principal: str, items: int) -> None:
    """Delete the oldest finished jobs of an API key if it would have too many with another one of so many items."""
    ((kept,),) = tx.rows(KEPT, (principal,))
    excess = kept + items + JOB_COST - ITEMS_PER_KEY
    if excess <= 0:
        return
    finished = tx.rows(OLDEST_FINISHED, (principal,))
    unfinished = kept - sum(cost for _, cost in finished)
    if unfinished and unfinished + items + JOB_COST > ITEMS_PER_KEY:
        raise TooManyRequests(
            f"the batch jobs of this key have {unfinished:.0f} stacks that wait; wait for some jobs",
            code=ErrorCode.TOO_MANY_JOBS,
        )
    freed, gone = 0, []
    for job_id, cost in finished:
        if freed < excess + ITEMS_PER_KEY // 10:  # so that not each of the next jobs has to make way
            freed += cost
            gone.append(job_id)
    _delete(tx, gone)


def pending_items(tx: Transaction, job_id: str, limit: int, *, begun: bool = True) -> list[str]:
    """The next ids without an outcome, in the job's order, including those that were ``begun``, perhaps before a restart."""
    query = OPEN_ITEMS if begun else OPEN_ITEMS.replace("ORDER BY", "AND state = 'pending' ORDER BY")
    return [stack_id for (stack_id,) in tx.rows(query, (job_id, limit))]


def begin_creates(tx: Transaction, job_id: str, limit: int) -> list[WantedStack]:
    """The next stacks that the job is to create and has not counted, in its order. Raises ``JobNotFound``."""
    job = _find(tx, job_id)
    wanted = [_read_wanted(*row) for row in tx.rows(OPEN_CREATES, (job_id, limit))]
    begin = f"UPDATE job_items SET state = 'started' WHERE job_id = ? AND state = 'pending' AND stack_id IN {IDS}"
    if tx.run(begin, (job_id, id_array(str(item.index) for item in wanted))):
        _write_outcomes(tx, job, [])
    return wanted


def claim_of(job: Job, wanted: WantedStack, now: int) -> Claim:
    """The claim of a stack that the job creates; there is one such stack, as with an Idempotency-Key of the job's API key."""
    scope = f"{job.by.id} JOB {job.job_id}"
    return Claim(scope=scope, key=str(wanted.index), fingerprint=b"", created_at=now, job_id=job.job_id)


def _wanted(one: WantedStack) -> dict[str, object]:
    fields: dict[str, object] = {
        "labels": dict(one.labels),
        "ttl": one.ttl,
        "env": dict(one.env),
        "template": one.template,
    }
    return fields | ({"once": True} if one.once else {})


def _read_wanted(index: int, text: str) -> WantedStack:
    return WantedStack(index=index, **json.decode(text))


def items(tx: Transaction, job_id: str) -> list[JobItem]:
    """What became of each id of the job, in its order. Ids without a stack are not kept."""
    return [_item(*row) for row in tx.rows(ITEMS, (job_id,))]


def _item(index: int, stack_id: str, state: str, error: str | None, code: str | None, wanted: str | None) -> JobItem:
    stack = None if wanted is None else _read_wanted(index, wanted)
    if stack is not None and state != Outcome.DONE:
        stack_id = ""
    return JobItem(index=index, stack_id=stack_id, state=state, error=error, code=code, wanted=stack)


def begin_items(
    tx: Transaction,
    job_id: str,
    ids: Sequence[str],
    *,
    longest: int = 0,
    closes: Mapping[str, int] = NEVER,
    starts: Starts = NO_STARTS,
) -> list[Stack]:
    """Write what the job intends for the stacks of these ids, and return those that remain to be worked on. What it deletes is
    only begun: that a stack is to be deleted is written when it is its turn. A job that extends needs the ``longest`` life and
    when each template ``closes``, in nanoseconds, one that starts or restarts needs ``starts``.

    Ids without a stack, and those that the action cannot be applied to, get their outcome at once. Raises ``JobNotFound``.
    """
    job = _find(tx, job_id)
    states = dict(_open_among(tx, job_id, ids))
    stacks = {name: stack for name, stack in rows.find_all(tx, states).items() if not stack.unassigned}
    work: list[Stack] = []
    results, started = [], []
    for stack_id, state in states.items():
        stack = stacks.get(stack_id)
        if stack is None:
            # What this job began to delete is gone because of it.
            done = job.action is JobAction.DELETE and state == "started"
            results.append(ItemResult(stack_id=stack_id, outcome=Outcome.DONE if done else Outcome.NOT_FOUND))
        elif state == "started":  # since before a restart
            work.append(stack)
        else:
            changed, result = _intend(tx, job, stack, longest, closes.get(stack.template or "", 0), starts)
            if changed is not None:
                work.append(changed)
            if result is None:
                started.append(stack_id)
            else:
                results.append(result)
    if started:
        begin = f"UPDATE job_items SET state = 'started' WHERE job_id = ? AND stack_id IN {IDS}"
        tx.run(begin, (job_id, id_array(started)))
    if started or results:
        _write_outcomes(tx, job, results)
    return work


def _intend(
    tx: Transaction, job: Job, stack: Stack, longest: int, closes: int, starts: Starts
) -> tuple[Stack | None, ItemResult | None]:
    """Write the intent for one pending stack; returns it if there is work to do, and the outcome if it is known."""
    done = ItemResult(stack_id=stack.stack_id, outcome=Outcome.DONE)
    if job.action is JobAction.DELETE:
        return stack, None
    if job.action is JobAction.START and stack.is_to_run:
        return None, done
    try:
        if job.action is JobAction.EXTEND:
            extension = Extension(add=job.ttl, longest=longest, closes=closes, by=job.by, reason=BY_JOB)
            return changes.extend(tx, stack.stack_id, extension), None
        if job.action is JobAction.STOP:
            return changes.stop(tx, stack.stack_id, job.by, BY_JOB), None
        start = starts.get(stack.stack_id, StackNotFound(stack.stack_id))
        if isinstance(start, StackdError):
            raise start
        return tx.attempt(partial(changes.start, stack_id=stack.stack_id, wanted=start)), None
    except StackNotFound:
        return None, replace(done, outcome=Outcome.NOT_FOUND)
    except StackdError as error:
        return None, replace(done, outcome=Outcome.FAILED, error=public_text(error), code=public_code(error))


def finish_items(tx: Transaction, job_id: str, results: Sequence[ItemResult]) -> Job:
    """Write and count each id's outcome once; returns the job after that. Raises ``JobNotFound``.

    The same transaction removes the rows that stacks which the job has deleted still have, and the claims of those that it
    was to create.
    """
    job = _find(tx, job_id)
    unfinished = dict(_open_among(tx, job_id, [result.stack_id for result in results]))
    news = [result for result in {r.stack_id: r for r in results}.values() if result.stack_id in unfinished]
    if not news:
        return job
    deleted = [result.stack_id for result in news if result.outcome is Outcome.DONE]
    if deleted and job.action is JobAction.DELETE:
        rows.remove(tx, deleted)
    if job.action is JobAction.CREATE:
        scope = claim_of(job, WantedStack(index=0, labels=job.labels), 0).scope
        tx.run(f"DELETE FROM idempotency WHERE scope = ? AND key IN {IDS}", (scope, id_array(r.stack_id for r in news)))
    return _write_outcomes(tx, job, news)


def done_ids(tx: Transaction, job_id: str) -> tuple[str, ...]:
    done = "SELECT stack_id FROM job_items WHERE job_id = ? AND state = 'done' ORDER BY seq"
    return tuple(stack_id for (stack_id,) in tx.rows(done, (job_id,)))


def set_outcome(tx: Transaction, job_id: str, outcome: JobOutcome) -> Job:
    """Write what has come of a finished job, once. Raises ``JobNotFound``."""
    _find(tx, job_id)
    write = "UPDATE jobs SET outcome = coalesce(outcome, ?) WHERE job_id = ?"
    tx.run(write, (json_text(asdict(outcome)), job_id))
    return _save(tx, _find(tx, job_id))


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Delete at most ``limit`` jobs that finished before ``before``; returns how many."""
    old = "SELECT job_id FROM jobs WHERE status IN ('completed', 'failed') AND updated_at < ? LIMIT ?"
    gone = [job_id for (job_id,) in tx.rows(old, (before, limit))]
    _delete(tx, gone)
    return len(gone)


def _delete(tx: Transaction, job_ids: Sequence[str]) -> None:
    if job_ids:
        tx.run(f"DELETE FROM jobs WHERE job_id IN {IDS}", (id_array(job_ids),))
        tx.jobs.extend((job_id, None) for job_id in job_ids)


def _find(tx: Transaction, job_id: str) -> Job:
    row = tx.row(f"{ALL_JOBS} WHERE job_id = ?", (job_id,))
    if row is None:
        raise JobNotFound(job_id)
    return _with_errors(tx.rows, row)


def _with_errors(query: Callable[[str, Sequence[str]], Iterable[tuple[Any, ...]]], row: Iterable[object]) -> Job:
    job = JOBS.record(row, errors=())
    if not job.failed:
        return job
    return replace(job, errors=tuple(_error(_item(*found)) for found in query(JOB_ERRORS, (job.job_id,))))


def _error(item: JobItem) -> JobError:
    error = JobError(stack_id=item.stack_id, error=item.error or "", code=item.code or ErrorCode.CONFLICT)
    return error if item.wanted is None else replace(error, index=item.index, labels=item.wanted.labels)


def _save(tx: Transaction, job: Job) -> Job:
    tx.jobs.append((job.job_id, job))
    return job


def _open_among(tx: Transaction, job_id: str, ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in tx.rows(OPEN_ITEMS_AMONG, (id_array(ids), job_id))]


def _write_outcomes(tx: Transaction, job: Job, results: Sequence[ItemResult]) -> Job:
    """Write and count the outcomes, with the errors of the job's first ``MAX_ERRORS`` failures."""
    items = []
    room = MAX_ERRORS - job.failed
    for result in results:
        error = None
        if result.outcome is Outcome.FAILED and room > 0:
            room -= 1
            error = result.error[:MAX_ERROR_LENGTH]
        written = (result.outcome.value, error, result.code, result.created or result.stack_id)
        items.append((*written, job.job_id, result.stack_id))
    write = "UPDATE job_items SET state = ?, error = ?, code = ?, stack_id = ? WHERE job_id = ? AND stack_id = ?"
    tx.many(write, items)
    counts = Counter(result.outcome.value for result in results)
    parameters = {outcome.value: counts[outcome.value] for outcome in Outcome}
    (row,) = tx.rows(COUNT_OUTCOMES, {**parameters, "now": tx.now, "job_id": job.job_id})
    return _save(tx, _with_errors(tx.rows, row))


class Jobs(View[Job], Table):
    """The view of all jobs in the file, and their operations."""

    def __init__(self, jobs: Iterable[Job], submit: Submit) -> None:
        View.__init__(self, "job_id", jobs)
        Table.__init__(self, submit)

    def unfinished(self) -> list[Job]:
        """The jobs that still have ids without an outcome, oldest first."""
        return [job for job in self.ordered() if not job.finished]

    create = operation(create, grows=True)
    chosen = operation(chosen, writes=False)
    pending_items = operation(pending_items, writes=False)
    items = operation(items, writes=False)
    done_ids = operation(done_ids, writes=False)
    set_outcome = operation(set_outcome)
    begin_items = operation(begin_items)
    begin_creates = operation(begin_creates)
    finish_items = operation(finish_items)
