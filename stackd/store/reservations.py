"""The operations that give and take node ports: reserve, replace a port, release, adopt, renew.

Owns: a stack holds all of its ports or none, each by the primary key of ``node_ports``; the pool only proposes. Owns the
limit of living stacks with the same label, too, and what a pod's record says that is newer than the row of a file that is
older than the cluster: a delete that the row intends stays intended; a stop, too, unless the stack was started since. What
waits in a pool may have been given away since: where its pod does not say so, it loses its digest, is given to nobody, and
lives for as long as whoever may have it could expect.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from stackd.errors import LabelLimitReached, NoNodePort, Unavailable
from stackd.model import (
    NO_LIMITS,
    DeleteReason,
    Desired,
    EventKind,
    NewStack,
    PortMapping,
    PortRange,
    Stack,
    StackStatus,
    TimelineEvent,
)
from stackd.store import claims, failures, rows, timeline
from stackd.store.claims import Claim
from stackd.store.ports import PortCounts, PortsView
from stackd.store.transaction import ADOPTION, Submit, Table, Transaction, id_array, operation

PORT_REPLACED = "NodePortReplaced"
REMOVED = "the stack was removed"
LABEL_HOLDERS = (
    "SELECT s.stack_id FROM stack_labels AS l CROSS JOIN stacks AS s ON s.stack_id = l.stack_id"
    " WHERE l.key = ? AND l.value = ? AND s.stack_id <> ? AND s.deleting_since IS NULL AND s.ended = 0"
    " AND s.ttl_expires_at > ? ORDER BY s.created_at, s.stack_id LIMIT ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What became of a record handed to ``adopt``: the stack, or the reason why not."""

    stack_id: str
    stack: Stack | None = None
    reason: str = ""


def reserve(
    tx: Transaction,
    new: NewStack,
    *,
    claim: Claim | None = None,
    max_stacks: int | None = None,
    label_limits: Mapping[str, int] = NO_LIMITS,
) -> Stack:
    """A row ``creating``, not accepted, with a random free node port for each target port: all or nothing.

    Raises ``NoNodePort``; ``Conflict`` if the claim's key is in use; ``Unavailable`` at ``max_stacks`` rows;
    ``LabelLimitReached`` if as many living stacks as ``label_limits`` allows have the same value of a label.
    """
    if new.labels and label_limits:
        check_labels(tx, new.labels, label_limits)
    if max_stacks is not None:
        _check_room(tx, max_stacks)
    ports = tuple(
        PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=_propose(tx))
        for port in new.target_ports
    )
    stack = rows.insert(tx, _fresh(new, ports))
    held = tuple(_hold(tx, stack.stack_id, port) for port in ports)
    if held != ports:
        (stack,) = rows.save(tx, [replace(stack, ports=held)])
    if claim is not None:
        claims.insert(tx, replace(claim, stack_id=new.stack_id))
    return tx.put_stack(stack)


def replace_port(tx: Transaction, stack_id: str, taken: int) -> Stack:
    """Set ``taken`` aside for a while and hold another port in its place; who knows the old one is told by the timeline.

    A stack that does not hold ``taken`` comes back as it is. Raises ``NoNodePort`` (the stack keeps ``taken``),
    ``StackNotFound`` if it is gone or being deleted.
    """
    stack = rows.find_live(tx, stack_id)
    tx.ports.set_aside(taken)
    if not tx.run(rows.DELETE_NODE_PORT, (taken, stack_id)):
        return stack  # replaced before; a repeated call changes nothing
    tx.ports.put(taken)
    ports = tuple(
        _hold(tx, stack_id, replace(port, node_port=_propose(tx))) if port.node_port == taken else port
        for port in stack.ports
    )
    after = replace(stack, ports=ports)
    if stack.accepted:
        message = ports_replaced(stack.ports, after.ports)
        timeline.add(
            tx, [(stack_id, TimelineEvent(kind=EventKind.WARNING, at=tx.now, reason=PORT_REPLACED, message=message))]
        )
        after = replace(after, updated_at=max(tx.now, stack.updated_at))
    return rows.save(tx, [after])[0]


def ports_replaced(before: Sequence[PortMapping], after: Sequence[PortMapping]) -> str:
    """Which node ports of a stack are others now, in a sentence; empty where none is."""
    changed = [
        f"another Service has node port {old.node_port} now; {new.node_port} replaces it"
        for old, new in zip(before, after, strict=True)
        if old.node_port != new.node_port
    ]
    return "; ".join(changed)


def limit_ports(tx: Transaction, cluster: PortRange) -> None:
    """The cluster has these node ports only: none but those are handed out from now on."""
    tx.ports.limit(cluster)


def release(tx: Transaction, ids: Iterable[str]) -> list[Stack]:
    """To be called when the Services of ended stacks are confirmed gone: their ports are free.

    The stacks that changed; their ``ports`` still show what they had. Stacks that have not ended are skipped.
    """
    ended = [stack for stack in rows.find_all(tx, ids).values() if stack.ended and stack.ports_held]
    if not ended:
        return []
    rows.give_back_ports(tx, id_array(stack.stack_id for stack in ended))
    return rows.save(tx, [replace(stack, ports_held=False) for stack in ended])


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


_ENDING = ("ended", "status", "status_reason", "status_message")


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
        accepted=True,
        desired=record.desired,
        generation=record.generation,
        status=record.status,
        status_reason=record.status_reason,
        status_message=record.status_message,
        ttl_expires_at=ttl_expires_at,
        ended=record.ended,
        ports=record.ports,
        ports_held=record.ports_held,
        pod_uid=record.pod_uid,
        service_uid=record.service_uid,
        node_id=record.node_id,
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


def check_labels(
    tx: Transaction, labels: Mapping[str, str], limits: Mapping[str, int], *, apart_from: str = ""
) -> None:
    """Raise ``LabelLimitReached`` where as many living stacks as allowed have one of these labels already."""
    for key, limit in limits.items():
        value = labels.get(key)
        if value is None:
            continue
        holders = tx.rows(LABEL_HOLDERS, (key, value, apart_from, tx.now, limit))
        if len(holders) >= limit:
            named = ", ".join(stack_id for (stack_id,) in holders[:5])
            raise LabelLimitReached(
                f"label {key}={value} has {len(holders)} of {limit} stacks (limits.stacks_per_label): {named}",
                str(holders[0][0]),
            )


def _check_room(tx: Transaction, max_stacks: int) -> None:
    if rows.count_assigned(tx) >= max_stacks:
        raise Unavailable(too_many(max_stacks), retry_after=30)


def too_many(max_stacks: int) -> str:
    """The message for when there are as many stacks as allowed."""
    return f"the limit of {max_stacks} stacks in all is reached (limits.max_stacks)"


def _fresh(new: NewStack, ports: tuple[PortMapping, ...]) -> Stack:
    return Stack(
        stack_id=new.stack_id,
        namespace=new.namespace,
        pod_spec=new.pod_spec,
        ports=ports,
        status=StackStatus.CREATING,
        created_at=new.created_at,
        updated_at=new.created_at,
        ttl_expires_at=new.ttl_expires_at,
        requested_cpu_milli=new.requested_cpu_milli,
        requested_memory_bytes=new.requested_memory_bytes,
        labels=MappingProxyType(dict(new.labels)),
        template=new.template,
        values=new.values,
        unassigned=new.unassigned,
        digest=new.digest,
    )


def _propose(tx: Transaction) -> int:
    port = tx.ports.take()
    if port is None:
        raise NoNodePort(tx.ports.why_none())
    return port


def _hold(tx: Transaction, stack_id: str, port: PortMapping) -> PortMapping:
    """Hold the proposed port, or another one where the constraint knows better than the pool."""
    while True:
        try:
            tx.run(rows.INSERT_NODE_PORT, (port.node_port, stack_id))
        except sqlite3.IntegrityError:
            port = replace(port, node_port=_propose(tx))  # the one that was refused stays held in the pool
        else:
            return port


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


class Ports(PortsView, Table):
    """The node ports of all stacks: how many are held and free, and the operations."""

    def __init__(self, counts: PortCounts, monotonic: Callable[[], float], submit: Submit) -> None:
        PortsView.__init__(self, counts, monotonic)
        Table.__init__(self, submit)

    replace = operation(replace_port)
    limit = operation(limit_ports)
    release = operation(release)
