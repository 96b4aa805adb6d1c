"""The pool of node ports on the writer's thread: it proposes ports, the primary key of ``node_ports`` decides.

Owns: which ports of the range are free, which are set aside because somebody else in the cluster uses them, and which
are never proposed because they are outside the cluster's own range. Does not know SQL. Changes of held ports are
journalled, so that a rolled back operation or a failed commit undoes them. Ports set aside and the cluster's range are
facts about the cluster, and are not undone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stackd.model import NODE_PORTS_REMEDY, PortRange


@dataclass(frozen=True, slots=True, kw_only=True)
class PortCounts:
    """A snapshot. ``due`` holds the monotonic seconds at which the ports that are set aside become free again."""

    used: int = 0
    free: int = 0
    due: tuple[float, ...] = ()


class PortPool:
    """Free, held and set-aside ports of the ``configured`` range; ``choose`` picks a free one by its index, in O(1)."""

    def __init__(
        self,
        configured: PortRange,
        *,
        quarantine: float,
        monotonic: Callable[[], float],
        choose: Callable[[int], int] = random.randrange,
    ) -> None:
        self._configured = configured
        self._cluster: PortRange | None = None
        self._quarantine = quarantine
        self._monotonic = monotonic
        self._choose = choose
        self._free: list[int] = []
        self._index: dict[int, int] = {}
        self._held: set[int] = set()
        self._aside: dict[int, float] = {}  # in the order of their deadlines: the period is always the same
        self._journal: list[tuple[bool, int]] = []

    def load(self, held: Iterable[int]) -> None:
        """Start with the ports that the table holds, including those outside the range."""
        self._held = set(held)
        self._fill()

    def limit(self, cluster: PortRange) -> None:
        """Propose only ports of the cluster's own range from now on."""
        self._cluster = cluster
        self._free.clear()
        self._index.clear()
        self._fill()

    def why_none(self) -> str:
        """The message when no port is available."""
        usable, configured, cluster = self._usable(), self._configured, self._cluster
        if cluster is not None and not usable:
            return f"no node port is available: {configured.mismatch(cluster)}; {NODE_PORTS_REMEDY}"
        held = f"all {len(usable)} node ports in {usable} are in use"
        if usable == configured:
            return f"{held}; delete stacks or widen stacks.node_port_min/max"
        rest = f"the rest of {configured} is outside the cluster's own range, {cluster}"
        return f"{held}, and {rest}; delete stacks, or {NODE_PORTS_REMEDY}"

    def take(self) -> int | None:
        """Hold a random free port, or None if there is none."""
        self._bring_back()
        if not self._free:
            return None
        port = self._free[self._choose(len(self._free))]
        self.hold(port)
        return port

    def hold(self, port: int) -> None:
        """Hold this port, inside the range or not."""
        self._journal.append((True, port))
        self._hold(port)

    def put(self, port: int) -> None:
        """Free a port."""
        self._journal.append((False, port))
        self._put(port)

    def set_aside(self, port: int) -> None:
        """Do not propose ``port`` for the quarantine period, whoever holds it now."""
        self._bring_back()
        self._aside.pop(port, None)
        self._aside[port] = self._monotonic() + self._quarantine
        self._remove_free(port)

    def mark(self) -> int:
        """The current point in the journal, for ``undo``."""
        return len(self._journal)

    def undo(self, mark: int) -> None:
        """Undo all ``hold`` and ``put`` since ``mark``."""
        while len(self._journal) > mark:
            taken, port = self._journal.pop()
            if taken:
                self._put(port)
            else:
                self._hold(port)

    def settle(self) -> None:
        """Forget the journal: the changes are durable."""
        self._journal.clear()

    def counts(self) -> PortCounts:
        """A snapshot for the view."""
        self._bring_back()
        return PortCounts(used=len(self._held), free=len(self._free), due=self._due() if self._aside else ())

    def _due(self) -> tuple[float, ...]:
        return tuple(at for port, at in self._aside.items() if port not in self._held and self._in_range(port))

    def _usable(self) -> PortRange:
        return self._configured if self._cluster is None else self._configured.common(self._cluster)

    def _in_range(self, port: int) -> bool:
        return port in self._usable()

    def _fill(self) -> None:
        usable = self._usable()
        for port in range(usable.first, usable.last + 1):
            if port not in self._held and port not in self._aside:
                self._add_free(port)

    def _hold(self, port: int) -> None:
        self._held.add(port)
        self._remove_free(port)

    def _put(self, port: int) -> None:
        self._held.discard(port)
        if self._in_range(port) and port not in self._aside:
            self._add_free(port)

    def _bring_back(self) -> None:
        now = self._monotonic()
        while self._aside:
            port, due = next(iter(self._aside.items()))
            if due > now:
                return
            del self._aside[port]
            if self._in_range(port) and port not in self._held:
                self._add_free(port)

    def _add_free(self, port: int) -> None:
        if port not in self._index:
            self._index[port] = len(self._free)
            self._free.append(port)

    def _remove_free(self, port: int) -> None:
        index = self._index.pop(port, None)
        if index is None:
            return
        last = self._free.pop()
        if last != port:
            self._free[index] = last
            self._index[last] = index
