"""The operations that bring the cluster's records into the file: adopt a stack without a row, update an older row.

Owns: which parts of a record replace the row of a file that is older than the cluster. A delete that the row intends
stays intended; a stop, too, unless the stack was started since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from stackd.model import DeleteReason, Desired, Stack
from stackd.store import rows
from stackd.store.transaction import Transaction, from_constraint, id_array

REMOVED = "the stack was removed"
_ENDING = ("ended", "status", "status_reason", "status_message")
_OF_ANOTHER_POD = (
    *_ENDING,
    "desired",
    "generation",
    "ports",
    "ports_held",
    "pod_uid",
    "service_uid",
    "node_id",
    "members",
)
_OF_ANOTHER_VERSION = ("pod_spec", "digest", "offer", "requested_cpu_milli", "requested_memory_bytes")
"""What a renewal of the stack changes, and a policy that was changed before a start."""


def adopt(tx: Transaction, records: Sequence[Stack]) -> dict[str, str]:
    """Insert complete records as they are (``rebuild``). A record that contradicts the file is skipped. Returns the reason
    for each id; empty if it was inserted.
    """
    skipped = dict.fromkeys(rows.removed_among(tx, [record.stack_id for record in records]), REMOVED)
    reasons = {record.stack_id: skipped.get(record.stack_id, "") for record in records}
    for record in records:
        if record.stack_id not in skipped:
            try:
                tx.attempt(partial(rows.insert, stack=record))
            except sqlite3.IntegrityError as exc:
                reasons[record.stack_id] = str(from_constraint(exc))
    return reasons


def updated(row: Stack, record: Stack) -> Stack:
    """The row, updated from the record; the same row if nothing in the record is newer."""
    if row.spare:
        return record  # since the file was copied, a create has taken it
    if record.generation < row.generation or any(
        theirs.generation < ours.generation for theirs, ours in zip(record.members, row.members, strict=False)
    ):
        return row
    if row.delete_reason is DeleteReason.UNDO:
        # No user asked for this undo, and a later owner has taken the stack over and shown it to clients.
        row = replace(row, accepted=False, deleting_since=None, delete_reason=None)
    if row.deleting_since is not None:
        # Since the file was copied, the Service may have got other ports, or given all back.
        return replace(row, ports=record.ports, ports_held=row.ports_held and record.ports_held)
    if record.unassigned:  # if the row says that it was assigned, only the record is not updated yet
        return row
    if row.unassigned:  # it was assigned since the file was copied
        row = replace(
            row,
            unassigned=False,
            labels=record.labels,
            created_at=record.created_at,
            updated_at=record.created_at,
            ttl_expires_at=record.ttl_expires_at,
            offer=record.offer,
        )
    latest = {name: max(getattr(row, name), getattr(record, name)) for name in ("ttl_expires_at", "extensions")}
    if record.relabelled > row.relabelled:
        row = replace(row, labels=record.labels, relabelled=record.relabelled)
    row = replace(row, **latest, serving=record.serving if row.shared else row.serving)  # as its Service selects
    if row.desired is Desired.STOPPED and record.generation == row.generation and record.pod_uid is not None:
        return row  # its stop is not done yet
    same = (row.desired, row.generation, row.pod_uids) == (record.desired, record.generation, record.pod_uids)
    if row.accepted and same:
        return _with_the_same_pod(row, record)
    return replace(
        row,
        **{name: getattr(record, name) for name in (*_OF_ANOTHER_POD, *_OF_ANOTHER_VERSION)},
        accepted=True,
        values=record.values or row.values,  # the record of a stack whose pod is gone has none
        node_public_ip=record.node_public_ip or row.node_public_ip,
    )


def _with_the_same_pod(row: Stack, record: Stack) -> Stack:
    """Since the file was copied the pod may have ended, and the stack may have released its ports or replaced them."""
    if record.ended or row.ended:
        ended = row if row.ended else replace(row, **{name: getattr(record, name) for name in _ENDING})
        return replace(ended, ports_held=row.ports_held and record.ports_held)
    return replace(row, ports=record.ports, service_uid=record.service_uid)


def update(tx: Transaction, records: Sequence[Stack]) -> list[tuple[str, str]]:
    """Update the rows of these records; returns the ids of those that contradict other rows, with the reasons."""
    found = rows.find_all(tx, (record.stack_id for record in records))
    pairs = [(found[record.stack_id], record) for record in records if record.stack_id in found]
    wanted = [(row, after) for row, record in pairs if (after := updated(row, record)) != row]
    while wanted:
        refused = {}
        for row, after in wanted:
            try:
                tx.attempt(partial(_renew_one, row=row, after=after))
            except sqlite3.IntegrityError as exc:
                refused[row.stack_id] = str(from_constraint(exc))
        if len(refused) == len(wanted):
            return list(refused.items())
        # One stack may now hold a port that another one has released, so the refused ones are tried again.
        wanted = [(row, after) for row, after in wanted if row.stack_id in refused]
    return []


def _renew_one(tx: Transaction, row: Stack, after: Stack) -> None:
    if (row.ports, row.ports_held) != (after.ports, after.ports_held):
        rows.give_back_ports(tx, [row.stack_id])
        rows.hold_ports(tx, after)
    if not row.accepted:
        rows.drop_unanswered(tx, id_array([row.stack_id]))
    if row.labels != after.labels:
        rows.replace_labels(tx, after)
    rows.save_one(tx, after, spec=after.pod_spec != row.pod_spec)
