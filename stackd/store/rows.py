"""The rows of stacks and of the node ports that they hold, and the ids of removed stacks.

Owns: their SQL, the formats of their columns (JSON of ports and labels), and the building blocks of all operations on
stacks: find, save, mark as deleting, remove. An intent to delete is never revoked, and an id is never reused. Does not
know why a row changes.

Lists of ids are passed as one JSON array (``json_each``), so that a query for ten thousand ids is one statement.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

import orjson

from stackd.errors import StackNotFound
from stackd.model import (
    NO_LABELS,
    NO_VALUES,
    DeleteReason,
    Desired,
    EventKind,
    PortMapping,
    Route,
    RoutedPort,
    Stack,
    StackStatus,
    TimelineEvent,
)
from stackd.store import claims, timeline
from stackd.store.transaction import Transaction, id_array

LONGEST_KEPT = 8 * 1024
"""The longest pod spec, in characters, that is kept in memory with its stack; longer ones are read from the file."""

# Each field of a stack is a column of the same name, except one whose name is an SQL keyword.
_COLUMN_OF = {field.name: field.name for field in fields(Stack)} | {"values": "generated"}
COLUMNS = ", ".join(_COLUMN_OF.values())
_SHORT_COLUMNS = COLUMNS.replace(
    "pod_spec", f"CASE WHEN length(pod_spec) > {LONGEST_KEPT} THEN NULL ELSE pod_spec END", 1
)
_FIXED = {"stack_id", "namespace", "pod_spec", "created_at", "labels"}
_CHANGING = [name for name in _COLUMN_OF if name not in _FIXED]


def _assigned(names: Iterable[str]) -> str:
    """The SET clause of an UPDATE of these fields."""
    return ", ".join(f"{_COLUMN_OF[name]} = ?" for name in names)


ALL_STACKS = f"SELECT {_SHORT_COLUMNS} FROM stacks"
FIND_STACK = f"SELECT {COLUMNS} FROM stacks WHERE stack_id = ?"
FIND_STACKS = f"SELECT {_SHORT_COLUMNS} FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?))"
WITH_LABEL = (
    "SELECT stack_id, labels FROM stacks WHERE unassigned = 0 AND (? OR (accepted = 1 AND deleting_since IS NULL))"
    " AND stack_id IN (SELECT stack_id FROM stack_labels WHERE key = lower(?) AND value = lower(?))"
    " ORDER BY created_at, stack_id"
)
POD_SPECS = "SELECT stack_id, pod_spec FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?))"
COUNT_STACKS = "SELECT count(*) FROM stacks"
ANY_UNASSIGNED = "SELECT 1 FROM stacks WHERE unassigned = 1 LIMIT 1"
COUNT_ASSIGNED = "SELECT (SELECT count(*) FROM stacks) - (SELECT count(*) FROM stacks WHERE unassigned = 1)"
INSERT_STACK = f"INSERT INTO stacks ({COLUMNS}) VALUES ({', '.join('?' * len(_COLUMN_OF))})"
INSERT_LABELS = (
    "INSERT OR IGNORE INTO stack_labels (key, value, stack_id) SELECT lower(key), lower(value), ? FROM json_each(?)"
)
UPDATE_STACK = f"UPDATE stacks SET {_assigned(_CHANGING)} WHERE stack_id = ?"
UPDATE_GIVEN = "UPDATE stacks SET labels = ?, created_at = ? WHERE stack_id = ?"
UPDATE_POD_SPEC = "UPDATE stacks SET pod_spec = ? WHERE stack_id = ?"
DELETE_STACKS = "DELETE FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?)) RETURNING stack_id, unassigned"

# The primary key decides which stack holds a node port (invariant 2).
ALL_NODE_PORTS = "SELECT json_group_array(node_port) FROM node_ports"  # faster than a row for each
IS_HELD = "SELECT 1 FROM node_ports WHERE node_port = ?"
INSERT_NODE_PORT = "INSERT INTO node_ports (node_port, stack_id) VALUES (?, ?)"
REPLACE_NODE_PORT = "UPDATE node_ports SET node_port = ? WHERE node_port = ?"
DELETE_NODE_PORTS_OF = "DELETE FROM node_ports WHERE stack_id IN (SELECT value FROM json_each(?))"
INSERT_HOSTNAME = "INSERT INTO hostnames (hostname, stack_id) VALUES (?, ?)"
DELETE_HOSTNAMES_OF = "DELETE FROM hostnames WHERE stack_id IN (SELECT value FROM json_each(?))"

INSERT_REMOVED = (
    "INSERT OR IGNORE INTO removed_stacks (stack_id, removed_at, labels)"
    " SELECT stack_id, ?, labels FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?))"
)
REMOVED_AMONG = "SELECT stack_id FROM removed_stacks WHERE stack_id IN (SELECT value FROM json_each(?))"
PURGE_REMOVED = (
    "DELETE FROM removed_stacks WHERE stack_id IN"
    " (SELECT stack_id FROM removed_stacks WHERE removed_at < ? ORDER BY removed_at LIMIT ?)"
)


def labels_text(labels: Mapping[str, str]) -> str:
    """The labels in the form of their column."""
    return orjson.dumps(dict(labels), option=orjson.OPT_SORT_KEYS).decode()


def _value(one: enum.Enum | None) -> str | None:
    return None if one is None else str(one.value)


def _port(stored: dict[str, Any]) -> PortMapping:
    if "route" in stored:
        return RoutedPort(**stored | {"route": Route(stored["route"])})
    return PortMapping(**stored)


# Fields with another form in their column than in the stack: how each is written, and how it is read.
_FORMS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "ports": (
        lambda ports: orjson.dumps(ports).decode(),
        lambda text: tuple(map(_port, orjson.loads(text))),
    ),
    "status": (_value, StackStatus),
    "labels": (labels_text, lambda text: NO_LABELS if text == "{}" else MappingProxyType(orjson.loads(text))),
    "delete_reason": (_value, lambda text: None if text is None else DeleteReason(text)),
    "desired": (_value, Desired),
    "values": (
        lambda values: orjson.dumps(dict(values)).decode() if values else None,
        lambda text: NO_VALUES if text is None else MappingProxyType(orjson.loads(text)),
    ),
    **dict.fromkeys(("accepted", "ended", "ports_held", "unassigned"), (int, bool)),
}


class _Values:
    """Takes the values of some fields from a stack, in this order and in the forms of their columns."""

    def __init__(self, *names: str) -> None:
        self._get = attrgetter(*names)
        self._forms = [(names.index(name), write) for name, (write, _) in _FORMS.items() if name in names]

    def __call__(self, stack: Stack) -> list[Any]:
        values = list(self._get(stack))
        for index, write in self._forms:
            values[index] = write(values[index])
        return values


_all_values = _Values(*_COLUMN_OF)
_changing_values = _Values(*_CHANGING, "stack_id")


def from_row(row: Iterable[object]) -> Stack:
    """The stack of a row of ``COLUMNS``."""
    found: dict[str, Any] = dict(zip(_COLUMN_OF, row, strict=True))
    for name, (_, read) in _FORMS.items():
        found[name] = read(found[name])
    return Stack(**found)


def find(tx: Transaction, stack_id: str) -> Stack | None:
    """The stack as it is in this transaction, or None."""
    row = tx.row(FIND_STACK, (stack_id,))
    return None if row is None else from_row(row)


def find_all(tx: Transaction, ids: Iterable[str]) -> dict[str, Stack]:
    """The stacks that exist, by id, in the order of ``ids``; without long pod specs."""
    wanted = list(dict.fromkeys(ids))
    found = {stack.stack_id: stack for stack in map(from_row, tx.rows(FIND_STACKS, (id_array(wanted),)))}
    return {stack_id: found[stack_id] for stack_id in wanted if stack_id in found}


def with_labels(tx: Transaction, labels: Mapping[str, str], *, unsettled: bool) -> list[str]:
    """The ids of clients' stacks that have all of these labels, in the order of the list; with ``unsettled`` also those
    that are being created or deleted.
    """
    key, value = next(iter(labels.items()))
    stacks = tx.rows(WITH_LABEL, (unsettled, key, value))
    return [stack_id for stack_id, text in stacks if labels.items() <= orjson.loads(text).items()]


def find_live(tx: Transaction, stack_id: str) -> Stack:
    """The stack. Raises ``StackNotFound`` if it is gone or being deleted."""
    stack = find(tx, stack_id)
    if stack is None or stack.deleting_since is not None:
        raise StackNotFound(stack_id)
    return stack


def pod_specs(tx: Transaction, ids: Iterable[str]) -> dict[str, str]:
    """The pod specs of those stacks that exist, by id. They can be long, so ask for a few at a time."""
    return dict(tx.rows(POD_SPECS, (id_array(ids),)))


def count(tx: Transaction) -> int:
    """How many rows there are."""
    return int(tx.rows(COUNT_STACKS)[0][0])


def count_assigned(tx: Transaction) -> int:
    """How many stacks belong to clients, and do not wait in a pool."""
    return int(tx.rows(COUNT_ASSIGNED)[0][0])


def insert(tx: Transaction, stack: Stack) -> Stack:
    """Write a new row and its labels. Raises ``Conflict`` if the id is taken."""
    tx.run(INSERT_STACK, _all_values(stack))
    if stack.labels:
        tx.run(INSERT_LABELS, (stack.stack_id, labels_text(stack.labels)))
    return stack


def save(tx: Transaction, stacks: Sequence[Stack]) -> list[Stack]:
    """Write the columns that can change; returns the stacks."""
    tx.many(UPDATE_STACK, map(_changing_values, stacks))
    return [tx.put_stack(stack) for stack in stacks]


def give(tx: Transaction, stack: Stack) -> None:
    """Write the columns that change only when a stack of a pool is given away; ``save`` writes the others."""
    labels = labels_text(stack.labels)
    tx.run(UPDATE_GIVEN, (labels, stack.created_at, stack.stack_id))
    if stack.labels:
        tx.run(INSERT_LABELS, (stack.stack_id, labels))


def mark_deleting(tx: Transaction, ids: Iterable[str], reason: DeleteReason, by: str = "stackd") -> list[Stack]:
    """Write the intent to delete; the first reason and time are kept. Returns the stacks, in the order of ``ids``.

    ``DeleteReason.POOL`` applies only to stacks that wait in a pool, ``DeleteReason.UNDO`` to all stacks, other reasons
    only to stacks of clients. All others count as not existing. After an undo the Idempotency-Key can be used again.
    """
    found = find_all(tx, ids)
    if reason is not DeleteReason.UNDO:
        found = {name: stack for name, stack in found.items() if stack.unassigned == (reason is DeleteReason.POOL)}
    return mark_all_deleting(tx, found, reason, by)


def mark_all_deleting(tx: Transaction, stacks: dict[str, Stack], reason: DeleteReason, by: str) -> list[Stack]:
    """As ``mark_deleting``, for all of ``stacks``, which must have been read in this transaction."""
    fresh = [
        replace(stack, deleting_since=tx.now, delete_reason=reason)
        for stack in stacks.values()
        if stack.deleting_since is None
    ]
    if fresh:
        save(tx, fresh)
        asked = TimelineEvent(kind=EventKind.DELETE_REQUESTED, at=tx.now, reason=reason.value, by=by)
        timeline.add(tx, [(stack.stack_id, asked) for stack in fresh if stack.accepted])
    undone = [stack.stack_id for stack in fresh if reason is DeleteReason.UNDO or not stack.accepted]
    if undone:
        claims.drop(tx, id_array(undone))
    return list((stacks | {stack.stack_id: stack for stack in fresh}).values())


def remove(tx: Transaction, ids: Iterable[str]) -> int:
    """Delete rows once the cluster has confirmed the deletes. Frees their ports and the keys of unanswered claims.

    Notes the ids as removed in the same transaction. Returns how many rows were deleted.
    """
    array = id_array(ids)
    tx.run(DELETE_NODE_PORTS_OF, (array,))
    timeline.add_deleted(tx, array)
    tx.run(INSERT_REMOVED, (tx.now, array))
    gone = tx.rows(DELETE_STACKS, (array,))
    if gone:
        claims.drop_unanswered(tx, array)
    if nobodys := [stack_id for stack_id, unassigned in gone if unassigned]:
        timeline.forget(tx, id_array(nobodys))
    tx.stacks.extend((stack_id, None) for stack_id, _ in gone)
    return len(gone)


def removed_among(tx: Transaction, ids: Iterable[str]) -> frozenset[str]:
    """Those of ``ids`` whose stacks were removed from this file in the last thirty days, undone creates included."""
    return frozenset(stack_id for (stack_id,) in tx.rows(REMOVED_AMONG, (id_array(ids),)))


def purge_removed(tx: Transaction, before: int, limit: int) -> int:
    """Forget at most ``limit`` ids of stacks that were removed before ``before``; returns how many."""
    return tx.run(PURGE_REMOVED, (before, limit))


def give_back_ports(tx: Transaction, array: str) -> None:
    """Free the node ports and the names of these stacks; ``array`` is an ``id_array``."""
    tx.run(DELETE_NODE_PORTS_OF, (array,))
    tx.run(DELETE_HOSTNAMES_OF, (array,))


def hold_ports(tx: Transaction, stack: Stack) -> None:
    """Hold the node ports and names of the stack, if it holds any. Raises IntegrityError if another stack has one."""
    for port in held(stack):
        tx.run(INSERT_NODE_PORT, (port, stack.stack_id))
    hold_hostnames(tx, stack)


def hold_hostnames(tx: Transaction, stack: Stack) -> None:
    """Hold the names of the stack, if it holds its ports. Raises IntegrityError if another stack has one."""
    if stack.ports_held:
        for routed in stack.routed:
            tx.run(INSERT_HOSTNAME, (routed.hostname, stack.stack_id))


def held(stack: Stack) -> tuple[int, ...]:
    """The node ports that the stack holds."""
    return stack.node_ports if stack.ports_held else ()
