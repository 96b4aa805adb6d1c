"""``Mirror``: a local copy of our pods and services, and of all nodes, fed by three watches.

Owns: the copy, the subscribers to its changes, and those who wait for a change. stackd serves all its reads from the
mirror or from the store, and never asks Kubernetes for them (invariant 6). Does not decide what a state means, and does
not change anything in the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Generic, Protocol, TypeVar

from stackd.clock import Clock, SystemClock
from stackd.errors import StackdError
from stackd.kube.caller import Caller
from stackd.kube.objects import NodeState, PodState, ServiceState, node_state, pod_state, service_state
from stackd.kube.responses import is_older
from stackd.kube.watch import Listed, Source, Timings, WatchHealth, endless
from stackd.kube.wire import KubeRequest
from stackd.structs import struct
from stackd.waiters import Waiters

log = logging.getLogger(__name__)
WITHHELD = (
    "the watch of pods is open and reports nothing, although pods have changed; is there a proxy that buffers answers "
    "between stackd and the API server?"
)
T = TypeVar("T")


class Named(Protocol):
    """What a table can hold: an object with a name that can be reused, and a uid that cannot."""

    @property
    def name(self) -> str:
        """Unique among the existing objects."""

    @property
    def uid(self) -> str:
        """Unique forever."""


S = TypeVar("S", bound=Named)
Difference = tuple[S | None, S | None]


class ObjectTable(Generic[S]):
    """Objects by name. Each update returns its differences as (before, after).

    A new object with the name of an old one makes two differences: the old one is gone, then the new one appears.
    """

    def __init__(self) -> None:
        self.current: dict[str, S] = {}

    def put(self, state: S) -> list[Difference[S]]:
        """Store the state of one object."""
        before = self.current.get(state.name)
        self.current[state.name] = state
        return _difference(before, state)

    def drop(self, state: S) -> list[Difference[S]]:
        """Remove the object, unless another one has the name by now."""
        before = self.current.get(state.name)
        if before is None or before.uid != state.uid:
            return []
        del self.current[state.name]
        return [(before, None)]

    def replace(self, states: Iterable[S]) -> list[Difference[S]]:
        """Replace the table by a complete list, then return the differences."""
        old = dict(self.current)
        self.current.clear()
        self.current.update((state.name, state) for state in states)
        changes: list[Difference[S]] = [(before, None) for name, before in old.items() if name not in self.current]
        for name, state in self.current.items():
            changes.extend(_difference(old.get(name), state))
        return changes


def _difference(before: S | None, after: S) -> list[Difference[S]]:
    if before == after:
        return []
    if before is not None and before.uid != after.uid:
        return [(before, None), (None, after)]
    return [(before, after)]


@struct
class PodChanged:
    """A pod appeared (``before`` None), changed, or is gone (``after`` None)."""

    name: str
    before: PodState | None
    after: PodState | None


@struct
class ServiceChanged:
    """A service appeared, changed, or is gone."""

    name: str
    before: ServiceState | None
    after: ServiceState | None


@struct
class NodeChanged:
    """A node appeared, changed in a field that ``NodeState`` keeps, or is gone."""

    name: str
    before: NodeState | None
    after: NodeState | None


@struct
class Relisted:
    """A list was read (the first one, too), and the subscribers were told its differences."""

    kind: str


MirrorChange = PodChanged | ServiceChanged | NodeChanged | Relisted
_Change = Callable[..., MirrorChange]


class Mirror:
    """The copy. ``pods``, ``services`` and ``nodes`` are live views by name. The watches change them, and the answers to
    stackd's own changes, which come sooner (``saw``, ``gone``)."""

    def __init__(self, cluster: Caller, *, clock: Clock | None = None, timings: Timings | None = None) -> None:
        self._cluster = cluster
        self._timings = timings or Timings()
        clock = clock or SystemClock()
        self._pods: ObjectTable[PodState] = ObjectTable()
        self._services: ObjectTable[ServiceState] = ObjectTable()
        self._nodes: ObjectTable[NodeState] = ObjectTable()
        self.pods: Mapping[str, PodState] = MappingProxyType(self._pods.current)
        self.services: Mapping[str, ServiceState] = MappingProxyType(self._services.current)
        self.nodes: Mapping[str, NodeState] = MappingProxyType(self._nodes.current)
        self.failed: Callable[[], None] = lambda: None
        """Called when one of the three watches loses its connection, or cannot get one."""
        self.restored: Callable[[float], None] = lambda away: None
        """Called when all three have one again, with the seconds for which the last of them had none."""
        self.health_by_kind: Mapping[str, WatchHealth] = {
            kind: WatchHealth(kind, clock, self._lost, self._restored) for kind in ("pods", "services", "nodes")
        }
        self._waiters: Waiters[PodState] = Waiters()
        self._subscribers: list[Callable[[MirrorChange], None]] = []
        self._unlisted = set(self.health_by_kind)
        self._synced = asyncio.Event()
        self._again = asyncio.Event()
        self._running = False

    @property
    def synced(self) -> bool:
        """Whether all three kinds were listed since the start. Remains true when a watch is lost (see ``staleness``),
        but not during a ``relist``.
        """
        return self._synced.is_set()

    @property
    def disconnected_since(self) -> float | None:
        """Since when (monotonic seconds) at least one of the three watches has no connection; None if all have one."""
        return min(
            (p.disconnected_since for p in self.health_by_kind.values() if p.disconnected_since is not None),
            default=None,
        )

    @property
    def last_error(self) -> str:
        """Why a watch is not connected, for /readyz; empty when all are, or before the first attempt has failed."""
        return next((f"{p.kind}: {p.last_error}" for p in self.health_by_kind.values() if p.last_error), "")

    def staleness(self) -> float:
        """Seconds since the copy was last known to be current: the largest value of the three watches.

        On a quiet cluster it rises up to the interval of bookmarks, which is about a minute.
        """
        return max(health.staleness() for health in self.health_by_kind.values())

    def subscribe(self, callback: Callable[[MirrorChange], None]) -> None:
        """Call ``callback`` with each change, in order, after the copy has it.

        The callback runs on the event loop inside the watch, so it must not block. An exception from it ends ``run``.
        """
        self._subscribers.append(callback)

    async def wait_synced(self) -> None:
        """Return when all three kinds were listed."""
        await self._synced.wait()

    async def until(self, name: str, predicate: Callable[[PodState | None], T | None], *, timeout: float) -> T:
        """The first value other than None that the predicate returns for the pod of that name.

        The predicate is called with the current state first, then after each change. The state is None if the copy has
        no such pod, which means nothing just after a create. Raises TimeoutError after ``timeout`` seconds.
        """
        return await self._waiters.until(name, predicate, lambda: self.pods.get(name), timeout)

    def reopen(self, kind: str | None = None) -> None:
        """Restart the watch of ``kind``, or all, from the same version over new connections: the old may be dead."""
        for one in self.health_by_kind.values():
            if kind in (None, one.kind):
                one.reopen()

    def missed(self, pod: PodState) -> None:
        """Compare ``pod``, as a get has just returned it, with the copy; reopen the watch if it has not reported it.

        If the new connection reports nothing either, something holds back the events (``withheld``).
        """
        seen = self.pods.get(pod.name)
        overtaken = seen is not None and seen.uid == pod.uid and is_older(pod.resource_version, seen.resource_version)
        if not self._is_ours(pod) or seen == pod or overtaken:
            return  # the pod lacks stackd's labels, so it is not watched; or the watch has reported it
        pods = self.health_by_kind["pods"]
        pods.missed()
        if pods.withheld:
            log.warning("%s", WITHHELD, extra={"same": "withheld"})
        self.reopen("pods")

    @property
    def withheld(self) -> bool:
        """Whether the watch of pods is open and reports nothing of what Kubernetes has."""
        return self.health_by_kind["pods"].withheld

    def lose(self, error: StackdError) -> None:
        """Kubernetes does not answer: mark all watches as disconnected, even if their connections look open."""
        for one in self.health_by_kind.values():
            one.lost(error)
        self.reopen()

    async def relist(self) -> None:
        """Read all three lists again, with new watches; returns when that is done. Until then the copy is not synced.

        Does nothing before ``run``.
        """
        if not self._running:
            return
        self._unlisted = set(self.health_by_kind)
        self._synced.clear()
        self._again.set()
        await self._synced.wait()

    async def run(self) -> None:
        """Keep the copy up to date until cancelled."""
        self._running = True
        while True:
            self._again.clear()
            keeping = asyncio.create_task(self._run(), name="mirror-watches")
            again = asyncio.create_task(self._again.wait(), name="mirror-again")
            try:
                await asyncio.wait((keeping, again), return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    return keeping.result()
            finally:
                keeping.cancel()
                again.cancel()
                await asyncio.gather(keeping, again, return_exceptions=True)

    async def _run(self) -> None:
        call, ours = self._cluster.on, self._cluster.ours()
        pods = Source(kind="pods", call=call("list", "pods", params=ours), parse=pod_state)
        services = Source(kind="services", call=call("list", "services", params=ours), parse=service_state)
        nodes = Source(kind="nodes", call=KubeRequest(verb="list", resource="nodes"), parse=node_state)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(pods, self._pods, self._is_ours, PodChanged), name="mirror-pods")
            group.create_task(
                self._keep(services, self._services, self._is_ours, ServiceChanged), name="mirror-services"
            )
            group.create_task(self._keep(nodes, self._nodes, lambda _: True, NodeChanged), name="mirror-nodes")

    async def _keep(
        self, source: Source[S], table: ObjectTable[S], wanted: Callable[[S], bool], change: _Change
    ) -> None:
        health = self.health_by_kind[source.kind]
        async with aclosing(endless(self._cluster, source, health, self._timings)) as events:
            async for event in events:
                if isinstance(event, Listed):
                    changes = table.replace(filter(wanted, event.items))
                elif event.gone or not wanted(event.item):
                    changes = table.drop(event.item)
                else:
                    changes = table.put(event.item)
                self._report(changes, change)
                if isinstance(event, Listed):
                    self._listed(source.kind)

    def saw(self, state: PodState | ServiceState) -> None:
        """An answer of the API server to stackd's own change: the copy need not wait for the watch to report it.

        An answer that is older than what the watch has reported is ignored: the object may be gone by now.
        """
        reported = self.health_by_kind["pods" if isinstance(state, PodState) else "services"].version
        if self._is_ours(state) and not is_older(state.resource_version, reported):
            if isinstance(state, PodState):
                self._report(self._pods.put(state), PodChanged)
            else:
                self._report(self._services.put(state), ServiceChanged)

    def gone(self, state: PodState | ServiceState) -> None:
        """The API server has confirmed that this object is gone."""
        if isinstance(state, PodState):
            self._report(self._pods.drop(state), PodChanged)
        else:
            self._report(self._services.drop(state), ServiceChanged)

    def _report(self, changes: Iterable[Difference[S]], change: _Change) -> None:
        for before, after in changes:
            self._tell(change(name=_name(before, after), before=before, after=after))

    def _listed(self, kind: str) -> None:
        self._unlisted.discard(kind)
        if not self._unlisted:
            self._synced.set()
        self._tell(Relisted(kind=kind))

    def _lost(self) -> None:
        self.failed()

    def _restored(self, away: float) -> None:
        if self.disconnected_since is None:
            self.restored(away)

    def _is_ours(self, state: PodState | ServiceState) -> bool:
        # The selector already excludes the others. This check holds even if the selector were wrong (invariant 5).
        return state.instance == self._cluster.instance

    def _tell(self, change: MirrorChange) -> None:
        for callback in self._subscribers:
            callback(change)
        if isinstance(change, PodChanged):
            self._waiters.wake(change.name, change.after)


def _name(before: S | None, after: S | None) -> str:
    state = after if after is not None else before
    assert state is not None
    return state.name
