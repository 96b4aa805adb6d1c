"""``Mirror``: a local copy of our pods, our services and all nodes, kept true by three watches.

Owns the copy, who is told of changes, and who waits for one. All reads of stackd are served from here or from the
store, never by asking (invariant 6). Does not decide what a state means, nor change anything in the cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from stackd.clock import Clock, SystemClock
from stackd.kube.caller import Caller
from stackd.kube.calls import Call, core
from stackd.kube.objects import NodeState, PodState, ServiceState, node_state, pod_state, service_state
from stackd.kube.table import Named, Table
from stackd.kube.waiters import Waiters
from stackd.kube.watch import Listed, Pulse, Source, Timings, endless

T = TypeVar("T")
S = TypeVar("S", bound=Named)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodChanged:
    """A pod appeared (``before`` None), changed, or went (``after`` None). A new pod of the same name is both."""

    name: str
    before: PodState | None
    after: PodState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChanged:
    """A service appeared, changed, or went."""

    name: str
    before: ServiceState | None
    after: ServiceState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeChanged:
    """A node appeared, changed in what is kept of it, or went."""

    name: str
    before: NodeState | None
    after: NodeState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Relisted:
    """A list was taken (the first one too) and its differences were told as changes; this many appeared and went."""

    kind: str
    added: int
    removed: int


Change = PodChanged | ServiceChanged | NodeChanged | Relisted
_Told = Callable[[str, S | None, S | None], None]


class Mirror:
    """The copy. ``pods``, ``services`` and ``nodes`` are live views by name, which only ``run`` changes."""

    def __init__(self, cluster: Caller, *, clock: Clock | None = None, timings: Timings | None = None) -> None:
        self._cluster = cluster
        self._timings = timings or Timings()
        clock = clock or SystemClock()
        self._pods: Table[PodState] = Table()
        self._services: Table[ServiceState] = Table()
        self._nodes: Table[NodeState] = Table()
        self.pods: Mapping[str, PodState] = MappingProxyType(self._pods.current)
        self.services: Mapping[str, ServiceState] = MappingProxyType(self._services.current)
        self.nodes: Mapping[str, NodeState] = MappingProxyType(self._nodes.current)
        self.pulses: Mapping[str, Pulse] = {kind: Pulse(kind, clock) for kind in ("pods", "services", "nodes")}
        self._waiters: Waiters[PodState] = Waiters()
        self._subscribers: list[Callable[[Change], None]] = []
        self._unlisted = set(self.pulses)
        self._synced = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether all three were listed since the start; stays so when a watch is lost (see ``staleness``)."""
        return self._synced.is_set()

    @property
    def disconnected_since(self) -> float | None:
        """Since when (monotonic seconds) at least one of the three has no connection; None while all have one."""
        return min(
            (p.disconnected_since for p in self.pulses.values() if p.disconnected_since is not None), default=None
        )

    @property
    def last_error(self) -> str:
        """Why a watch is not connected, for /readyz; empty when all are, or before the first attempt has ended."""
        return next((f"{p.kind}: {p.last_error}" for p in self.pulses.values() if p.last_error), "")

    @property
    def outages(self) -> int:
        """How often one of the three lost its connection in another way than by the server's routine."""
        return sum(pulse.outages for pulse in self.pulses.values())

    def staleness(self) -> float:
        """Seconds since the copy was last known to be true: the worst of the three.

        On a quiet cluster it swings up to the interval of bookmarks, which is about a minute.
        """
        return max(pulse.staleness() for pulse in self.pulses.values())

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Have each change told, in order, after the copy has it; returns what ends that.

        The callback runs on the loop within the watch: it must not block. What it raises ends ``run``.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Return when all three were listed. Raises TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            await self._synced.wait()

    async def until(self, name: str, predicate: Callable[[PodState | None], T | None], *, timeout: float) -> T:
        """The first value other than None that the predicate gives for the pod of that name.

        It is asked about the present state first (None: the copy has no such pod, which just after a create says
        nothing) and then about each change. Raises TimeoutError after ``timeout`` seconds.
        """
        return await self._waiters.until(name, predicate, lambda: self.pods.get(name), timeout)

    async def run(self) -> None:
        """Keep the copy, until cancelled."""
        call, ours = self._cluster.on, self._cluster.ours()
        pods = Source(kind="pods", call=call("list", "pods", params=ours), parse=pod_state)
        services = Source(kind="services", call=call("list", "services", params=ours), parse=service_state)
        nodes = Source(kind="nodes", call=Call(verb="list", resource="nodes", path=core("nodes")), parse=node_state)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(pods, self._pods, self._is_ours, self._pod_changed), name="mirror-pods")
            group.create_task(
                self._keep(services, self._services, self._is_ours, self._service_changed), name="mirror-services"
            )
            group.create_task(self._keep(nodes, self._nodes, lambda _: True, self._node_changed), name="mirror-nodes")

    async def _keep(self, source: Source[S], table: Table[S], wanted: Callable[[S], bool], told: _Told[S]) -> None:
        pulse = self.pulses[source.kind]
        async with aclosing(endless(self._cluster, source, pulse, self._timings)) as happenings:
            async for happening in happenings:
                if isinstance(happening, Listed):
                    changes = table.replace(filter(wanted, happening.items))
                elif happening.gone or not wanted(happening.item):
                    changes = table.drop(happening.item)
                else:
                    changes = table.put(happening.item)
                for before, after in changes:
                    told(_name(before, after), before, after)
                if isinstance(happening, Listed):
                    self._listed(source.kind, changes)

    def _listed(self, kind: str, changes: list[tuple[S | None, S | None]]) -> None:
        added = sum(before is None for before, _ in changes)
        removed = sum(after is None for _, after in changes)
        self._unlisted.discard(kind)
        if not self._unlisted:
            self._synced.set()
        self._tell(Relisted(kind=kind, added=added, removed=removed))

    def _is_ours(self, state: PodState | ServiceState) -> bool:
        # The selector asks for no others; this holds even if it were wrong (invariant 5).
        return state.instance == self._cluster.instance

    def _pod_changed(self, name: str, before: PodState | None, after: PodState | None) -> None:
        self._tell(PodChanged(name=name, before=before, after=after))
        self._waiters.wake(name, after)

    def _service_changed(self, name: str, before: ServiceState | None, after: ServiceState | None) -> None:
        self._tell(ServiceChanged(name=name, before=before, after=after))

    def _node_changed(self, name: str, before: NodeState | None, after: NodeState | None) -> None:
        self._tell(NodeChanged(name=name, before=before, after=after))

    def _tell(self, change: Change) -> None:
        for callback in tuple(self._subscribers):
            callback(change)


def _name(before: S | None, after: S | None) -> str:
    state = after if after is not None else before
    assert state is not None
    return state.name
