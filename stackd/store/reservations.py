"""The operations that give a create its stack: reserve a new one, or assign one from a pool.

Owns: a stack is reserved with all of its node ports, or not at all. A stack of a pool is given away once, alive and
from the right template (invariant 11), by one UPDATE that matches the row or not. Owns, too, the limits of stacks in
all and of living stacks with the same label. The caller must know whether a pod can be relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType

import orjson

from stackd.errors import NO_ROOM, LabelLimitReached, NoNodePort, Unavailable
from stackd.model import (
    NO_LABELS,
    NO_LIMITS,
    EventKind,
    NewStack,
    PortMapping,
    RoutedPort,
    Stack,
    StackStatus,
    TargetPort,
    TimelineEvent,
)
from stackd.store import claims, rows, timeline
from stackd.store.claims import Claim
from stackd.store.ports import find_free
from stackd.store.transaction import Transaction

FROM_POOL = "FromPool"
LABEL_HOLDERS = (
    "SELECT s.stack_id, s.labels FROM stack_labels AS l CROSS JOIN stacks AS s ON s.stack_id = l.stack_id"
    " WHERE l.key = ? AND l.value = ? AND s.stack_id <> ? AND s.deleting_since IS NULL AND s.ended = 0"
    " AND s.ttl_expires_at > ? ORDER BY s.created_at, s.stack_id"
)

# This UPDATE matches each row at most once (invariant 11).
ASSIGN_STACK = (
    "UPDATE stacks SET unassigned = 0, labels = ?, created_at = ?, updated_at = ?, ttl_expires_at = ?"
    " WHERE stack_id = ? AND unassigned = 1 AND digest = ? AND accepted = 1 AND ended = 0 AND deleting_since IS NULL"
    f" AND desired = 'running' AND status IN ('creating', 'running') RETURNING {rows.COLUMNS}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A request for a stack of a pool, for ``by``; times in nanoseconds. ``digest`` is the template's current one."""

    stack_id: str
    digest: str
    created_at: int
    ttl_expires_at: int
    by: str
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    max_stacks: int | None = None
    label_limits: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)


def reserve(
    tx: Transaction,
    new: NewStack,
    *,
    claim: Claim | None = None,
    max_stacks: int | None = None,
    label_limits: Mapping[str, int] = NO_LIMITS,
    among: Mapping[str, str] = NO_LABELS,
) -> Stack:
    """Insert a row: ``creating``, not accepted, with a random free node port for each target port that has no name
    instead, or no row at all.

    Raises ``NoNodePort``; ``Conflict`` if the claim's key is in use; ``Unavailable`` at ``max_stacks`` rows;
    ``LabelLimitReached`` if as many living stacks as ``label_limits`` allows have the same value of a label.
    """
    if new.labels and label_limits:
        check_labels(tx, new.labels, label_limits, among)
    _check_max_stacks(tx, max_stacks)
    free = iter(find_free(tx, sum(isinstance(port, TargetPort) for port in new.target_ports)))
    ports = tuple(
        port
        if isinstance(port, RoutedPort)
        else PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=next(free))
        for port in new.target_ports
    )
    stack = rows.insert(tx, _fresh(new, ports))
    rows.hold_ports(tx, stack)
    if claim is not None:
        claims.insert(tx, replace(claim, stack_id=new.stack_id))
    return tx.put_stack(stack)


def assign(
    tx: Transaction,
    wanted: Assignment,
    *,
    claim: Claim | None = None,
    answer: Callable[[Stack], bytes] | None = None,
) -> Stack | None:
    """Give a stack of a pool to a client, and keep the response to its create under the claim. None if it is gone,
    given away or no longer usable.

    Raises ``LabelLimitReached``, ``Unavailable`` and ``Conflict`` as ``reserve`` does; then the stack stays in the
    pool. ``answer`` as for ``accept``.
    """
    labels = rows.labels_text(wanted.labels)
    times = (wanted.created_at, wanted.created_at, wanted.ttl_expires_at)
    row = tx.row(ASSIGN_STACK, (labels, *times, wanted.stack_id, wanted.digest))
    if row is None:
        return None
    stack = rows.from_row(row)
    # The counts below include the stack itself by now.
    if wanted.labels and wanted.label_limits:
        check_labels(tx, wanted.labels, wanted.label_limits, wanted.among, apart_from=wanted.stack_id)
    _check_max_stacks(tx, wanted.max_stacks, there=1)
    if wanted.labels:
        tx.run(rows.INSERT_LABELS, (stack.stack_id, labels))
    if claim is not None:
        kept = replace(claim, stack_id=stack.stack_id)
        if answer is not None:
            kept = replace(kept, status=claims.CREATED, answer=answer(stack))
        claims.insert(tx, kept)
    given = TimelineEvent(
        kind=EventKind.ACCEPTED, at=wanted.created_at, reason=FROM_POOL, message="it waited in the pool", by=wanted.by
    )
    timeline.add(tx, [(stack.stack_id, given)])
    return tx.put_stack(stack)


def check(
    tx: Transaction,
    labels: Mapping[str, str],
    *,
    ports: int,
    max_stacks: int | None = None,
    label_limits: Mapping[str, int] = NO_LIMITS,
    among: Mapping[str, str] = NO_LABELS,
) -> None:
    """Raise what ``reserve`` would raise for a stack with these labels and so many ports; write nothing.

    Ports of stacks that wait in a pool count as free: a create takes such a stack, or has one deleted.
    """
    if labels and label_limits:
        check_labels(tx, labels, label_limits, among)
    _check_max_stacks(tx, max_stacks)
    try:
        find_free(tx, ports)
    except NoNodePort:
        if not tx.row(rows.ANY_UNASSIGNED):
            raise


def check_labels(
    tx: Transaction,
    labels: Mapping[str, str],
    limits: Mapping[str, int],
    among: Mapping[str, str] = NO_LABELS,
    *,
    apart_from: str = "",
) -> None:
    """Raise ``LabelLimitReached`` if as many living stacks as allowed already have one of these labels.

    Only the stacks that have all labels of ``among`` count, and are named: those that the caller may see.
    Letter case does not count, as for ``limits.creates_per_label``: another spelling of a player is the same player.
    """
    wanted = {(key.lower(), value.lower()) for key, value in labels.items()}
    for key, limit in limits.items():
        for name, value in labels.items():
            if name.lower() != key.lower():
                continue
            holders = tx.rows(LABEL_HOLDERS, (key.lower(), value.lower(), apart_from, tx.now))
            if among:
                holders = [holder for holder in holders if among.items() <= orjson.loads(holder[1]).items()]
            if len(holders) >= limit:
                named = ", ".join(stack_id for stack_id, _ in holders[:5])
                raise LabelLimitReached(
                    f"label {key}={value} has {len(holders)} of {limit} stacks (limits.stacks_per_label): {named}",
                    str(holders[0][0]),
                    same=next((str(stack_id) for stack_id, text in holders if wanted <= _folded(text)), ""),
                )


def _folded(labels: str) -> set[tuple[str, str]]:
    return {(key.lower(), value.lower()) for key, value in orjson.loads(labels).items()}


def _check_max_stacks(tx: Transaction, max_stacks: int | None, *, there: int = 0) -> None:
    """Raise ``Unavailable`` if there are as many stacks as allowed, not counting ``there`` of them."""
    if max_stacks is not None and rows.count_assigned(tx) - there >= max_stacks:
        sentence = f"the limit of {max_stacks} stacks in all is reached (limits.max_stacks)"
        raise Unavailable(sentence, retry_after=30, player_message=NO_ROOM)


def _fresh(new: NewStack, ports: tuple[PortMapping, ...]) -> Stack:
    given = {one.name: getattr(new, one.name) for one in fields(new) if one.name != "target_ports"}
    given["labels"] = MappingProxyType(dict(new.labels))
    return Stack(**given, ports=ports, status=StackStatus.CREATING, updated_at=new.created_at)
