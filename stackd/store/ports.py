"""The node ports of stacks: how many are held and free, and the operations that hold, replace and release them.

Owns: a stack holds each of its ports by the primary key of ``node_ports``; the pool (``port_pool``) only proposes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from stackd.errors import NoNodePort
from stackd.model import EventKind, PortMapping, PortRange, Stack, TimelineEvent
from stackd.store import rows, timeline
from stackd.store.port_pool import PortCounts
from stackd.store.transaction import Submit, Table, Transaction, id_array, operation

PORT_REPLACED = "NodePortReplaced"


def propose(tx: Transaction) -> int:
    """Take a free port from the pool. Raises ``NoNodePort``."""
    port = tx.ports.take()
    if port is None:
        raise NoNodePort(tx.ports.why_none())
    return port


def hold(tx: Transaction, stack_id: str, port: PortMapping) -> PortMapping:
    """Hold the proposed port, or another one if the constraint refuses it."""
    while True:
        try:
            tx.run(rows.INSERT_NODE_PORT, (port.node_port, stack_id))
        except sqlite3.IntegrityError:
            port = replace(port, node_port=propose(tx))  # the refused port stays held in the pool
        else:
            return port


def replace_port(tx: Transaction, stack_id: str, taken: int) -> Stack:
    """Set ``taken`` aside for a while and hold another port instead. If the stack is accepted, its timeline says so.

    A stack that does not hold ``taken`` is returned unchanged. Raises ``NoNodePort`` (the stack keeps ``taken``);
    ``StackNotFound`` if the stack is gone or being deleted.
    """
    stack = rows.find_live(tx, stack_id)
    tx.ports.set_aside(taken)
    if not tx.run(rows.DELETE_NODE_PORT, (taken, stack_id)):
        return stack  # already replaced: a repeated call changes nothing
    tx.ports.put(taken)
    ports = tuple(
        hold(tx, stack_id, replace(port, node_port=propose(tx))) if port.node_port == taken else port
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
    """A sentence about the node ports of a stack that have changed; empty if none has."""
    changed = [
        f"node port {old.node_port} is not available any more; {new.node_port} replaces it"
        for old, new in zip(before, after, strict=True)
        if old.node_port != new.node_port
    ]
    return "; ".join(changed)


def limit_ports(tx: Transaction, cluster: PortRange) -> None:
    """Hand out only ports of the cluster's own range from now on."""
    tx.ports.limit(cluster)


def release(tx: Transaction, ids: Iterable[str]) -> list[Stack]:
    """Free the ports of ended stacks, once their Services are confirmed gone. Stacks that have not ended are skipped.

    Returns the stacks that changed; their ``ports`` still show what they had.
    """
    ended = [stack for stack in rows.find_all(tx, ids).values() if stack.ended and stack.ports_held]
    if not ended:
        return []
    rows.give_back_ports(tx, id_array(stack.stack_id for stack in ended))
    return rows.save(tx, [replace(stack, ports_held=False) for stack in ended])


class PortsView:
    """How many node ports are held, free, and set aside for a while."""

    def __init__(self, counts: PortCounts, monotonic: Callable[[], float]) -> None:
        self._counts = counts
        self._monotonic = monotonic

    @property
    def used(self) -> int:
        """How many ports stacks hold, inside the range or not."""
        return self._counts.used

    @property
    def free(self) -> int:
        """How many ports are free."""
        return self._counts.free + len(self._counts.due) - self.quarantined

    @property
    def quarantined(self) -> int:
        """How many ports are set aside because somebody else in the cluster uses them."""
        now = self._monotonic()
        return sum(1 for due in self._counts.due if due > now)

    def publish(self, counts: PortCounts) -> None:
        """Apply a committed group."""
        self._counts = counts


class Ports(PortsView, Table):
    """The node ports of all stacks: how many are held and free, and the operations."""

    def __init__(self, counts: PortCounts, monotonic: Callable[[], float], submit: Submit) -> None:
        PortsView.__init__(self, counts, monotonic)
        Table.__init__(self, submit)

    replace = operation(replace_port)
    limit = operation(limit_ports)
    release = operation(release)
