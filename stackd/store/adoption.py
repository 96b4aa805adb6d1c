"""The operations for what the cluster's records say and the file lacks: adopt a stack, renew a row.

Owns: which parts of a pod's record replace the row of a file that is older than the cluster. A delete that the row
intends stays intended; a stop, too, unless the stack was started since. A stack of a pool that a client may have been
given (its record has no digest) becomes a client's, and lives as long as that client could expect.
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
    """The result of ``adopt`` for one record: the stack, or the reason why it was skipped."""

    stack_id: str
    stack: Stack | None = None
    reason: str = ""


def adopt(tx: Transaction, records: Sequence[Stack]) -> list[Adopted]:
    """Insert whole records as they are (``rebuild``). A record that contradicts the file is skipped, with the reason.

    A stack of a pool stays in it, unless a client may have been given it.
    """
    gone = rows.removed_among(tx, (record.stack_id for record in records))
    return [
        Adopted(stack_id=record.stack_id, reason=REMOVED) if record.stack_id in gone else _adopt_one(tx, record)
        for record in records
    ]


def _adopt_one(tx: Transaction, record: Stack) -> Adopted:
    def insert(inner: Transaction) -> Stack:
        stack = rows.insert(inner, _a_clients(record, tx.now) if _may_be_given(record) else record)
        rows.hold_ports(inner, record)
        return inner.put_stack(stack)

    try:
        return Adopted(stack_id=record.stack_id, stack=tx.isolated(insert, ADOPTION))
    except sqlite3.IntegrityError as exc:
        return Adopted(stack_id=record.stack_id, reason=str(failures.from_constraint(exc)))


def _may_be_given(record: Stack) -> bool:
    return record.unassigned and record.digest is None


def _a_clients(stack: Stack, now: int) -> Stack:
    """The stack of a pool as one that a client has had since just now."""
    return replace(stack, unassigned=False, ttl_expires_at=now + stack.ttl_expires_at - stack.created_at)


def renewed(row: Stack, record: Stack, now: int) -> Stack:
    """The row, updated from the record of a pod or a stopped stack; the same row if nothing in the record is newer."""
    if record.generation < row.generation:
        return row
    if row.delete_reason is DeleteReason.UNDO:
        # No user asked for this undo, and a later owner has taken the stack over and shown it to clients.
        row = replace(row, accepted=False, deleting_since=None, delete_reason=None)
    if row.deleting_since is not None:
        return row
    if record.unassigned:  # if the row says that it was given away, only the record is not updated yet
        return _a_clients(row, now) if row.unassigned and _may_be_given(record) else row
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
    """The row of a stack that still has the same pod. Since then the pod may have ended, and the stack may have
    released its ports or replaced them.
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
    """Update the rows of these records; returns the ids of those that contradict other rows, with the reasons."""
    found = rows.find_all(tx, (record.stack_id for record in records))
    pairs = [(found[record.stack_id], record) for record in records if record.stack_id in found]
    wanted = [(row, after) for row, record in pairs if (after := renewed(row, record, tx.now)) != row]
    while wanted:
        refused = {row.stack_id: why for row, after in wanted if (why := _try_to_renew(tx, row, after))}
        if len(refused) == len(wanted):
            return list(refused.items())
        # One stack may now hold a port that another one has released, so the refused ones are tried again.
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
