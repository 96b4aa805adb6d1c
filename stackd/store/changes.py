"""The operations on a living stack: accept, observe, extend, stop, start and expire it.

Owns: when ``updated_at`` changes (when something that a client sees has changed), what contradicts the current state
(``Conflict``, with the message for the user), and that an intent is written before anybody acts on it. Does not know
why the cluster is in the observed state, nor how a pod is stopped or started.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.codes import ErrorCode
from stackd.errors import Conflict, StackDeleting, StackNotFound, TooLongALife
from stackd.model import (
    CLUSTER,
    STACKD,
    DeleteReason,
    Desired,
    EventKind,
    Member,
    Observation,
    Offer,
    PortMapping,
    Principal,
    RoutedPort,
    Stack,
    StackStatus,
    TimelineEvent,
)
from stackd.names import renamed
from stackd.store import history, reservations, rows
from stackd.store.meta import set_meta
from stackd.store.reservations import NO_CREATE_LIMITS, CreateLimits
from stackd.store.rows import Claim
from stackd.store.transaction import Transaction
from stackd.units import format_duration

FUTURE = 60 * NANOSECONDS  # a stack created later than this after now was created by a wrong clock
BY_JOB = DeleteReason.BATCH.value
"""The reason of a timeline's line that a batch job has written."""

STOPPED_BY_USER = "StoppedByUser"
STOPPED_MESSAGE = "stopped by its user; its ports are kept"
LATE = (
    "SELECT stack_id FROM stacks WHERE template = ? AND unassigned = 0 AND deleting_since IS NULL"
    " AND (ttl_expires_at > ? OR ttl_expires_at = ?)"
)
_SHOWN = ("status", "status_reason", "status_message", "node_id", "node_public_ip")
_RESERVED = ("requested_cpu_milli", "requested_memory_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Add ``add`` to the time to live, up to ``longest`` since the creation, and not beyond the time at which its template
    ``closes`` (0: never); all in nanoseconds.

    ``reason`` is the timeline's, here and for a ``Start``: ``BY_JOB``, or empty. ``times``: a player asks for it, who may do so
    that often.
    """

    add: int
    longest: int
    by: Principal
    closes: int = 0
    reason: str = ""
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabelling:
    """What ``labels`` makes of a stack's labels, which raises InvalidRequest for what cannot be."""

    labels: Callable[[Mapping[str, str]], dict[str, str]]
    by: Principal
    limits: CreateLimits = NO_CREATE_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What a stack has of its template once it gets a pod of the template's present version."""

    digest: str
    offer: Offer
    values: Mapping[str, str] = field(repr=False)
    requested_cpu_milli: int
    requested_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A request for a fresh pod from ``pod_spec``; ``kind`` says whether it was a start or a restart. ``renewed``: the pod
    is of another version of the template. ``member``: only this one gets a fresh pod."""

    pod_spec: str = field(repr=False)
    kind: EventKind
    by: Principal
    limits: CreateLimits = NO_CREATE_LIMITS
    reason: str = ""
    message: str = ""
    renewed: Renewed | None = None
    member: str = ""


def accept(
    tx: Transaction,
    seen: Observation,
    *,
    pod_uid: str | None,
    service_uid: str | None,
    claim: Claim | None = None,
    by: Principal = STACKD,
) -> Stack:
    """Complete the create that ``by`` has asked for, with this claim; ``updated_at`` is ``created_at`` at first (API contract).

    Raises ``StackNotFound`` if the row is gone or being deleted.
    """
    before = rows.find_live(tx, seen.stack_id)
    stack = replace(
        _as_seen(before, seen),
        accepted=True,
        updated_at=before.updated_at if before.accepted else before.created_at,
        pod_uid=pod_uid,
        service_uid=service_uid,
        members=seen.members,
    )
    rows.save_one(tx, stack)
    if not before.accepted:
        at = min([tx.now, *(event.at for event in seen.events)])
        lines = [TimelineEvent(kind=EventKind.SCHEDULED, at=at, message=f"on {stack.node_id}", by=CLUSTER)]
        if not before.unassigned:
            why = claim.reason if claim is not None else ""
            lines.insert(0, TimelineEvent(kind=EventKind.ACCEPTED, at=before.created_at, reason=why, by=by))
        lines += [*seen.events, *history.between(before, stack, tx.now)]
        history.add(tx, [(stack.stack_id, line) for line in lines])
    if claim is not None:
        rows.answer_claim(tx, claim, rows.CREATED)
    return stack


def observe(tx: Transaction, seen: Sequence[Observation]) -> list[Stack]:
    """Write the observations that differ from their rows; returns the stacks that changed.

    ``updated_at`` changes if status, reason, message, node, address or requests changed. Rows that are gone or being
    deleted are skipped. For an ended stack, only observations of the ended pod are written.
    """
    stacks = rows.find_all(tx, (observation.stack_id for observation in seen))
    changed: dict[str, Stack] = {}
    lines: list[tuple[str, TimelineEvent]] = []
    for observation in seen:
        before = stacks.get(observation.stack_id)
        if before is None or not differs(before, observation):
            continue
        after = _observed(tx, before, observation)
        events = (*observation.events, *history.between(before, after, tx.now))
        lines += [(observation.stack_id, event) for event in events]
        if after != before:
            stacks[observation.stack_id] = changed[observation.stack_id] = after
    history.add(tx, lines)
    return rows.save(tx, list(changed.values())) if changed else []


def differs(stack: Stack, seen: Observation) -> bool:
    """Whether an observation is news.

    Observations of a stack that is being deleted or stopped, or of an earlier pod, never are. Once the pod has ended
    for good, neither are those from before its end.
    """
    if stack.deleting_since is not None or (stack.ended and not seen.ended):
        return False
    if stack.generation != seen.generation or stack.desired is Desired.STOPPED:
        return False
    return stack.ended != seen.ended or bool(_news(stack, seen)) or bool(seen.events)


def _news(stack: Stack, seen: Observation) -> dict[str, Any]:
    """The fields that a client sees and that the observation changes, with their new values. Of a stack that has ended, some
    pods may be gone: what all of them requested stays."""
    news = {name: value for name in _SHOWN if (value := getattr(seen, name)) != getattr(stack, name)}
    for name in () if seen.ended else _RESERVED:
        if (value := getattr(seen, name)) not in (0, getattr(stack, name)):
            news[name] = value
    return news


def _as_seen(stack: Stack, seen: Observation) -> Stack:
    if stack.ended and not seen.ended:
        return stack  # the observation is older than the end of the pod
    return replace(stack, ended=seen.ended, **_news(stack, seen))


def _observed(tx: Transaction, before: Stack, seen: Observation) -> Stack:
    after = _as_seen(before, seen)
    return after if after is before or not _news(before, seen) else rows.touched(tx, after)


def mark_expired(tx: Transaction, ids: Collection[str]) -> list[Stack]:
    """Write the intent to delete those of ``ids`` that have expired by their current rows."""
    stacks = rows.find_all(tx, ids).items()
    expired = {name: row for name, row in stacks if row.ttl_expires_at <= tx.now and not (row.unassigned or row.shared)}
    return rows.mark_all_deleting(tx, expired, DeleteReason.EXPIRED, STACKD)


def set_pending_reason(tx: Transaction, stack_id: str, reason: str, message: str) -> None:
    """Write the reason why a stack that is to be deleted or stopped still exists, or still has its pod."""
    before = rows.find(tx, stack_id)
    if before is None or (before.deleting_since is None and (before.desired is not Desired.STOPPED or before.at_rest)):
        return
    if (before.status_reason, before.status_message) != (reason, message):
        rows.save_one(tx, rows.touched(tx, before, status_reason=reason, status_message=message))


def shorten_future(tx: Transaction, longest: int) -> list[Stack]:
    """Shorten the lives of stacks that were created in the future, while the clock was ahead.

    Those that would expire later than ``longest`` nanoseconds from now get their whole time to live from now on, but at
    most ``longest``. Returns the changed stacks.
    """
    future = [row[0] for row in tx.rows("SELECT stack_id FROM stacks WHERE created_at > ?", (tx.now + FUTURE,))]
    changed = []
    for stack in rows.find_all(tx, future).values():
        if stack.deleting_since is None and stack.ttl_expires_at > tx.now + longest:
            lives = stack.ttl_expires_at - stack.created_at
            ends = tx.now + (lives if 0 < lives < longest else longest)
            changed.append(replace(stack, ttl_expires_at=ends, updated_at=tx.now))
            message = f"made while the clock was ahead; it ends at {from_nanoseconds(ends)}"
            history.note(tx, stack.stack_id, EventKind.WARNING, reason="ClockSetBack", message=message)
    return rows.save(tx, changed) if changed else []


def extend(tx: Transaction, stack_id: str, extension: Extension, *, claim: Claim | None = None) -> Stack:
    """Extend the stack; ``claim`` is kept without an answer (``Claims.answer``).

    Raises ``StackNotFound``; ``Conflict``, with the longest extension that is possible.
    """
    before = _in_use(tx, stack_id)
    _require_alive(before, "extended")
    if extension.times is not None and before.extensions >= extension.times:
        raise TooLongALife(f"{stack_id} was extended {before.extensions} times, as often as its template allows", "")
    ends = before.ttl_expires_at + extension.add
    latest = min(before.created_at, tx.now) + extension.longest
    why = f"it may live {format_duration(extension.longest / 1e9)} in all (stacks.max_ttl)"
    if 0 < extension.closes < latest:
        latest, why = extension.closes, f"its template closes at {from_nanoseconds(extension.closes)}"
    most = latest - before.ttl_expires_at
    if extension.add > most:
        possible = format_duration(most // 10**9) if most >= NANOSECONDS else ""
        rest = f"so at most {possible} more" if possible else "so it cannot be extended further"
        raise TooLongALife(f"{stack_id} cannot be extended that far: {why}, {rest}", possible)
    message = f"until {from_nanoseconds(ends)}"
    history.note(tx, stack_id, EventKind.EXTENDED, reason=extension.reason, message=message, by=extension.by)
    if claim is not None:
        rows.insert_claim(tx, replace(claim, stack_id=stack_id))
    extensions = before.extensions + (extension.times is not None)
    return rows.save_one(tx, rows.touched(tx, before, ttl_expires_at=ends, extensions=extensions))


def relabel(tx: Transaction, stack_id: str, change: Relabelling) -> Stack:
    """Give the stack the labels that ``change`` makes of its own; no change if it has them.

    Raises ``StackNotFound``, ``Conflict``; ``LabelLimitReached`` if the stack lives, and as many as allowed have a label that
    is new to it.
    """
    before = _in_use(tx, stack_id)
    labels = change.labels(before.labels)
    if labels == before.labels:
        return before
    if not before.ended:
        new = dict(labels.items() - before.labels.items())
        reservations.check_labels(tx, new, change.limits, cost=before.cost, apart_from=stack_id)
    after = rows.touched(tx, before, labels=MappingProxyType(labels), relabelled=before.relabelled + 1)
    rows.replace_labels(tx, after)
    gone = (f"{name}-" for name in before.labels if name not in labels)
    said = [*(f"{name}={value}" for name, value in labels.items() if before.labels.get(name) != value), *gone]
    history.note(tx, stack_id, EventKind.LABELLED, message=" ".join(said), by=change.by)
    return rows.save_one(tx, after)


def stop(tx: Transaction, stack_id: str, by: Principal, reason: str = "") -> Stack:
    """Write the intent to stop; no change if it is already written. Raises ``StackNotFound``, ``Conflict``."""
    before = _in_use(tx, stack_id)
    if before.desired is Desired.STOPPED:
        return before
    _require_alive(before, "stopped")
    history.note(tx, stack_id, EventKind.STOP_REQUESTED, reason=reason, by=by)
    return rows.save_one(tx, replace(before, desired=Desired.STOPPED))


def stopped(tx: Transaction, stack_id: str) -> Stack | None:
    """Mark the stack as stopped, once its pod is confirmed gone. None if it is not to be stopped any more."""
    before = rows.find(tx, stack_id)
    if before is None or before.desired is not Desired.STOPPED or before.deleting_since is not None:
        return None
    if before.at_rest:
        return before
    shown = {"status": StackStatus.STOPPED, "status_reason": STOPPED_BY_USER, "status_message": STOPPED_MESSAGE}
    after = rows.touched(tx, before, **shown, pod_uid=None, members=_without_pods(before) if before.members else ())
    history.add(tx, [(stack_id, line) for line in history.between(before, after, tx.now)])
    return rows.save_one(tx, after)


def _without_pods(stack: Stack, *, later: int = 0) -> tuple[Member, ...]:
    """Its members without pods; those that they get are so many generations ``later``, and know other addresses."""
    return tuple(
        replace(one, generation=one.generation + later, pod_uid=None, node_id=None, address="") for one in stack.members
    )


def start(tx: Transaction, stack_id: str, wanted: Start) -> Stack:
    """Write the intent to have a fresh pod behind the same ports, which are held again if they were released; instead
    of released names, there are new ones.

    Raises ``StackNotFound``; ``Conflict``, also if another stack holds one of the ports by now; ``LabelLimitReached``.
    """
    before = _in_use(tx, stack_id)
    if wanted.member:
        return _start_member(tx, before, wanted)
    if before.ended:
        cost = before.cost if wanted.renewed is None else wanted.renewed.offer.cost
        reservations.check_labels(tx, before.labels, wanted.limits, cost=cost, apart_from=stack_id)
        reservations.check_quotas(tx, wanted.limits.quotas, before.template)
    after = rows.touched(
        tx,
        before,
        ports=before.ports if before.ports_held else _take_again(tx, before),
        pod_spec=wanted.pod_spec,
        status=StackStatus.CREATING,
        status_reason="",
        status_message="",
        # The earlier pod of a shared stack serves until the new one is ready, on whatever node.
        node_id=before.node_id if before.shared else None,
        node_public_ip=before.node_public_ip if before.shared else None,
        ended=False,
        ports_held=True,
        pod_uid=None,
        desired=Desired.RUNNING,
        generation=before.generation + 1,
        members=_without_pods(before, later=1) if before.members else (),
        **({} if wanted.renewed is None else {of.name: getattr(wanted.renewed, of.name) for of in fields(Renewed)}),
    )
    if wanted.renewed is not None:
        replaced = {name: value for name, value in before.values.items() if after.values.get(name) != value}
        history.note_values(tx, [(stack_id, replaced)])
    history.note(tx, stack_id, wanted.kind, reason=wanted.reason, message=wanted.message, by=wanted.by)
    return rows.save_one(tx, after, spec=after.pod_spec != before.pod_spec)


def _start_member(tx: Transaction, before: Stack, wanted: Start) -> Stack:
    """Its Service stays, so the other pods find it at the same address."""
    _require_alive(before, "restarted in part")
    if before.desired is Desired.STOPPED:
        sentence = f"{before.stack_id} is stopped: start all of it"
        raise Conflict(sentence, code=ErrorCode.STACK_ENDED)
    members = tuple(
        replace(one, generation=one.generation + 1, pod_uid=None, node_id=None) if one.name == wanted.member else one
        for one in before.members
    )
    shown = {"status": StackStatus.CREATING, "status_reason": "", "status_message": ""}
    message = f"member {wanted.member}"
    history.note(tx, before.stack_id, wanted.kind, reason=wanted.reason, message=message, by=wanted.by)
    return rows.save_one(tx, rows.touched(tx, before, **shown, members=members))


def started(tx: Transaction, seen: Observation, *, pod_uid: str, service_uid: str | None) -> Stack:
    """Write that the new pods and their Service exist. Raises ``StackNotFound`` if the stack no longer needs them."""
    before = rows.find_live(tx, seen.stack_id)
    if before.generation != seen.generation or before.desired is not Desired.RUNNING or before.ended:
        raise StackNotFound(seen.stack_id)
    if before.members and [one.generation for one in before.members] != [one.generation for one in seen.members]:
        raise StackNotFound(seen.stack_id)
    after = replace(_observed(tx, before, seen), pod_uid=pod_uid, service_uid=service_uid, members=seen.members)
    # The timeline has the line about a port since it was replaced.
    events = [event for event in seen.events if event.reason != reservations.PORT_REPLACED]
    history.add(tx, [(seen.stack_id, line) for line in (*events, *history.between(before, after, tx.now))])
    return rows.save_one(tx, after)


def close(tx: Transaction, template: str, *, closes: int, longest: int) -> list[Stack]:
    """Have no stack of the template end later than it ``closes`` (0: never). Those that would have ended when it closed as the
    file has it end when it closes now, but within ``longest`` of their creation. In nanoseconds. Returns the changed ones."""
    key, changed = f"closes:{template}", []
    before = int((tx.row("SELECT value FROM meta WHERE key = ?", (key,)) or ("0",))[0])
    for (stack_id,) in tx.rows(LATE, (template, closes, before)) if closes else ():
        stack = rows.find_live(tx, stack_id)
        ends = closes if stack.ttl_expires_at > closes else min(closes, max(before, stack.created_at + longest))
        if ends != stack.ttl_expires_at:
            changed.append(rows.touched(tx, stack, ttl_expires_at=ends))
            message = f"its template closes; it ends at {from_nanoseconds(ends)}"
            history.note(tx, stack_id, EventKind.WARNING, reason="TemplateCloses", message=message)
    if closes != before:
        set_meta(tx, key, str(closes) if closes else None)
    return rows.save(tx, changed) if changed else []


def keep(tx: Transaction, stack_id: str, until: int) -> Stack:
    """Put the end of a shared stack off; none of its clients asked for that. Raises ``StackNotFound``."""
    return rows.save_one(tx, rows.touched(tx, rows.find_live(tx, stack_id), ttl_expires_at=until))


def serve(tx: Transaction, stack_id: str, generation: int) -> None:
    """Have the Service of a shared stack select the pod of this generation. Raises ``StackNotFound``."""
    rows.save_one(tx, rows.touched(tx, rows.find_live(tx, stack_id), serving=generation))


def set_service(tx: Transaction, stack_id: str, service_uid: str) -> None:
    """Set the uid of a living stack's Service. Raises ``StackNotFound``."""
    rows.save_one(tx, replace(rows.find_live(tx, stack_id), service_uid=service_uid))


def _in_use(tx: Transaction, stack_id: str) -> Stack:
    stack = rows.find(tx, stack_id)
    if stack is None or stack.unassigned:
        raise StackNotFound(stack_id)
    if stack.deleting_since is not None:
        raise StackDeleting(stack_id)
    if not stack.accepted:
        raise Conflict(f"{stack_id} is still being created", code=ErrorCode.STACK_CREATING)
    if stack.ttl_expires_at <= tx.now and not stack.shared:
        raise Conflict(f"{stack_id} has expired", code=ErrorCode.STACK_EXPIRED)
    return stack


def _require_alive(stack: Stack, what: str) -> None:
    if stack.ended:
        sentence = f"{stack.stack_id} cannot be {what}: its pod has ended ({stack.status_reason}); restart or delete it"
        raise Conflict(sentence, code=ErrorCode.STACK_ENDED)


def _take_again(tx: Transaction, stack: Stack) -> tuple[PortMapping, ...]:
    for port in stack.node_ports:
        try:
            tx.run(rows.INSERT_NODE_PORT, (port, stack.stack_id))
        except sqlite3.IntegrityError as exc:
            raise Conflict(
                f"{stack.stack_id} gave its ports back when its pod ended, and another stack has node port"
                f" {port} by now; create a new stack",
                code=ErrorCode.PORT_TAKEN,
            ) from exc
    ports = tuple(
        replace(port, host=renamed(port.host)) if isinstance(port, RoutedPort) else port for port in stack.ports
    )
    rows.hold_hostnames(tx, replace(stack, ports=ports, ports_held=True))
    return ports
