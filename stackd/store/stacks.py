"""The operations on stacks after their reservation: accept, observe, mark deleting, remove.

Owns: when ``updated_at`` moves (something that a client sees has changed), and that an intent to delete never goes
back. Does not know why the cluster is as it was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from stackd.errors import StackNotFound
from stackd.model import DeleteReason, Desired, Happening, Kind, Observation, Stack
from stackd.store import claims, queries, rows, timeline
from stackd.store.transaction import Transaction

CREATED = 201  # the status that a create is answered with (API contract)


def find(tx: Transaction, stack_id: str) -> Stack | None:
    """The row as it is within this transaction."""
    row = tx.row(queries.FIND_STACK, (stack_id,))
    return None if row is None else rows.stack_from_row(row)


def find_all(tx: Transaction, ids: Iterable[str]) -> dict[str, Stack]:
    """The rows that exist, by id, in the order of ``ids``."""
    wanted = list(dict.fromkeys(ids))
    found = {row[0]: rows.stack_from_row(row) for row in tx.rows(queries.FIND_STACKS, (rows.id_array(wanted),))}
    return {stack_id: found[stack_id] for stack_id in wanted if stack_id in found}


def find_live(tx: Transaction, stack_id: str) -> Stack:
    """The row; ``StackNotFound`` if it is gone or being deleted."""
    stack = find(tx, stack_id)
    if stack is None or stack.deleting_since is not None:
        raise StackNotFound(stack_id)
    return stack


def save(tx: Transaction, stacks: Sequence[Stack]) -> list[Stack]:
    """Write what may change of each."""
    tx.many(queries.UPDATE_STACK, [rows.stack_to_update(stack) for stack in stacks])
    return [tx.put_stack(stack) for stack in stacks]


def accept(
    tx: Transaction,
    seen: Observation,
    uids: tuple[str | None, str | None],
    answer: Callable[[Stack], bytes] | None,
    by: str,
) -> Stack:
    """The create is completed. The first answer shows ``updated_at`` as ``created_at`` (API contract)."""
    before = find_live(tx, seen.stack_id)
    pod_uid, service_uid = uids
    stack = replace(
        _as_seen(before, seen),
        accepted=True,
        updated_at=before.updated_at if before.accepted else before.created_at,
        pod_uid=pod_uid,
        service_uid=service_uid,
    )
    save(tx, [stack])
    if not before.accepted:
        accepted = Happening(kind=Kind.ACCEPTED, at=before.created_at, by=by)
        scheduled = Happening(kind=Kind.SCHEDULED, at=tx.now, message=f"on {stack.node_id}", by="cluster")
        timeline.add(tx, [(stack.stack_id, accepted), (stack.stack_id, scheduled)])
    if answer is not None and claims.unanswered_for_stack(tx, stack.stack_id):
        claims.answer_for_stack(tx, stack.stack_id, CREATED, answer(stack))
    return stack


def observe(tx: Transaction, seen: Sequence[Observation]) -> list[Stack]:
    """Write what differs; rows that are gone or being deleted are skipped."""
    stacks = find_all(tx, (one.stack_id for one in seen))
    changed: dict[str, Stack] = {}
    lines: list[tuple[str, Happening]] = []
    for one in seen:
        before = stacks.get(one.stack_id)
        if before is None or not differs(before, one):
            continue
        after = observed(before, one, tx.now)
        lines += [(one.stack_id, line) for line in (*one.happenings, *timeline.between(before, after, tx.now))]
        if after != before:
            stacks[one.stack_id] = changed[one.stack_id] = after
    timeline.add(tx, lines)
    return save(tx, list(changed.values())) if changed else []


def differs(stack: Stack, seen: Observation) -> bool:
    """Whether an observation is news.

    Not of a stack that is being deleted or stopped, nor of a pod that it had before; and once the pod has ended for
    good, not what was seen of it before that.
    """
    if stack.deleting_since is not None or (stack.ended and not seen.ended):
        return False
    if stack.generation != seen.generation or stack.desired is Desired.STOPPED:
        return False
    return stack.ended != seen.ended or _visible(stack) != _visible(seen) or bool(seen.happenings)


def mark_deleting(tx: Transaction, ids: Iterable[str], reason: DeleteReason, by: str) -> list[Stack]:
    """Keep the intent to delete; the first reason and time stay. Rows that exist, in the order of ``ids``."""
    return mark_all_deleting(tx, find_all(tx, ids), reason, by)


def mark_expired(tx: Transaction, ids: Iterable[str]) -> list[Stack]:
    """Keep the intent to delete those whose time is up, and was not put off by somebody just before."""
    expired = {name: stack for name, stack in find_all(tx, ids).items() if stack.ttl_expires_at <= tx.now}
    return mark_all_deleting(tx, expired, DeleteReason.EXPIRED, "stackd")


def mark_all_deleting(tx: Transaction, stacks: dict[str, Stack], reason: DeleteReason, by: str) -> list[Stack]:
    """The same for rows that were read in this transaction."""
    fresh = [
        replace(stack, deleting_since=tx.now, delete_reason=reason)
        for stack in stacks.values()
        if stack.deleting_since is None
    ]
    if fresh:
        save(tx, fresh)
        asked = Happening(kind=Kind.DELETE_REQUESTED, at=tx.now, reason=reason.value, by=by)
        timeline.add(tx, [(stack.stack_id, asked) for stack in fresh if stack.accepted])
    unanswered = [stack.stack_id for stack in fresh if not stack.accepted]
    if unanswered:
        claims.drop_unanswered(tx, rows.id_array(unanswered))
    return list((stacks | {stack.stack_id: stack for stack in fresh}).values())


def remove(tx: Transaction, ids: Iterable[str]) -> int:
    """The cluster has confirmed: rows go, ports are free, keys that were never answered too. How many rows went."""
    array = rows.id_array(ids)
    for (port,) in tx.rows(queries.DELETE_NODE_PORTS_OF, (array,)):
        tx.ports.put(port)
    timeline.add_deleted(tx, array)
    gone = tx.rows(queries.DELETE_STACKS, (array,))
    if gone:
        claims.drop_unanswered(tx, array)
    tx.stacks.extend((stack_id, None) for (stack_id,) in gone)
    return len(gone)


def _visible(stack: Stack | Observation) -> tuple[object, ...]:
    address = (stack.node_id, stack.node_public_ip)
    return (stack.status, stack.status_reason, stack.status_message, *address)


def _as_seen(stack: Stack, seen: Observation) -> Stack:
    if stack.ended and not seen.ended:
        return stack  # it was seen before the end, and is written after it
    return replace(
        stack,
        status=seen.status,
        status_reason=seen.status_reason,
        status_message=seen.status_message,
        node_id=seen.node_id,
        node_public_ip=seen.node_public_ip,
        ended=seen.ended,
    )


def observed(before: Stack, seen: Observation, now: int) -> Stack:
    """The row with what was seen in it."""
    after = _as_seen(before, seen)
    if _visible(before) == _visible(after):
        return after
    return replace(after, updated_at=max(now, before.updated_at))  # the wall clock may have been set back
