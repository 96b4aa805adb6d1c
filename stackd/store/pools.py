"""The operation that gives a stack away which waits in a pool.

Owns: that it is given once, alive and from the right template (invariant 11), by one update that finds the row or does not.
Whether its pod can be relied on is the caller's to know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import orjson

from stackd.errors import Unavailable
from stackd.model import NO_LABELS, NO_LIMITS, EventKind, Stack, TimelineEvent
from stackd.store import changes, claims, reservations, rows, timeline
from stackd.store.claims import Claim
from stackd.store.transaction import Transaction

FROM_POOL = "FromPool"

# What this update finds, it finds once (invariant 11).
ASSIGN_STACK = (
    "UPDATE stacks SET unassigned = 0, labels = ?, created_at = ?, updated_at = ?, ttl_expires_at = ?"
    " WHERE stack_id = ? AND unassigned = 1 AND digest = ? AND accepted = 1 AND ended = 0 AND deleting_since IS NULL"
    f" AND desired = 'running' AND status = 'running' RETURNING {', '.join(rows.StackRow._fields)}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A stack of a pool for ``by``; times in nanoseconds. Only one that was made from the template as it is: ``digest``."""

    stack_id: str
    digest: str
    created_at: int
    ttl_expires_at: int
    by: str
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    max_stacks: int | None = None
    label_limits: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)


def assign(
    tx: Transaction,
    wanted: Assignment,
    *,
    claim: Claim | None = None,
    answer: Callable[[Stack], bytes] | None = None,
) -> Stack | None:
    """A stack of a pool, given away whole, with the answer to its create kept under the claim; None if it is not to be had any
    more.

    Raises ``LabelLimitReached``, ``Unavailable`` and ``Conflict`` as ``reserve`` does; then it waits as before.
    ``answer`` as for ``accept``.
    """
    labels = orjson.dumps(dict(wanted.labels), option=orjson.OPT_SORT_KEYS).decode()
    times = (wanted.created_at, wanted.created_at, wanted.ttl_expires_at)
    row = tx.row(ASSIGN_STACK, (labels, *times, wanted.stack_id, wanted.digest))
    if row is None:
        return None
    stack = rows.from_row(row)
    _check_limits(tx, wanted)
    if wanted.labels:
        tx.run(rows.INSERT_LABELS, (stack.stack_id, labels))
    if claim is not None:
        kept = replace(claim, stack_id=stack.stack_id)
        if answer is not None:
            kept = replace(kept, status=changes.CREATED, answer=answer(stack))
        claims.insert(tx, kept)
    given = TimelineEvent(
        kind=EventKind.ACCEPTED, at=wanted.created_at, reason=FROM_POOL, message="it waited in the pool", by=wanted.by
    )
    timeline.add(tx, [(stack.stack_id, given)])
    return tx.put_stack(stack)


def _check_limits(tx: Transaction, wanted: Assignment) -> None:
    """Raise what ``reserve`` would; the stack itself is among those that are counted by now."""
    if wanted.labels and wanted.label_limits:
        reservations.check_labels(tx, wanted.labels, wanted.label_limits, apart_from=wanted.stack_id)
    if wanted.max_stacks is not None and rows.count_assigned(tx) > wanted.max_stacks:
        raise Unavailable(reservations.too_many(wanted.max_stacks), retry_after=30)
