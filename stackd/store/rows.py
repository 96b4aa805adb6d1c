"""The rows of stacks with what belongs to them: labels, node ports, names, claims on Idempotency-Keys, removed ids.

Owns: their SQL, and the building blocks of all operations on stacks: find, save, mark as deleting, remove. An intent to
delete is never revoked, and an id is never reused. Does not know why a row changes, nor HTTP: fingerprints of requests
are bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from msgspec import json

from stackd.errors import StackNotFound
from stackd.model import (
    NO_VALUES,
    STACKD,
    DeleteReason,
    Desired,
    EventKind,
    Member,
    Offer,
    PortMapping,
    Principal,
    Route,
    RoutedPort,
    Stack,
    StackStatus,
    TimelineEvent,
)
from stackd.store import history, schema
from stackd.store.transaction import (
    IDS,
    Columns,
    Table,
    Transaction,
    id_array,
    json_text,
    labels_from,
    labels_text,
    operation,
)

LONGEST_KEPT = 8 * 1024
"""The longest pod spec, in characters, that is kept in memory with its stack; longer ones are read from the file."""

OK, CREATED, ACCEPTED = 200, 201, 202  # the response codes of an extension, a create and a batch delete (API contract)


def _port(stored: dict[str, Any]) -> PortMapping:
    if "route" in stored:
        return RoutedPort(**stored | {"route": Route(stored["route"])})
    return PortMapping(**stored)


def _member(stored: dict[str, Any]) -> Member:
    return Member(**stored | {"ports": tuple((number, protocol) for number, protocol in stored["ports"])})


STACKS = Columns(
    Stack,
    renamed={"values": "generated"},  # an SQL keyword
    read={
        "ports": lambda text: tuple(map(_port, json.decode(text))),
        "status": StackStatus,
        "labels": labels_from,
        "delete_reason": lambda text: text and DeleteReason(text),
        "desired": Desired,
        "offer": lambda text: text and Offer(**(kept := json.decode(text)) | {"show": tuple(kept["show"])}),
        "members": lambda text: () if text is None else tuple(map(_member, json.decode(text))),
        **dict.fromkeys(
            ("values", "env"), lambda text: NO_VALUES if text is None else MappingProxyType(json.decode(text))
        ),
        **dict.fromkeys(("accepted", "ended", "ports_held", "unassigned", "spare"), bool),
    },
    write={
        "ports": json_text,
        "labels": labels_text,
        "offer": lambda offer: offer and json_text(asdict(offer)),
        "members": lambda members: json_text(list(map(asdict, members))) if members else None,
        **dict.fromkeys(("values", "env"), lambda values: json_text(dict(values)) if values else None),
    },
)
_SHORT = f"CASE WHEN length(pod_spec) > {LONGEST_KEPT} THEN NULL ELSE pod_spec END"
_CHANGING = STACKS.column_of.keys() - {"stack_id", "namespace", "pod_spec"}

ALL_STACKS = f"SELECT {STACKS.sql.replace('pod_spec', _SHORT, 1)} FROM stacks"
# Without spare Services, which have no template; also in a file of the format before.
COUNT_STACKS = "SELECT count(*) FROM stacks WHERE unassigned = 0 OR template IS NOT NULL"
INSERT_STACK = f"INSERT INTO stacks ({STACKS.sql}) VALUES ({STACKS.parameters})"
UPDATE_STACK = f"UPDATE stacks SET {STACKS.assignments(sorted(_CHANGING))} WHERE stack_id = :stack_id"
UPDATE_WITH_SPEC = UPDATE_STACK.replace(" WHERE", ", pod_spec = :pod_spec WHERE")
INSERT_NODE_PORT = "INSERT INTO node_ports (node_port, stack_id) VALUES (?, ?)"
"""The primary key decides which stack holds a node port (invariant 2)."""


def find(tx: Transaction, stack_id: str) -> Stack | None:
    """The stack as it is in this transaction, or None."""
    row = tx.row(f"SELECT {STACKS.sql} FROM stacks WHERE stack_id = ?", (stack_id,))
    return None if row is None else STACKS.record(row)


def find_live(tx: Transaction, stack_id: str) -> Stack:
    """The stack. Raises ``StackNotFound`` if it is gone or being deleted."""
    stack = find(tx, stack_id)
    if stack is None or stack.deleting_since is not None:
        raise StackNotFound(stack_id)
    return stack


def find_all(tx: Transaction, ids: Iterable[str]) -> dict[str, Stack]:
    """The stacks that exist, by id, in the order of ``ids``; without long pod specs."""
    ids = list(dict.fromkeys(ids))
    rows = tx.rows(f"{ALL_STACKS} WHERE stack_id IN {IDS}", (id_array(ids),))
    stacks = {stack.stack_id: stack for stack in map(STACKS.record, rows)}
    return {stack_id: stacks[stack_id] for stack_id in ids if stack_id in stacks}


def with_labels(tx: Transaction, labels: Mapping[str, str], *, unsettled: bool) -> list[str]:
    """The ids of clients' stacks that have all of these labels, in the order of the list; with ``unsettled`` also those
    that are being created or deleted.
    """
    stacks = tx.rows(
        "SELECT stack_id, labels FROM stacks WHERE unassigned = 0"
        " AND (? OR (accepted = 1 AND deleting_since IS NULL))"
        " AND stack_id IN (SELECT stack_id FROM stack_labels WHERE key = lower(?) AND value = lower(?))"
        " ORDER BY created_at, stack_id",
        (unsettled, *next(iter(labels.items()))),
    )
    return [stack_id for stack_id, text in stacks if labels.items() <= json.decode(text).items()]


def pod_specs(tx: Transaction, ids: Collection[str]) -> dict[str, str]:
    """The pod specs of those stacks that exist, by id. They can be long, so ask for a few at a time."""
    return dict(tx.rows(f"SELECT stack_id, pod_spec FROM stacks WHERE stack_id IN {IDS}", (id_array(ids),)))


def insert(tx: Transaction, stack: Stack) -> Stack:
    """Write a new row with its labels, node ports and names; returns the stack.

    Raises IntegrityError (``Conflict`` for the caller of the operation) if its id, a port or a name is another's.
    """
    tx.run(INSERT_STACK, STACKS.values(stack))
    insert_labels(tx, stack)
    hold_ports(tx, stack)
    return stage(tx, stack)


def insert_labels(tx: Transaction, stack: Stack) -> None:
    """Make the stack count for the limits of its labels."""
    if stack.labels:
        tx.run(
            "INSERT OR IGNORE INTO stack_labels (key, value, stack_id)"
            " SELECT lower(key), lower(value), ? FROM json_each(?)",
            (stack.stack_id, labels_text(stack.labels)),
        )


def replace_labels(tx: Transaction, stack: Stack) -> None:
    """Make the stack count for the limits of these labels, and of no others."""
    tx.run("DELETE FROM stack_labels WHERE stack_id = ?", (stack.stack_id,))
    insert_labels(tx, stack)


def save(tx: Transaction, stacks: Sequence[Stack]) -> list[Stack]:
    """Write all columns but the pod spec; returns the stacks."""
    tx.many(UPDATE_STACK, list(map(STACKS.values, stacks)))
    return [stage(tx, stack) for stack in stacks]


def save_one(tx: Transaction, stack: Stack, *, spec: bool = False) -> Stack:
    """As ``save``; with ``spec`` also the pod spec."""
    tx.run(UPDATE_WITH_SPEC if spec else UPDATE_STACK, STACKS.values(stack))
    return stage(tx, stack)


def touched(tx: Transaction, stack: Stack, **changed: Any) -> Stack:
    """The stack with these changes, which a client sees; the wall clock may have been set back since the last one."""
    return replace(stack, updated_at=max(tx.now, stack.updated_at), **changed)


def stage(tx: Transaction, stack: Stack) -> Stack:
    """Show the written stack in the views once the transaction is committed, without a long pod spec; returns it."""
    is_long = stack.pod_spec is not None and len(stack.pod_spec) > LONGEST_KEPT
    tx.stacks.append((stack.stack_id, replace(stack, pod_spec=None) if is_long else stack))
    return stack


def mark_deleting(tx: Transaction, ids: Collection[str], reason: DeleteReason, by: Principal = STACKD) -> list[Stack]:
    """Write the intent to delete; the first reason and time are kept. Returns the stacks, in the order of ``ids``.

    ``DeleteReason.POOL`` applies only to stacks that wait in a pool or are shared, ``DeleteReason.UNDO`` to all stacks,
    other reasons only to those that clients know. All others count as not existing. After an undo the Idempotency-Key can
    be used again.
    """
    stacks = find_all(tx, ids)
    if reason is DeleteReason.POOL:
        stacks = {name: stack for name, stack in stacks.items() if stack.unassigned or stack.shared}
    elif reason is not DeleteReason.UNDO:
        stacks = {name: stack for name, stack in stacks.items() if not stack.unassigned}
    return mark_all_deleting(tx, stacks, reason, by)


def mark_all_deleting(tx: Transaction, stacks: dict[str, Stack], reason: DeleteReason, by: Principal) -> list[Stack]:
    """As ``mark_deleting``, for all of ``stacks``, which must have been read in this transaction."""
    fresh = [
        replace(stack, deleting_since=tx.now, delete_reason=reason)
        for stack in stacks.values()
        if stack.deleting_since is None
    ]
    if fresh:
        save(tx, fresh)
        asked = TimelineEvent(kind=EventKind.DELETE_REQUESTED, at=tx.now, reason=reason.value, by=by)
        history.add(tx, [(stack.stack_id, asked) for stack in fresh if stack.accepted])
    undone = [stack.stack_id for stack in fresh if reason is DeleteReason.UNDO or not stack.accepted]
    if undone:  # their answers were never sent
        tx.run(f"DELETE FROM idempotency WHERE stack_id IN {IDS}", (id_array(undone),))
    return list((stacks | {stack.stack_id: stack for stack in fresh}).values())


def remove(tx: Transaction, ids: Collection[str]) -> int:
    """Delete rows once the cluster has confirmed the deletes. Frees their ports and the keys of unanswered claims.

    Notes the ids as removed in the same transaction. Returns how many rows were deleted.
    """
    array = id_array(ids)
    # The rows go first: on a full disk, what is written about them takes their space.
    gone = tx.rows(
        f"DELETE FROM stacks WHERE stack_id IN {IDS}"
        " RETURNING stack_id, labels, coalesce(delete_reason, ''), accepted, unassigned, coalesce(generated, '{}')",
        (array,),
    )
    if not gone:
        return 0
    drop_unanswered(tx, array)
    known = {stack_id: labels for stack_id, labels, _, accepted, unassigned, _ in gone if accepted and not unassigned}
    removed = [(row[0], tx.now, known.get(row[0], "{}")) for row in gone]
    tx.many("INSERT OR IGNORE INTO removed_stacks VALUES (?, ?, ?)", removed)
    if any(labels != "{}" for labels in known.values()):
        tx.run(history.INSERT_REMOVED_LABELS, (id_array(known),))
    had = ((stack_id, json.decode(generated)) for stack_id, *_, generated in gone if stack_id in known)
    history.note_values(tx, had)
    lines = [
        (stack_id, TimelineEvent(kind=EventKind.DELETED, at=tx.now, reason=reason))
        for stack_id, _, reason, *_ in gone
        if stack_id in known
    ]
    history.add(tx, lines, essential=True)
    history.forget(tx, [stack_id for stack_id, *_, unassigned, _ in gone if unassigned])
    tx.stacks.extend((stack_id, None) for stack_id, *_ in gone)
    return len(gone)


def removed_among(tx: Transaction, ids: Collection[str]) -> frozenset[str]:
    """Those of ``ids`` whose stacks were removed from this file in the last thirty days, undone creates included."""
    removed = tx.rows(f"SELECT stack_id FROM removed_stacks WHERE stack_id IN {IDS}", (id_array(ids),))
    return frozenset(stack_id for (stack_id,) in removed)


def purge_removed(tx: Transaction, before: int, limit: int) -> int:
    """Forget at most ``limit`` ids of stacks that were removed before ``before``; returns how many."""
    return tx.run(
        "DELETE FROM removed_stacks WHERE stack_id IN"
        " (SELECT stack_id FROM removed_stacks WHERE removed_at < ? ORDER BY removed_at LIMIT ?)",
        (before, limit),
    )


def give_back_ports(tx: Transaction, ids: Iterable[str]) -> None:
    array = id_array(ids)
    for table in ("node_ports", "hostnames"):
        tx.run(f"DELETE FROM {table} WHERE stack_id IN {IDS}", (array,))


def hold_ports(tx: Transaction, stack: Stack) -> None:
    """Hold the node ports and names of the stack, if it holds any. Raises IntegrityError if another stack has one."""
    for port in stack.held_ports:
        tx.run(INSERT_NODE_PORT, (port, stack.stack_id))
    hold_hostnames(tx, stack)


def hold_hostnames(tx: Transaction, stack: Stack) -> None:
    """Hold the names of the stack, if it holds its ports. Raises IntegrityError if another stack has one."""
    for routed in stack.routed if stack.ports_held else ():
        tx.run("INSERT INTO hostnames (hostname, stack_id) VALUES (?, ?)", (routed.hostname, stack.stack_id))


# ---- which request came first with an Idempotency-Key, and its response


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One use of an Idempotency-Key within a scope.

    ``fingerprint`` tells whether the same request came again. ``stack_id`` or ``job_id`` is what the request created; both
    are in the claim of a stack that the job creates, which is kept until the job has counted it.
    ``status`` is set once it was answered; the answer itself is rendered again from the stack or the job. ``created_at`` is
    in nanoseconds since the epoch.
    """

    scope: str
    key: str
    fingerprint: bytes
    created_at: int
    stack_id: str | None = None
    job_id: str | None = None
    status: int | None = None

    @property
    def reason(self) -> str:
        """The reason of the timeline's line about the create: whether a job has asked for it."""
        return DeleteReason.BATCH.value if self.job_id is not None else ""


CLAIMS = Columns(Claim)
CLAIMS_PER_KEY = 50_000
"""How many claims of one API key are kept, the latest ones: about 20 MB."""

TOO_MANY_CLAIMS = (
    f"SELECT {schema.CLAIMANT} FROM idempotency INDEXED BY idempotency_claimant GROUP BY 1 HAVING count(*) > ?"
)
OLDEST_CLAIMS = (
    f"DELETE FROM idempotency WHERE rowid IN (SELECT rowid FROM idempotency INDEXED BY idempotency_claimant"
    f" WHERE {schema.CLAIMANT} = ? ORDER BY created_at DESC LIMIT ? OFFSET ?) AND (stack_id IS NULL OR job_id IS NULL)"
)


def insert_claim(tx: Transaction, claim: Claim) -> None:
    """Write a claim. If the key has one already, the primary key refuses it (``Conflict``)."""
    tx.run(f"INSERT INTO idempotency ({CLAIMS.sql}) VALUES ({CLAIMS.parameters})", CLAIMS.values(claim))


def find_claim(tx: Transaction, scope: str, key: str) -> Claim | None:
    row = tx.row(f"SELECT {CLAIMS.sql} FROM idempotency WHERE scope = ? AND key = ?", (scope, key))
    return None if row is None else CLAIMS.record(row)


def answer_claim(tx: Transaction, claim: Claim, status: int) -> None:
    """Note that the request with this key is answered."""
    tx.run("UPDATE idempotency SET status = ? WHERE scope = ? AND key = ?", (status, claim.scope, claim.key))


def drop_unanswered(tx: Transaction, ids: str) -> None:
    """Delete the unanswered claims of these stacks (an ``id_array``), so that a client can use the keys again."""
    tx.run(f"DELETE FROM idempotency WHERE stack_id IN {IDS} AND status IS NULL", (ids,))


def purge_claims(tx: Transaction, before: int, limit: int) -> int:
    """Delete at most ``limit`` claims created before ``before``, and as many of each API key that has more than
    ``CLAIMS_PER_KEY``; returns how many."""
    old = "SELECT rowid FROM idempotency WHERE created_at < ? AND (stack_id IS NULL OR job_id IS NULL) LIMIT ?"
    gone = tx.run(f"DELETE FROM idempotency WHERE rowid IN ({old})", (before, limit))
    keys = [key for (key,) in tx.rows(TOO_MANY_CLAIMS, (CLAIMS_PER_KEY,))]
    return gone + sum(tx.run(OLDEST_CLAIMS, (key, limit, CLAIMS_PER_KEY)) for key in keys)


class Claims(Table):
    """All claims in the file."""

    find = operation(find_claim, writes=False)
    keep = operation(insert_claim, grows=True)
    answer = operation(answer_claim)
