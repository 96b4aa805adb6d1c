"""The node ports of stacks: which are free, and the operations that replace and release them.

Owns: which ports may be handed out. The table ``node_ports`` says which stacks hold some of them; what is set aside
because somebody else in the cluster uses it, and what is outside the cluster's own range, are facts in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import orjson

from stackd.errors import NoNodePort
from stackd.model import NODE_PORTS_REMEDY, EventKind, PortMapping, PortRange, Stack, TimelineEvent
from stackd.store import rows, timeline
from stackd.store.transaction import Submit, Table, Transaction, id_array, operation

PORT_REPLACED = "NodePortReplaced"
QUARANTINE_SECONDS = 600.0
"""For how long a port that somebody else uses is not handed out."""


class PortRules:
    """Which ports of the ``configured`` range may be handed out. The writer's thread changes it, anyone may read it.

    A rollback does not undo these facts about the cluster.
    """

    def __init__(self, configured: PortRange, monotonic: Callable[[], float]) -> None:
        self.usable = configured
        self._configured = configured
        self._cluster: PortRange | None = None
        self._monotonic = monotonic
        self._aside: dict[int, float] = {}
        self.to_try: list[int] = []

    def limit(self, cluster: PortRange) -> None:
        """Only ports of the cluster's own range are usable from now on."""
        self._cluster = cluster
        self.usable = self._configured.common(cluster)
        self.to_try = []

    def set_aside(self, port: int) -> None:
        """Do not hand out ``port`` for a while, whoever holds it now."""
        self._aside = {one: self._aside[one] for one in self.aside()} | {port: self._monotonic() + QUARANTINE_SECONDS}
        self.to_try = []

    def aside(self) -> frozenset[int]:
        """The ports that are set aside now."""
        now = self._monotonic()
        return frozenset(port for port, until in self._aside.items() if until > now)

    def refill(self, held: Collection[int]) -> None:
        """Begin to try, in random order, the usable ports that are not ``held``."""
        self.to_try = sorted(set(range(self.usable.first, self.usable.last + 1)).difference(held, self.aside()))
        random.shuffle(self.to_try)

    def why_none(self) -> str:
        """The message when no port is available."""
        usable, configured, cluster = self.usable, self._configured, self._cluster
        if cluster is not None and not usable:
            return f"no node port is available: {configured.mismatch(cluster)}; {NODE_PORTS_REMEDY}"
        held = f"all {len(usable)} node ports in {usable} are in use"
        if usable == configured:
            return f"{held}; delete stacks or widen stacks.node_port_min/max"
        rest = f"the rest of {configured} is outside the cluster's own range, {cluster}"
        return f"{held}, and {rest}; delete stacks, or {NODE_PORTS_REMEDY}"


def find_free(tx: Transaction, wanted: int) -> list[int]:
    """So many random free ports. Raises ``NoNodePort`` if there are fewer.

    The table decides. It is read as a whole only once the ports that were free then have been tried.
    """
    free: list[int] = []
    while len(free) < wanted:
        if not tx.ports.to_try:
            ((held,),) = tx.rows(rows.ALL_NODE_PORTS)
            tx.ports.refill([*orjson.loads(held), *free])
        if not tx.ports.to_try:
            raise NoNodePort(tx.ports.why_none())
        port = tx.ports.to_try.pop()
        if not tx.row(rows.IS_HELD, (port,)):
            free.append(port)
    return free


def replace_port(tx: Transaction, stack_id: str, taken: int) -> Stack:
    """Set ``taken`` aside for a while and hold another port instead. If the stack is accepted, its timeline says so.

    A stack that does not hold ``taken`` is returned unchanged. Raises ``NoNodePort`` (the stack keeps ``taken``);
    ``StackNotFound`` if the stack is gone or being deleted.
    """
    stack = rows.find_live(tx, stack_id)
    tx.ports.set_aside(taken)
    if taken not in rows.held(stack):
        return stack  # already replaced: a repeated call changes nothing
    (other,) = find_free(tx, 1)
    tx.run(rows.REPLACE_NODE_PORT, (other, taken))
    ports = tuple(replace(port, node_port=other) if port.node_port == taken else port for port in stack.ports)
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
    """Free the ports of ended stacks, once their Services have none any more. Stacks that have not ended are skipped.

    Returns the stacks that changed; their ``ports`` still show what they had.
    """
    ended = [stack for stack in rows.find_all(tx, ids).values() if stack.ended and stack.ports_held]
    if not ended:
        return []
    rows.give_back_ports(tx, id_array(stack.stack_id for stack in ended))
    return rows.save(tx, [replace(stack, ports_held=False) for stack in ended])


class Ports(Table):
    """The node ports of all stacks: how many are held, free, and set aside for a while; and the operations."""

    def __init__(self, rules: PortRules, stacks: Iterable[Stack], submit: Submit) -> None:
        super().__init__(submit)
        self._rules = rules
        self._held = {port for stack in stacks for port in rows.held(stack)}

    @property
    def used(self) -> int:
        """How many ports stacks hold, inside the range or not."""
        return len(self._held)

    @property
    def free(self) -> int:
        """How many ports are free."""
        usable = self._rules.usable
        return len(usable) - sum(usable.first <= port <= usable.last for port in self._held) - self.quarantined

    @property
    def quarantined(self) -> int:
        """How many ports are set aside because somebody else in the cluster uses them."""
        return sum(port in self._rules.usable for port in self._rules.aside() - self._held)

    def follow(self, before: Stack | None, after: Stack | None) -> None:
        """Count the ports of a stack that has changed."""
        if before is None or after is None or (before.ports, before.ports_held) != (after.ports, after.ports_held):
            self._held.difference_update(() if before is None else rows.held(before))
            self._held.update(() if after is None else rows.held(after))

    replace = operation(replace_port)
    limit = operation(limit_ports)
    release = operation(release)
