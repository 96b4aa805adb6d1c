"""Which node ports may be handed out: those of the configured and the cluster's own range that nobody else is known to use.

Facts in memory. Which stack holds a port is decided by the table ``node_ports``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable

from stackd.model import NODE_PORTS_REMEDY, PortRange, Stack

QUARANTINE_SECONDS = 600.0
"""For how long a port that somebody else uses is not handed out."""


class NodePorts:
    """The node ports of all stacks: how many are held, free, and set aside for a while.

    Which ports of the ``configured`` range are usable is a fact about the cluster, which a rollback does not undo. The
    writer's thread changes it; the event loop follows which ports are held.
    """

    def __init__(self, configured: PortRange, monotonic: Callable[[], float], stacks: Iterable[Stack]) -> None:
        self.usable = self._configured = configured
        self._cluster: PortRange | None = None
        self._monotonic = monotonic
        self._aside: dict[int, float] = {}
        self.fixed: frozenset[int] = frozenset()
        """The ports that templates give to their shared stacks."""
        self.to_try: list[int] = []
        self._held: set[int] = set()
        self.spare: set[int] = set()
        """Those that belong to spare Services: they count as free, and are handed out with their Services."""
        for stack in stacks:
            self.follow(None, stack)

    @property
    def used(self) -> int:
        """How many ports stacks hold, inside the range or not."""
        return len(self._held) - len(self.spare)

    @property
    def free(self) -> int:
        """How many ports are free."""
        return len(self.usable) - sum(port in self.usable for port in self._held - self.spare) - self.quarantined

    @property
    def quarantined(self) -> int:
        """How many ports are set aside because somebody else in the cluster uses them."""
        return sum(port in self.usable for port in self.aside() - self._held)

    def follow(self, before: Stack | None, after: Stack | None) -> None:
        if before is None or after is None or (before.ports, before.ports_held) != (after.ports, after.ports_held):
            self._held.difference_update(() if before is None else before.held_ports)
            self._held.update(() if after is None else after.held_ports)
        if before is not None and before.spare:
            self.spare.difference_update(before.held_ports)
        if after is not None and after.spare:
            self.spare.update(after.held_ports)

    def restrict(self, cluster: PortRange) -> None:
        """Only ports of the cluster's own range are usable from now on."""
        self._cluster = cluster
        self.usable = self._configured.common(cluster)
        self.to_try = []

    def set_aside(self, port: int) -> None:
        """Do not hand out ``port`` for a while, whoever holds it now."""
        kept = {port: until for port, until in self._aside.items() if port in self.aside()}
        self._aside = kept | {port: self._monotonic() + QUARANTINE_SECONDS}
        self.to_try = []

    @property
    def candidates(self) -> list[int]:
        free = {*range(self.usable.first, self.usable.last + 1)} - self._held - self.aside()
        return random.sample(sorted(free), len(free))

    def aside(self) -> frozenset[int]:
        """The ports that are set aside now, or for good."""
        now = self._monotonic()
        return self.fixed.union(port for port, until in self._aside.items() if until > now)

    def refill(self, held: Collection[int]) -> None:
        """Begin to try, in random order, the usable ports that are not ``held``."""
        self.to_try = sorted(set(range(self.usable.first, self.usable.last + 1)).difference(held, self.aside()))
        random.shuffle(self.to_try)

    def why_none(self) -> str:
        usable, configured, cluster = self.usable, self._configured, self._cluster
        if cluster is not None and not usable:
            return f"no node port is available: {configured.mismatch(cluster)}; {NODE_PORTS_REMEDY}"
        held = f"all {len(usable)} node ports in {usable} are in use"
        if usable == configured:
            return f"{held}; delete stacks or widen stacks.node_port_min/max"
        rest = f"the rest of {configured} is outside the cluster's own range, {cluster}"
        return f"{held}, and {rest}; delete stacks, or {NODE_PORTS_REMEDY}"
