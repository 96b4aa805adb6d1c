"""The operations that give and take node ports: reserve, replace a port, release, adopt.

Owns: a stack holds all of its ports or none, each by the primary key of ``node_ports``. The pool only proposes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from stackd.errors import NoNodePort, Unavailable
from stackd.model import NewStack, PortMapping, Stack, StackStatus
from stackd.store import claims, failures, queries, requests, rows, stacks
from stackd.store.claims import Claim
from stackd.store.transaction import ADOPTION, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """What became of a record handed to ``adopt``: the stack, or the reason why not."""

    stack_id: str
    stack: Stack | None = None
    reason: str = ""


def reserve(
    tx: Transaction, new: NewStack, claim: Claim | None, max_stacks: int | None, label_limits: Mapping[str, int]
) -> Stack:
    """A row ``creating`` and a random free port for each target port."""
    if new.labels and label_limits:
        requests.check_labels(tx, new.labels, label_limits, apart_from="")
    if max_stacks is not None:
        _check_room(tx, max_stacks)
    ports = tuple(
        PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=_propose(tx))
        for port in new.target_ports
    )
    stack = _insert(tx, _fresh(new, ports))
    held = tuple(_hold(tx, stack.stack_id, port) for port in ports)
    if held != ports:
        (stack,) = stacks.save(tx, [replace(stack, ports=held)])
    if claim is not None:
        claims.insert(tx, replace(claim, stack_id=new.stack_id))
    return tx.put_stack(stack)


def replace_port(tx: Transaction, stack_id: str, taken: int) -> Stack:
    """Set ``taken`` aside and hold another port in its place."""
    stack = stacks.find_live(tx, stack_id)
    tx.ports.set_aside(taken)
    if not tx.run(queries.DELETE_NODE_PORT, (taken, stack_id)):
        return stack  # replaced before; a repeated call changes nothing
    tx.ports.put(taken)
    ports = tuple(
        _hold(tx, stack_id, replace(port, node_port=_propose(tx))) if port.node_port == taken else port
        for port in stack.ports
    )
    return stacks.save(tx, [replace(stack, ports=ports)])[0]


def release(tx: Transaction, ids: Iterable[str]) -> list[Stack]:
    """Ended stacks, whose Services are confirmed gone, give their ports back; their answers still show them."""
    ended = [stack for stack in stacks.find_all(tx, ids).values() if stack.ended and stack.ports_held]
    if not ended:
        return []
    for (port,) in tx.rows(queries.DELETE_NODE_PORTS_OF, (rows.id_array(stack.stack_id for stack in ended),)):
        tx.ports.put(port)
    return stacks.save(tx, [replace(stack, ports_held=False) for stack in ended])


def adopt(tx: Transaction, records: Sequence[Stack]) -> list[Adopted]:
    """Insert whole records as they are; one that contradicts the file is skipped with the reason."""
    return [_adopt_one(tx, record) for record in records]


def _adopt_one(tx: Transaction, record: Stack) -> Adopted:
    def insert(inner: Transaction) -> Stack:
        stack = _insert(inner, record)
        for port in record.ports if record.ports_held else ():
            inner.run(queries.INSERT_NODE_PORT, (port.node_port, record.stack_id))
            inner.ports.hold(port.node_port)
        return inner.put_stack(stack)

    try:
        return Adopted(stack_id=record.stack_id, stack=tx.isolated(insert, ADOPTION))
    except sqlite3.IntegrityError as exc:
        return Adopted(stack_id=record.stack_id, reason=str(failures.from_constraint(exc)))


def _check_room(tx: Transaction, max_stacks: int) -> None:
    row = tx.row(queries.COUNT_STACKS)
    if row is not None and row[0] >= max_stacks:
        raise Unavailable(f"the limit of {max_stacks} stacks in all is reached (limits.max_stacks)", retry_after=30)


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
    )


def _insert(tx: Transaction, stack: Stack) -> Stack:
    tx.run(queries.INSERT_STACK, rows.stack_to_row(stack))
    if stack.labels:
        tx.run(queries.INSERT_LABELS, (stack.stack_id, rows.labels_to_json(stack.labels)))
    return stack


def _propose(tx: Transaction) -> int:
    port = tx.ports.take()
    if port is None:
        pool = tx.ports
        raise NoNodePort(f"no node port is free: all {pool.size} of {pool.minimum}-{pool.maximum} are held")
    return port


def _hold(tx: Transaction, stack_id: str, port: PortMapping) -> PortMapping:
    """Hold the proposed port, or another one where the constraint knows better than the pool."""
    while True:
        try:
            tx.run(queries.INSERT_NODE_PORT, (port.node_port, stack_id))
        except sqlite3.IntegrityError:
            port = replace(port, node_port=_propose(tx))  # the one that was refused stays held in the pool
        else:
            return port
