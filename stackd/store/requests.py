"""The operations that a stack's user asks for while it lives: extend, stop, start again.

Owns: what contradicts the present state (``Conflict``, with the sentence for the user), and that an intent is written
before anybody acts on it. Does not know how a pod is stopped or started.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from stackd.errors import Conflict, LabelLimitReached, StackNotFound
from stackd.model import Desired, Happening, Kind, Observation, Stack, StackStatus
from stackd.store import claims, queries, stacks, timeline
from stackd.store.claims import Claim
from stackd.store.transaction import Transaction
from stackd.times import from_nanoseconds

OK = 200
STOPPED_BY_USER = "StoppedByUser"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """``add`` to the time to live, up to ``longest`` since the creation; both in nanoseconds."""

    add: int
    longest: int
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A fresh pod from ``pod_spec``; ``kind`` says which request it was."""

    pod_spec: str
    kind: Kind
    by: str
    label_limits: Mapping[str, int]


def extend(
    tx: Transaction,
    stack_id: str,
    extension: Extension,
    claim: Claim | None,
    answer: Callable[[Stack], bytes] | None,
) -> Stack:
    """A later end. Raises ``Conflict`` when it is too late or too much."""
    before = _in_use(tx, stack_id)
    ends = before.ttl_expires_at + extension.add
    most = before.created_at + extension.longest - before.ttl_expires_at
    if extension.add > most:
        left = f"{most / 1e9:.0f} s more at most" if most > 0 else "no more at all"
        raise Conflict(
            f"{stack_id} cannot be extended that far: it may live {extension.longest / 1e9:.0f} s in all"
            f" (stacks.max_ttl), that is {left}"
        )
    stack = replace(before, ttl_expires_at=ends, updated_at=max(tx.now, before.updated_at))
    stacks.save(tx, [stack])
    _note(tx, stack_id, Kind.EXTENDED, extension.by, message=f"until {from_nanoseconds(ends)}")
    if claim is not None and answer is not None:
        claims.insert(tx, replace(claim, status=OK, answer=answer(stack)))
    return stack


def stop(tx: Transaction, stack_id: str, by: str) -> Stack:
    """The intent to stop; a stack that is to be stopped already stays as it is. Raises ``Conflict``."""
    before = _in_use(tx, stack_id)
    if before.desired is Desired.STOPPED:
        return before
    if before.ended:
        raise Conflict(f"{stack_id} cannot be stopped: its pod has ended already ({before.status_reason})")
    _note(tx, stack_id, Kind.STOP_REQUESTED, by)
    return stacks.save(tx, [replace(before, desired=Desired.STOPPED)])[0]


def stopped(tx: Transaction, stack_id: str) -> Stack | None:
    """The cluster has confirmed that pod and Service are gone. None if that is no longer what is wanted."""
    before = stacks.find(tx, stack_id)
    if before is None or before.desired is not Desired.STOPPED or before.deleting_since is not None:
        return None
    after = replace(
        before,
        status=StackStatus.STOPPED,
        status_reason=STOPPED_BY_USER,
        status_message="stopped by its user; its ports are kept",
        updated_at=max(tx.now, before.updated_at),
        pod_uid=None,
        service_uid=None,
    )
    if before.at_rest:
        return before
    timeline.add(tx, [(stack_id, one) for one in timeline.between(before, after, tx.now)])
    return stacks.save(tx, [after])[0]


def start(tx: Transaction, stack_id: str, wanted: Start) -> Stack:
    """The intent to have a fresh pod behind the same ports, which are taken again if they were given back.

    Raises ``Conflict`` if somebody else has one of them by now, ``LabelLimitReached``.
    """
    before = _in_use(tx, stack_id)
    if before.ended:
        check_labels(tx, before.labels, wanted.label_limits, apart_from=stack_id)
    if not before.ports_held:
        _take_again(tx, before)
    after = replace(
        before,
        pod_spec=wanted.pod_spec,
        status=StackStatus.CREATING,
        status_reason="",
        status_message="",
        updated_at=max(tx.now, before.updated_at),
        node_id=None,
        node_public_ip=None,
        ended=False,
        ports_held=True,
        pod_uid=None,
        service_uid=None,
        desired=Desired.RUNNING,
        generation=before.generation + 1,
    )
    if after.pod_spec != before.pod_spec:
        tx.run(queries.UPDATE_POD_SPEC, (after.pod_spec, stack_id))
    _note(tx, stack_id, wanted.kind, wanted.by)
    return stacks.save(tx, [after])[0]


def started(tx: Transaction, seen: Observation, uids: tuple[str, str]) -> Stack:
    """The fresh pod and its Service are there. Raises ``StackNotFound`` if they are wanted no longer."""
    before = stacks.find_live(tx, seen.stack_id)
    if before.generation != seen.generation or before.desired is not Desired.RUNNING or before.ended:
        raise StackNotFound(seen.stack_id)
    pod_uid, service_uid = uids
    after = replace(stacks.observed(before, seen, tx.now), pod_uid=pod_uid, service_uid=service_uid)
    lines = [*seen.happenings, *timeline.between(before, after, tx.now)]
    timeline.add(tx, [(seen.stack_id, one) for one in lines])
    return stacks.save(tx, [after])[0]


def check_labels(tx: Transaction, labels: Mapping[str, str], limits: Mapping[str, int], *, apart_from: str) -> None:
    """Raise ``LabelLimitReached`` where as many living stacks as allowed have one of these labels already."""
    for key, limit in limits.items():
        value = labels.get(key)
        if value is None:
            continue
        holders = tx.rows(queries.LABEL_HOLDERS, (key, value, apart_from, tx.now, limit))
        if len(holders) >= limit:
            named = ", ".join(stack_id for (stack_id,) in holders[:5])
            raise LabelLimitReached(
                f"label {key}={value} has {len(holders)} of {limit} stacks (limits.stacks_per_label): {named}",
                str(holders[0][0]),
            )


def _in_use(tx: Transaction, stack_id: str) -> Stack:
    stack = stacks.find(tx, stack_id)
    if stack is None:
        raise StackNotFound(stack_id)
    if stack.deleting_since is not None:
        raise Conflict(f"{stack_id} is being deleted")
    if not stack.accepted:
        raise Conflict(f"{stack_id} is still being created")
    if stack.ttl_expires_at <= tx.now:
        raise Conflict(f"{stack_id} has expired")
    return stack


def _take_again(tx: Transaction, stack: Stack) -> None:
    for port in stack.ports:
        try:
            tx.run(queries.INSERT_NODE_PORT, (port.node_port, stack.stack_id))
        except sqlite3.IntegrityError as exc:
            raise Conflict(
                f"{stack.stack_id} gave its ports back when its pod ended, and another stack has node port"
                f" {port.node_port} by now; create a new stack"
            ) from exc
        tx.ports.hold(port.node_port)


def _note(tx: Transaction, stack_id: str, kind: Kind, by: str, message: str = "") -> None:
    timeline.add(tx, [(stack_id, Happening(kind=kind, at=tx.now, message=message, by=by))])
