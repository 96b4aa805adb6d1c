"""The timeline of each stack, its containers' last log lines, and what clients have asked for, the latest first.

Owns: the lines that follow from a change of a row, how many are kept per stack, which of them are a client's own requests,
and their removal, a while after the stack is gone. A line is written in the transaction of the change. On a full disk it is
left out, so that deletes never fail because of it; only the last one is always written. What a job has done to each of its
stacks is part of the job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stackd.model import (
    CHECK_FAILED,
    CLUSTER,
    NOT_READY,
    STACKD,
    EventKind,
    KeptLog,
    Principal,
    Stack,
    StackStatus,
    TimelineEvent,
    struct,
)
from stackd.store.schema import REQUESTED
from stackd.store.transaction import (
    IDS,
    Columns,
    Table,
    Transaction,
    id_array,
    json_text,
    labels_from,
    operation,
)

LINES = Columns(TimelineEvent, read={"kind": EventKind, "by": Principal.parse})
LOGS = Columns(KeptLog)
LINES_PER_STACK = 300
"""When a stack flaps for days, its oldest lines are deleted."""

MOST_LOGS = 4096
"""How many logs are kept in all, the latest ones: 64 MiB of 16 KiB each, however fast stacks come and go."""

INSERT_LINES = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6"
    " FROM json_each(?) WHERE true ON CONFLICT (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling')"
    " DO UPDATE SET at = max(at, excluded.at), count = max(count, excluded.count)"
)
# A stack of a pool ran before it was assigned, which is then its creation.
STARTS = (
    "SELECT s.template, max(min(t.at), s.created_at) AS ran_at, s.created_at FROM stacks AS s"
    " CROSS JOIN timeline AS t ON t.stack_id = s.stack_id WHERE s.template IS NOT NULL AND s.unassigned = 0"
    " AND s.generation = 0 AND t.kind = 'ready' AND EXISTS (SELECT 1 FROM timeline AS began"
    " WHERE began.stack_id = s.stack_id AND began.kind = 'accepted') GROUP BY s.stack_id HAVING ran_at > ? ORDER BY ran_at"
)
TRIM_TIMELINES = (
    "DELETE FROM timeline WHERE seq IN (SELECT t.seq FROM json_each(?) AS wanted CROSS JOIN timeline AS t"
    " ON t.stack_id = wanted.value AND t.seq <= (SELECT seq FROM timeline WHERE stack_id = wanted.value"
    " ORDER BY seq DESC LIMIT 1 OFFSET ?))"
)
LONG_GONE = (
    "SELECT stack_id FROM timeline INDEXED BY timeline_gone WHERE kind = 'deleted' AND at < ? ORDER BY at LIMIT ?"
)

STACKS_PER_KEY = 20_000
"""Of how many of an API key's stacks the timelines are kept, the latest ones: about 40 MB. Those of living stacks stay."""

TOO_MANY_TIMELINES = (
    "SELECT principal FROM timeline INDEXED BY timeline_accepted WHERE kind = 'accepted' GROUP BY principal"
    " HAVING count(*) > ?"
)
OLDEST_TIMELINES = (
    "SELECT stack_id FROM (SELECT stack_id FROM timeline INDEXED BY timeline_accepted WHERE kind = 'accepted'"
    " AND principal = ?"
    " ORDER BY at DESC LIMIT -1 OFFSET ?) WHERE stack_id NOT IN (SELECT stack_id FROM stacks) LIMIT ?"
)
HOLDERS = (
    "SELECT v.stack_id, v.name, coalesce(r.labels, '{}'), r.removed_at,"
    " (SELECT by FROM timeline WHERE stack_id = v.stack_id AND kind = 'accepted' ORDER BY seq LIMIT 1)"
    " FROM removed_values AS v LEFT JOIN removed_stacks AS r USING (stack_id) WHERE v.digest = ?"
    " ORDER BY r.removed_at DESC NULLS FIRST LIMIT 100"
)
INSERT_REMOVED_LABELS = (
    "INSERT OR IGNORE INTO removed_labels SELECT lower(own.key), lower(own.value), r.stack_id FROM json_each(?) AS wanted"
    " CROSS JOIN removed_stacks AS r ON r.stack_id = wanted.value CROSS JOIN json_each(r.labels) AS own"
)

_REPEATING = frozenset(
    {
        EventKind.NOT_READY,
        EventKind.RESTARTED,
        EventKind.EXTENDED,
        EventKind.LABELLED,
        EventKind.START_REQUESTED,
        EventKind.RESTART_REQUESTED,
    }
)


def add(tx: Transaction, lines: Sequence[tuple[str, TimelineEvent]], *, essential: bool = False) -> None:
    """Write lines, each with its stack's id; on a full disk, only ``essential`` ones.

    A repeated warning or pull only updates the time and count of its line.
    """
    if not lines or (tx.tight and not essential):
        return
    rows = [
        (stack_id, event.at, event.kind, event.reason, event.message, str(event.by), event.count)
        for stack_id, event in lines
    ]
    tx.run(INSERT_LINES, (json_text(rows),))
    noisy = {stack_id for stack_id, event in lines if event.kind in _REPEATING}
    if noisy:
        tx.run(TRIM_TIMELINES, (id_array(noisy), LINES_PER_STACK))


def note(
    tx: Transaction, stack_id: str, kind: EventKind, *, reason: str = "", message: str = "", by: Principal = STACKD
) -> None:
    add(tx, [(stack_id, TimelineEvent(kind=kind, at=tx.now, reason=reason, message=message, by=by))])


def between(before: Stack, after: Stack, now: int) -> Iterator[TimelineEvent]:
    """The lines for a change of a stack's status or its reason."""
    if (before.status, before.status_reason) == (after.status, after.status_reason):
        return
    kind = _kind(before, after)
    if kind is not None:
        yield TimelineEvent(kind=kind, at=now, reason=after.status_reason, message=after.status_message, by=CLUSTER)


def _kind(before: Stack, after: Stack) -> EventKind | None:
    if after.status is StackStatus.RUNNING:
        unready, was_unready = after.status_reason == NOT_READY, before.status_reason == NOT_READY
        if before.status is not StackStatus.RUNNING or (was_unready and not unready):
            return EventKind.READY
        if CHECK_FAILED in (before.status_reason, after.status_reason):
            return EventKind.UNHEALTHY if after.status_reason == CHECK_FAILED else EventKind.HEALTHY
        return EventKind.NOT_READY if unready else None
    if after.status is StackStatus.CREATING:
        return EventKind.WAITING if after.status_reason else None
    return EventKind(after.status.value)  # failed, stopped, node_deleted


def read(tx: Transaction, stack_id: str) -> list[TimelineEvent]:
    """The timeline of the stack, oldest line first; empty if the stack is unknown."""
    rows = tx.rows(f"SELECT {LINES.sql} FROM timeline WHERE stack_id = ? ORDER BY at, seq", (stack_id,))
    return [LINES.record(row) for row in rows]


def starts(tx: Transaction, since: int) -> list[tuple[str, int, int]]:
    """The stacks of templates that have come to run since then: template, when it ran, and when it was created."""
    return tx.rows(STARTS, (since,))


def kept_logs(tx: Transaction, stack_id: str) -> list[KeptLog]:
    rows = tx.rows(f"SELECT {LOGS.sql} FROM kept_logs WHERE stack_id = ? ORDER BY at DESC, container", (stack_id,))
    return [LOGS.record(row) for row in rows]


def keep_diagnostics(tx: Transaction, stack_id: str, events: Sequence[TimelineEvent], logs: Sequence[KeptLog]) -> None:
    """Keep the cluster's events about a stack and its containers' last log lines. No effect if the stack is gone."""
    if tx.row("SELECT 1 FROM stacks WHERE stack_id = ?", (stack_id,)) is not None:
        add(tx, [(stack_id, event) for event in events])
        _keep_logs(tx, stack_id, logs)


def keep_final_logs(tx: Transaction, stack_id: str, logs: Sequence[KeptLog]) -> None:
    """Keep the containers' last log lines from before their pod was deleted. No effect for an unknown stack.

    The stack itself may be gone by then; its timeline is enough.
    """
    if tx.row("SELECT 1 FROM timeline WHERE stack_id = ? LIMIT 1", (stack_id,)) is not None:
        _keep_logs(tx, stack_id, logs)


def _keep_logs(tx: Transaction, stack_id: str, logs: Sequence[KeptLog]) -> None:
    """Write the logs, replacing earlier ones of the same containers. The oldest of all are deleted."""
    if logs:
        # A replaced log gets a new rowid, so that the rowids are in the order of writing.
        tx.many(
            "INSERT OR REPLACE INTO kept_logs (stack_id, container, at, text) VALUES (?, ?, ?, ?)",
            [(stack_id, log.container, log.at, log.text) for log in logs],
        )
        tx.run("DELETE FROM kept_logs WHERE rowid <= (SELECT max(rowid) FROM kept_logs) - ?", (MOST_LOGS,))


def forget(tx: Transaction, ids: Collection[str]) -> int:
    """Delete the timelines, logs, labels and values of removed stacks; returns how many lines."""
    if not ids:
        return 0
    array = id_array(ids)
    for table in ("kept_logs", "removed_labels", "removed_values"):
        tx.run(f"DELETE FROM {table} WHERE stack_id IN {IDS}", (array,))
    tx.run(f"UPDATE removed_stacks SET labels = '{{}}' WHERE stack_id IN {IDS}", (array,))
    return tx.run(f"DELETE FROM timeline WHERE stack_id IN {IDS}", (array,))


def note_values(tx: Transaction, values: Iterable[tuple[str, Mapping[str, str]]]) -> None:
    """Keep the digests of the values that stacks have no more, by their ids."""
    if not tx.tight:
        digests = [(digest_of_value(value), name, stack_id) for stack_id, own in values for name, value in own.items()]
        tx.many("INSERT OR IGNORE INTO removed_values VALUES (?, ?, ?)", digests)


def digest_of_value(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A stack that had a value as the variable ``name``; ``removed_at`` in nanoseconds, None: it is there, without the value.
    ``by``: who has created it. The labels are those of a removed one."""

    stack_id: str
    name: str
    labels: Mapping[str, str]
    removed_at: int | None
    by: Principal | None


HOLDER = Columns(Holder, read={"labels": labels_from, "by": lambda by: by and Principal.parse(by)})


def holders(tx: Transaction, value: str) -> list[Holder]:
    """The stacks that had the value, the one that was removed last first."""
    return [HOLDER.record(row) for row in tx.rows(HOLDERS, (digest_of_value(value),))]


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Forget at most ``limit`` stacks that were removed before ``before``, and as many of each API key that has had more
    than ``STACKS_PER_KEY``; returns how many lines are deleted."""
    gone = [stack_id for (stack_id,) in tx.rows(LONG_GONE, (before, limit))]
    for (key,) in tx.rows(TOO_MANY_TIMELINES, (STACKS_PER_KEY,)):
        gone += [stack_id for (stack_id,) in tx.rows(OLDEST_TIMELINES, (key, STACKS_PER_KEY, limit))]
    return forget(tx, gone)


# ---- what clients have asked for

_ABOUT = (
    " LEFT JOIN stacks AS s ON s.stack_id = t.stack_id LEFT JOIN removed_stacks AS r ON r.stack_id = t.stack_id"
    " WHERE (:stack_id = '' OR t.stack_id = :stack_id) AND NOT EXISTS (SELECT 1 FROM json_each(:labels) AS wanted WHERE"
    " NOT EXISTS (SELECT 1 FROM json_each(coalesce(s.labels, r.labels, '{}')) AS own WHERE own.key = wanted.value ->> 0"
    " AND own.value = coalesce(wanted.value ->> 1, own.value)))"
)


_NAME = "substr(t.by, instr(t.by, ' ') + 1)"
OF_CALLER = f" AND (:principal = '' OR t.principal = :principal) AND (:name = '' OR {_NAME} = :name)"
SAYING = (
    " AND NOT EXISTS (SELECT 1 FROM json_each(:texts) AS wanted"
    f" WHERE instr(lower({_NAME} || ' ' || replace(t.kind, 'accepted', 'create') || ' ' || t.message{{more}}),"
    " lower(wanted.value)) = 0)"
)
"""What a line has to say: all of these texts, in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFilter:
    """Which requests: of the ``principal`` with this id, of those with this ``name``, of this kind, about this stack, about
    stacks with these labels and values (None: any), whose lines have all ``texts``; from ``since`` to before the line ``seq``
    at ``at``, in nanoseconds. What is empty chooses all.
    """

    principal: str = ""
    name: str = ""
    kind: EventKind | None = None
    stack_id: str = ""
    labels: Sequence[tuple[str, str | None]] = ()
    texts: Sequence[str] = ()
    since: int = 0
    at: int
    seq: int
    limit: int

    def parameters(self) -> dict[str, object]:
        values = {
            name: getattr(self, name) for name in ("principal", "name", "stack_id", "since", "at", "seq", "limit")
        }
        return values | {"kind": self.kind or "", "labels": json_text(self.labels), "texts": json_text(self.texts)}


@struct
class ActivityRequest:
    """One request of a client about one stack; ``seq`` orders those of the same time."""

    seq: int
    at: int
    kind: EventKind
    message: str
    by: Principal
    stack_id: str
    labels: Mapping[str, str]


REQUESTS = Columns(ActivityRequest, read={"kind": EventKind, "by": Principal.parse, "labels": labels_from})
_ID_AND_LABELS = (
    " || ' ' || t.stack_id || ' ' || coalesce((SELECT group_concat(own.key || '=' || own.value, ' ')"
    " FROM json_each(coalesce(s.labels, r.labels, '{}')) AS own), '')"
)
_REQUESTS = (
    f"SELECT t.seq, t.at, t.kind, t.message, t.by, t.stack_id, coalesce(s.labels, r.labels, '{{}}') FROM %s{_ABOUT}"
    f" AND {REQUESTED} AND t.at BETWEEN :since AND :at AND (t.at < :at OR t.seq < :seq)"
    f"{OF_CALLER} AND (:kind = '' OR t.kind = :kind)"
    f"{SAYING.format(more=_ID_AND_LABELS)}"
    " ORDER BY t.at DESC, t.seq DESC LIMIT :limit"
)
FIND_REQUESTS = _REQUESTS % "timeline AS t INDEXED BY timeline_requested"
FIND_REQUESTS_AMONG = _REQUESTS % (
    "json_each(:among) AS stack CROSS JOIN timeline AS t INDEXED BY timeline_stack ON t.stack_id = stack.value"
)
FIND_JOBS = f"SELECT DISTINCT t.job_id FROM job_items AS t{_ABOUT}"
FIND_JOBS_AMONG = (
    "SELECT DISTINCT t.job_id FROM json_each(:among) AS stack"
    f" CROSS JOIN job_items AS t INDEXED BY job_items_stack ON t.stack_id = stack.value{_ABOUT}"
)
WITH_LABEL = " UNION ALL ".join(
    f"SELECT stack_id FROM {table} WHERE key = lower(:key) AND (:value IS NULL OR value = lower(:value))"
    for table in ("stack_labels", "removed_labels")
)
FEW = 5_000
"""Up to so many stacks, their lines and jobs are looked up by their ids; above that, all are read, the latest first."""


def requests(tx: Transaction, wanted: ActivityFilter) -> list[ActivityRequest]:
    """At most ``limit`` requests, the latest first; those of jobs are left out."""
    return [REQUESTS.record(row) for row in _about(tx, wanted, FIND_REQUESTS, FIND_REQUESTS_AMONG)]


def jobs_about(tx: Transaction, wanted: ActivityFilter) -> frozenset[str]:
    """The ids of the jobs that had the filter's stack, or a stack with its labels."""
    return frozenset(job_id for (job_id,) in _about(tx, wanted, FIND_JOBS, FIND_JOBS_AMONG))


def _about(tx: Transaction, wanted: ActivityFilter, of_all: str, among: str) -> list[tuple[Any, ...]]:
    ids = [wanted.stack_id] if wanted.stack_id else None
    for key, value in () if ids else wanted.labels:
        found = tx.rows(f"{WITH_LABEL} LIMIT :few", {"key": key, "value": value, "few": FEW + 1})
        if len(found) <= FEW:
            ids = [stack_id for (stack_id,) in found]
            break
    parameters = wanted.parameters()
    return tx.rows(of_all, parameters) if ids is None else tx.rows(among, parameters | {"among": id_array(set(ids))})


class Timeline(Table):
    """The timelines and the last log lines of all stacks, and the requests of clients among them."""

    read = operation(read, writes=False)
    starts = operation(starts, writes=False)
    kept_logs = operation(kept_logs, writes=False)
    keep_diagnostics = operation(keep_diagnostics, grows=True)
    # It does not wait for the disk, so a power failure can lose the logs.
    keep_final_logs = operation(keep_final_logs, grows=True, relaxed=True)
    requests = operation(requests, long=True)
    jobs_about = operation(jobs_about, long=True)
    holders = operation(holders, long=True)
