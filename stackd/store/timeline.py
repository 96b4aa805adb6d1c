"""The timeline of each stack, and its containers' last log lines; kept for a while after the stack is gone.

Owns: the lines that follow from a change of a row, how many are kept per stack, and their removal. A line is written in
the transaction of the change. On a full disk it is left out, so that deletes never fail because of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stackd.model import EventKind, KeptLog, Stack, StackStatus, TimelineEvent
from stackd.store.transaction import Table, Transaction, id_array, operation

LINES_PER_STACK = 300
"""When a stack flaps for days, its oldest lines are deleted."""

MOST_LOGS = 4096
"""How many logs are kept in all, the latest ones: 64 MiB of 16 KiB each, however fast stacks come and go."""

LINES_AT_ONCE = 16
"""How many lines one statement inserts."""

_LINE = "(?, ?, ?, ?, ?, ?, ?)"
_INSERT = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count) VALUES {lines}"
    " ON CONFLICT (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling')"
    " DO UPDATE SET at = max(at, excluded.at), count = max(count, excluded.count)"
)
_INSERTS = tuple(_INSERT.format(lines=", ".join([_LINE] * count)) for count in range(LINES_AT_ONCE + 1))
INSERT_DELETED = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT stack_id, ?, 'deleted', coalesce(delete_reason, ''), '', 'stackd', 1 FROM stacks"
    " WHERE accepted = 1 AND unassigned = 0 AND stack_id IN (SELECT value FROM json_each(?))"
)
CLOSE_TIMELINES = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT stack_id, max(at), 'deleted', '', '', 'stackd', 1 FROM timeline"
    " WHERE stack_id NOT IN (SELECT stack_id FROM stacks) GROUP BY stack_id HAVING sum(kind = 'deleted') = 0"
)
TIMELINE = "SELECT at, kind, reason, message, by, count FROM timeline WHERE stack_id = ? ORDER BY at, seq"
# A stack of a pool ran before it was given, which is then its creation.
STARTS = (
    "SELECT s.template, max(min(t.at), s.created_at) AS ran_at, s.created_at FROM stacks AS s"
    " CROSS JOIN timeline AS t ON t.stack_id = s.stack_id WHERE s.template IS NOT NULL AND s.unassigned = 0"
    " AND s.generation = 0 AND t.kind = 'ready' GROUP BY s.stack_id HAVING ran_at > ? ORDER BY ran_at"
)
IN_TIMELINE = "SELECT 1 FROM timeline WHERE stack_id = ? LIMIT 1"
TRIM_TIMELINES = (
    "DELETE FROM timeline WHERE seq IN (SELECT t.seq FROM json_each(?) AS wanted CROSS JOIN timeline AS t"
    " ON t.stack_id = wanted.value AND t.seq <= (SELECT seq FROM timeline WHERE stack_id = wanted.value"
    " ORDER BY seq DESC LIMIT 1 OFFSET ?))"
)
PURGE_KEPT_LOGS = (
    "DELETE FROM kept_logs WHERE stack_id IN"
    " (SELECT stack_id FROM timeline INDEXED BY timeline_gone WHERE kind = 'deleted' AND at < ? ORDER BY at LIMIT ?)"
)
PURGE_TIMELINES = (
    "DELETE FROM timeline WHERE stack_id IN"
    " (SELECT stack_id FROM timeline INDEXED BY timeline_gone WHERE kind = 'deleted' AND at < ? ORDER BY at LIMIT ?)"
)
# A replaced log gets a new rowid, so that the rowids are in the order of writing.
KEEP_LOG = "INSERT OR REPLACE INTO kept_logs (stack_id, container, at, text) VALUES (?, ?, ?, ?)"
TRIM_KEPT_LOGS = "DELETE FROM kept_logs WHERE rowid <= (SELECT max(rowid) FROM kept_logs) - ?"
KEPT_LOGS = "SELECT container, at, text FROM kept_logs WHERE stack_id = ? ORDER BY at DESC, container"
FORGET_TIMELINES = "DELETE FROM timeline WHERE stack_id IN (SELECT value FROM json_each(?))"
FORGET_KEPT_LOGS = "DELETE FROM kept_logs WHERE stack_id IN (SELECT value FROM json_each(?))"
STACK_EXISTS = "SELECT 1 FROM stacks WHERE stack_id = ?"

_REPEATING = frozenset(
    {
        EventKind.NOT_READY,
        EventKind.RESTARTED,
        EventKind.EXTENDED,
        EventKind.START_REQUESTED,
        EventKind.RESTART_REQUESTED,
    }
)


def add(tx: Transaction, lines: Sequence[tuple[str, TimelineEvent]]) -> None:
    """Write lines, each with its stack's id. A repeated warning or pull only updates the time and count of its line."""
    if not lines or tx.tight:
        return
    for start in range(0, len(lines), LINES_AT_ONCE):
        some = lines[start : start + LINES_AT_ONCE]
        tx.run(_INSERTS[len(some)], [value for stack_id, one in some for value in _line(stack_id, one)])
    noisy = {stack_id for stack_id, one in lines if one.kind in _REPEATING}
    if noisy:
        tx.run(TRIM_TIMELINES, (id_array(noisy), LINES_PER_STACK))


def add_deleted(tx: Transaction, ids: str) -> None:
    """Write the last line of these stacks (a JSON array of ids), which are about to be removed.

    Stacks that no client knows (not accepted, or waiting in a pool) get none.
    """
    if not tx.tight:
        tx.run(INSERT_DELETED, (tx.now, ids))


def between(before: Stack, after: Stack, now: int) -> Iterator[TimelineEvent]:
    """The lines for a change of a stack's status or its reason."""
    if (before.status, before.status_reason) == (after.status, after.status_reason):
        return
    kind = _kind(before, after)
    if kind is not None:
        yield TimelineEvent(kind=kind, at=now, reason=after.status_reason, message=after.status_message, by="cluster")


def read(tx: Transaction, stack_id: str) -> list[TimelineEvent]:
    """The timeline of the stack, oldest line first; empty if the stack is unknown."""
    return [
        TimelineEvent(kind=EventKind(kind), at=at, reason=reason, message=message, by=by, count=count)
        for at, kind, reason, message, by, count in tx.rows(TIMELINE, (stack_id,))
    ]


def starts(tx: Transaction, since: int) -> list[tuple[str, int, int]]:
    """The stacks of templates that have come to run since then: template, when it ran, and when it was created."""
    return [(template, ran_at, created_at) for template, ran_at, created_at in tx.rows(STARTS, (since,))]


def kept_logs(tx: Transaction, stack_id: str) -> list[KeptLog]:
    """The last log lines of the stack's containers, the latest first."""
    return [KeptLog(container=container, at=at, text=text) for container, at, text in tx.rows(KEPT_LOGS, (stack_id,))]


def keep_diagnostics(tx: Transaction, stack_id: str, events: Sequence[TimelineEvent], logs: Sequence[KeptLog]) -> None:
    """Keep the cluster's events about a stack and its containers' last log lines. No effect if the stack is gone."""
    if tx.row(STACK_EXISTS, (stack_id,)) is not None:
        add(tx, [(stack_id, one) for one in events])
        _keep_logs(tx, stack_id, logs)


def keep_final_logs(tx: Transaction, stack_id: str, logs: Sequence[KeptLog]) -> None:
    """Keep the containers' last log lines from before their pod was deleted. No effect for an unknown stack.

    The stack itself may be gone by then; its timeline is enough.
    """
    if tx.row(IN_TIMELINE, (stack_id,)) is not None:
        _keep_logs(tx, stack_id, logs)


def forget(tx: Transaction, ids: str) -> None:
    """Delete the timelines and logs of removed stacks (a JSON array of ids) that no client ever knew."""
    tx.run(FORGET_TIMELINES, (ids,))
    tx.run(FORGET_KEPT_LOGS, (ids,))


def close_open(tx: Transaction) -> None:
    """Write the missing last line of removed stacks, so that they can be purged (a full disk may have prevented it)."""
    tx.run(CLOSE_TIMELINES)


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Delete lines and logs of at most ``limit`` stacks that were removed before ``before``; returns how many lines."""
    tx.run(PURGE_KEPT_LOGS, (before, limit))
    return tx.run(PURGE_TIMELINES, (before, limit))


def _keep_logs(tx: Transaction, stack_id: str, logs: Sequence[KeptLog]) -> None:
    """Write the logs, replacing earlier ones of the same containers. The oldest of all give way."""
    if logs and not tx.tight:
        tx.many(KEEP_LOG, [(stack_id, log.container, log.at, log.text) for log in logs])
        tx.run(TRIM_KEPT_LOGS, (MOST_LOGS,))


def _line(stack_id: str, one: TimelineEvent) -> tuple[object, ...]:
    return stack_id, one.at, one.kind.value, one.reason, one.message, one.by, one.count


def _kind(before: Stack, after: Stack) -> EventKind | None:
    if after.status is StackStatus.RUNNING:
        unready, was_unready = after.status_reason == "NotReady", before.status_reason == "NotReady"
        if before.status is not StackStatus.RUNNING or (was_unready and not unready):
            return EventKind.READY
        return EventKind.NOT_READY if unready else None
    if after.status is StackStatus.CREATING:
        return EventKind.WAITING if after.status_reason else None
    return {
        StackStatus.FAILED: EventKind.FAILED,
        StackStatus.STOPPED: EventKind.STOPPED,
        StackStatus.NODE_DELETED: EventKind.NODE_DELETED,
    }[after.status]


class Timeline(Table):
    """The timelines and the last log lines of all stacks."""

    read = operation(read, writes=False)
    starts = operation(starts, writes=False)
    kept_logs = operation(kept_logs, writes=False)
    keep_diagnostics = operation(keep_diagnostics, grows=True)
    # It does not wait for the disk, so a power failure can lose the logs.
    keep_final_logs = operation(keep_final_logs, grows=True, relaxed=True)
