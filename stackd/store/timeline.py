"""What has happened to each stack, and the last words of its containers; kept for a while after the stack is gone.

Owns: the lines that follow from a change of a row, how many are kept of each stack, and their removal. A line is written
in the transaction of what it tells of; on a full disk it is left out, so that deletes never fail because of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from stackd.model import Happening, KeptLog, Kind, Stack, StackStatus
from stackd.store import queries, rows
from stackd.store.transaction import Transaction

LINES_PER_STACK = 300
"""The oldest lines of a stack that flaps for days go first."""

_REPEATING = frozenset({Kind.NOT_READY, Kind.RESTARTED, Kind.EXTENDED, Kind.START_REQUESTED, Kind.RESTART_REQUESTED})


def add(tx: Transaction, lines: Sequence[tuple[str, Happening]]) -> None:
    """Write lines, each with its stack's id; what the cluster said before is counted instead."""
    if not lines or tx.tight:
        return
    tx.run(queries.INSERT_HAPPENINGS, (json.dumps([_line(stack_id, one) for stack_id, one in lines]),))
    noisy = {stack_id for stack_id, one in lines if one.kind in _REPEATING}
    if noisy:
        tx.run(queries.TRIM_TIMELINES, (rows.id_array(noisy), LINES_PER_STACK))


def add_deleted(tx: Transaction, ids: str) -> None:
    """The stacks of these ids (a JSON array) are about to go; those that nobody was told of leave no trace."""
    if not tx.tight:
        tx.run(queries.INSERT_DELETED, (tx.now, ids))


def between(before: Stack, after: Stack, now: int) -> Iterator[Happening]:
    """The lines that tell how a stack's status, or the reason for it, has changed."""
    if (before.status, before.status_reason) == (after.status, after.status_reason):
        return
    kind = _kind(before, after)
    if kind is not None:
        yield Happening(kind=kind, at=now, reason=after.status_reason, message=after.status_message, by="cluster")


def read(tx: Transaction, stack_id: str) -> list[Happening]:
    """All lines of a stack, oldest first."""
    return [
        Happening(kind=Kind(kind), at=at, reason=reason, message=message, by=by, count=count)
        for at, kind, reason, message, by, count in tx.rows(queries.TIMELINE, (stack_id,))
    ]


def keep_logs(tx: Transaction, stack_id: str, logs: Iterable[KeptLog]) -> None:
    """Keep the last words of containers, in the place of earlier ones."""
    if not tx.tight:
        tx.many(queries.KEEP_LOG, [(stack_id, log.container, log.at, log.text) for log in logs])


def kept_logs(tx: Transaction, stack_id: str) -> list[KeptLog]:
    """What is kept, the latest first."""
    return [
        KeptLog(container=container, at=at, text=text)
        for container, at, text in tx.rows(queries.KEPT_LOGS, (stack_id,))
    ]


def close_open(tx: Transaction) -> None:
    """Let every stack that is gone have its last line, so that it can be purged (one may have been left out)."""
    tx.run(queries.CLOSE_TIMELINES)


def purge(tx: Transaction, before: int, limit: int) -> int:
    """Remove lines and logs of at most ``limit`` stacks that went before that time; how many lines went."""
    tx.run(queries.PURGE_KEPT_LOGS, (before, limit))
    return tx.run(queries.PURGE_TIMELINES, (before, limit))


def _line(stack_id: str, one: Happening) -> list[object]:
    return [stack_id, one.at, one.kind.value, one.reason, one.message, one.by, one.count]


def _kind(before: Stack, after: Stack) -> Kind | None:
    if after.status is StackStatus.RUNNING:
        unready, was_unready = after.status_reason == "NotReady", before.status_reason == "NotReady"
        if before.status is not StackStatus.RUNNING or (was_unready and not unready):
            return Kind.READY
        return Kind.NOT_READY if unready else None
    if after.status is StackStatus.CREATING:
        return Kind.WAITING if after.status_reason else None
    return {
        StackStatus.FAILED: Kind.FAILED,
        StackStatus.STOPPED: Kind.STOPPED,
        StackStatus.NODE_DELETED: Kind.NODE_DELETED,
    }[after.status]
