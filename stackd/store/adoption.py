"""The operations that take over what the cluster's records say and the file does not know: adopt a stack, renew a row.

Owns what a pod's record says that is newer than the row of a file that is older than the cluster: a delete that the row
intends stays intended; a stop, too, unless the stack was started since. What waits in a pool may have been given away since:
where its pod does not say so, it loses its digest, is given to nobody, and lives for as long as whoever may have it could
expect.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from stackd.model import DeleteReason, Desired, Stack
from stackd.store import claims, failures, rows
from stackd.store.transaction import ADOPTION, Transaction, id_array

REMOVED = "the stack was removed"
_ENDING = ("ended", "status", "status_reason", "status_message")
_OF_ANOTHER_POD = (*_ENDING, "desired", "generation", "ports", "ports_held", "pod_uid", "service_uid", "node_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What became of a record handed to ``adopt``: the stack, or the reason why not."""

    stack_id: str
    stack: Stack | None = None
    reason: str = ""


def adopt(tx: Transaction, records: Sequence[Stack]) -> list[Adopted]:
    """Insert whole records as they are (``rebuild``); one that contradicts the file is skipped with the reason.

    What waits in a pool by its record may have been given away just before that could be written: it is held.
    """
    gone = rows.removed_among(tx, (record.stack_id for record in records))
    return [
        Adopted(stack_id=record.stack_id, reason=REMOVED) if record.stack_id in gone else _adopt_one(tx, record)
        for record in records
    ]


def _adopt_one(tx: Transaction, record: Stack) -> Adopted:
    def insert(inner: Transaction) -> Stack:
        stack = rows.insert(inner, _held(record, tx.now) if record.unassigned else record)
        rows.hold_ports(inner, record)
        return inner.put_stack(stack)

    try:
        return Adopted(stack_id=record.stack_id, stack=tx.isolated(insert, ADOPTION))
    except sqlite3.IntegrityError as exc:
        return Adopted(stack_id=record.stack_id, reason=str(failures.from_constraint(exc)))


def _held(stack: Stack, now: int) -> Stack:
    """A stack of a pool of which nobody knows whether it was given away: without a digest it is given to nobody, and from now
    on it lives as long as whoever may have it was told."""
    return replace(stack, digest=None, ttl_expires_at=now + stack.ttl_expires_at - stack.created_at)


def renewed(row: Stack, record: Stack, now: int) -> Stack:
    """The row with what the record of a pod, or of a stopped stack, says; the row itself where nothing of that is newer."""
    if record.generation < row.generation:
        return row
    if row.delete_reason is DeleteReason.UNDO:
        # Nobody asked for that, and whoever owned the stacks since has taken it over, and told of it.
        row = replace(row, accepted=False, deleting_since=None, delete_reason=None)
    if row.deleting_since is not None:
        return row
    if record.unassigned:  # where the row says that it was given away, this was only not written yet
        return _held(row, now) if row.unassigned and row.digest is not None else row
    if row.unassigned:
        row = _given(row, record)
    ttl_expires_at = max(row.ttl_expires_at, record.ttl_expires_at)
    same = (row.desired, row.generation) == (record.desired, record.generation)
    same_pod = row.accepted and same and row.pod_uid == record.pod_uid
    stopping = row.desired is Desired.STOPPED and record.generation == row.generation and record.pod_uid is not None
    if stopping:
        return replace(row, ttl_expires_at=ttl_expires_at)
    if same_pod:
        return _ended_or_served(replace(row, ttl_expires_at=ttl_expires_at), record)
    return replace(
        row,
        **{name: getattr(record, name) for name in _OF_ANOTHER_POD},
        accepted=True,
        ttl_expires_at=ttl_expires_at,
        node_public_ip=record.node_public_ip or row.node_public_ip,
    )


def _ended_or_served(row: Stack, record: Stack) -> Stack:
    """The row of a stack with the same pod as then: it may have ended since, and have given its ports back or got others, which
    are another stack's by now.
    """
    if record.ended or row.ended:
        ended = row if row.ended else replace(row, **{name: getattr(record, name) for name in _ENDING})
        return replace(ended, ports_held=row.ports_held and record.ports_held)
    if record.service_uid is None:
        return row
    return replace(row, ports=record.ports, service_uid=record.service_uid)


def _given(row: Stack, record: Stack) -> Stack:
    """The row of a stack that was given away since the file was copied."""
    return replace(
        row,
        unassigned=False,
        labels=record.labels,
        created_at=record.created_at,
        updated_at=record.created_at,
        ttl_expires_at=record.ttl_expires_at,
    )


def renew(tx: Transaction, records: Sequence[Stack]) -> list[tuple[str, str]]:
    """Bring the rows of these records up to date; ids and reasons of those that contradict other rows."""
    found = rows.find_all(tx, (record.stack_id for record in records))
    pairs = [(found[record.stack_id], record) for record in records if record.stack_id in found]
    wanted = [(row, after) for row, record in pairs if (after := renewed(row, record, tx.now)) != row]
    while wanted:
        refused = {row.stack_id: why for row, after in wanted if (why := _try_to_renew(tx, row, after))}
        if len(refused) == len(wanted):
            return list(refused.items())
        # A port that one of them has given back may be what another one has got.
        wanted = [(row, after) for row, after in wanted if row.stack_id in refused]
    return []


def _try_to_renew(tx: Transaction, row: Stack, after: Stack) -> str:
    try:
        tx.isolated(partial(_renew_one, row=row, after=after), ADOPTION)
    except sqlite3.IntegrityError as exc:
        return str(failures.from_constraint(exc))
    return ""


def _renew_one(tx: Transaction, row: Stack, after: Stack) -> None:
    array = id_array([row.stack_id])
    if (row.ports, row.ports_held) != (after.ports, after.ports_held):
        rows.give_back_ports(tx, array)
        rows.hold_ports(tx, after)
    if not row.accepted:
        claims.drop_unanswered(tx, array)
    if row.unassigned and not after.unassigned:
        rows.give(tx, after)
    rows.save(tx, [after])
