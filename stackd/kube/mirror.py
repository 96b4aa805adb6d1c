"""``Mirror``: a local copy of our pods and services, and of all nodes, fed by three watches; and, if asked for, of
our routes, fed by one more for each kind.

Owns: the copy, the subscribers to its changes, and those who wait for a change. stackd serves all its reads from the
mirror or from the store, and never asks Kubernetes for them (invariant 6). Does not decide what a state means, and does
not change anything in the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from stackd.clock import Clock, SystemClock
from stackd.errors import StackdError
from stackd.kube import routes
from stackd.kube.caller import Caller
from stackd.kube.objects import NodeState, PodState, ServiceState, node_state, pod_state, service_state
from stackd.kube.responses import is_older
from stackd.kube.routes import RouteState, route_state
from stackd.kube.watch import Listed, Source, Timings, WatchHealth, endless
from stackd.kube.wire import HTTP_ROUTES, TLS_ROUTES, JsonObject, KubeRequest
from stackd.structs import struct
from stackd.tasks import Waiters, set_within

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
class RouteChanged:
    """An object that gives a stack a name appeared, changed, or is gone."""

    name: str
    before: RouteState | None
    after: RouteState | None


@struct
class Relisted:
    """A list was read (the first one, too), and the subscribers were told its differences."""

    kind: str


MirrorChange = PodChanged | ServiceChanged | NodeChanged | RouteChanged | Relisted
_Change = Callable[..., MirrorChange]
_Owned = PodState | ServiceState | RouteState
_State = _Owned | NodeState
_Target = tuple[type[Any], ObjectTable[Any], _Change]


class Mirror:
    """The copy. ``pods``, ``services`` and ``nodes`` are live views by name. The watches change them, and the answers to
    stackd's own changes, which come sooner (``saw``, ``gone``).

    ``routes`` are views by resource and name; without ``follow_routes``, their watches do not run. The rest does not
    depend on them: without routes, or while their watches are away, all but names works.
    """

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
        self._routes: dict[str, ObjectTable[RouteState]] = {resource: ObjectTable() for resource in routes.RESOURCES}
        self.routes: Mapping[str, Mapping[str, RouteState]] = {
            resource: MappingProxyType(table.current) for resource, table in self._routes.items()
        }
        self.route_health = {kind: WatchHealth(kind, clock) for kind in (HTTP_ROUTES, TLS_ROUTES)}
        self._routes_listed = {kind: asyncio.Event() for kind in self.route_health}
        self._followed: tuple[str, ...] = ()
        self._route_waiters: Waiters[RouteState] = Waiters()
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

    @property
    def watches(self) -> Mapping[str, WatchHealth]:
        """All watches that should run, by kind; the copy is current without those of routes."""
        return {**self.health_by_kind, **{kind: self.route_health[kind] for kind in self._followed}}

    def follow_routes(self, kinds: Collection[str]) -> None:
        """Watch these kinds of routes from now on, and no others."""
        wanted = tuple(sorted(kinds))
        if wanted == self._followed:
            return
        self._followed = wanted
        for kind in self.route_health.keys() - set(wanted):
            self._routes_listed[kind].clear()
            self._routes[kind].replace(())
        self._again.set()

    def all_routes(self) -> Iterator[RouteState]:
        """All objects that give stacks names."""
        return chain.from_iterable(table.values() for table in self.routes.values())

    def knows(self, resource: str) -> bool:
        """Whether the copy has such objects: they are watched, and were listed."""
        return resource not in self.route_health or self._routes_listed[resource].is_set()

    async def until_known(self, resource: str, seconds: float) -> bool:
        """Whether the copy has such objects within ``seconds``."""
        return self.knows(resource) or await set_within(self._routes_listed[resource], seconds)

    async def until_ready(self, resource: str, name: str, *, timeout: float) -> None:
        """Return once the Gateway has accepted this route. Raises TimeoutError after ``timeout`` seconds."""
        await self._route_waiters.until(
            f"{resource}/{name}",
            lambda state: (state is not None and state.ready) or None,
            lambda: self.routes[resource].get(name),
            timeout,
        )

    def reopen(self, kind: str | None = None) -> None:
        """Restart the watch of ``kind``, or all, from the same version over new connections: the old may be dead."""
        for one in (*self.health_by_kind.values(), *self.route_health.values()):
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
        services = Source(kind="services", call=call("list", "services", params=ours), parse=_service_or_backend)
        nodes = Source(kind="nodes", call=KubeRequest(verb="list", resource="nodes"), parse=node_state)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(pods, (PodState, self._pods, PodChanged)), name="mirror-pods")
            group.create_task(
                self._keep(
                    services,
                    (ServiceState, self._services, ServiceChanged),
                    (RouteState, self._routes[routes.BACKENDS], RouteChanged),
                ),
                name="mirror-services",
            )
            group.create_task(self._keep(nodes, (NodeState, self._nodes, NodeChanged)), name="mirror-nodes")
            for kind in self._followed:
                found = Source(kind=kind, call=call("list", kind, params=ours), parse=partial(route_state, kind))
                group.create_task(
                    self._keep(found, (RouteState, self._routes[kind], RouteChanged)), name=f"mirror-{kind}"
                )

    async def _keep(self, source: Source[Any], *targets: _Target) -> None:
        """Follow the source; the objects of each class go into its table."""
        health = self.health_by_kind.get(source.kind) or self.route_health[source.kind]
        async with aclosing(endless(self._cluster, source, health, self._timings)) as events:
            async for event in events:
                for cls, table, change in targets:
                    if isinstance(event, Listed):
                        items = (item for item in event.items if isinstance(item, cls) and self._is_ours(item))
                        self._report(table.replace(items), change)
                    elif isinstance(event.item, cls):
                        gone = event.gone or not self._is_ours(event.item)
                        self._report((table.drop if gone else table.put)(event.item), change)
                if isinstance(event, Listed):
                    self._listed(source.kind)

    def _target(self, state: _Owned) -> tuple[WatchHealth, ObjectTable[Any], _Change]:
        """The watch, the table and the kind of change of an object."""
        if isinstance(state, PodState):
            return self.health_by_kind["pods"], self._pods, PodChanged
        if isinstance(state, ServiceState):
            return self.health_by_kind["services"], self._services, ServiceChanged
        health = self.route_health.get(state.resource) or self.health_by_kind[state.resource]
        return health, self._routes[state.resource], RouteChanged

    def saw(self, state: _Owned) -> None:
        """An answer of the API server to stackd's own change: the copy need not wait for the watch to report it.

        An answer that is older than what the watch has reported is ignored: the object may be gone by now.
        """
        health, table, change = self._target(state)
        if self._is_ours(state) and not is_older(state.resource_version, health.version):
            self._report(table.put(state), change)

    def gone(self, state: _Owned) -> None:
        """The API server has confirmed that this object is gone."""
        _, table, change = self._target(state)
        self._report(table.drop(state), change)

    def _report(self, changes: Iterable[Difference[S]], change: _Change) -> None:
        for before, after in changes:
            self._tell(change(name=_name(before, after), before=before, after=after))

    def _listed(self, kind: str) -> None:
        if kind in self._routes_listed:
            self._routes_listed[kind].set()
        self._unlisted.discard(kind)
        if not self._unlisted:
            self._synced.set()
        self._tell(Relisted(kind=kind))

    def _lost(self) -> None:
        self.failed()

    def _restored(self, away: float) -> None:
        if self.disconnected_since is None:
            self.restored(away)

    def _is_ours(self, state: _State) -> bool:
        # The selector already excludes the others. This check holds even if the selector were wrong (invariant 5).
        return isinstance(state, NodeState) or state.instance == self._cluster.instance

    def _tell(self, change: MirrorChange) -> None:
        for callback in self._subscribers:
            callback(change)
        if isinstance(change, PodChanged):
            self._waiters.wake(change.name, change.after)
        elif isinstance(change, RouteChanged) and change.after is not None:
            self._route_waiters.wake(f"{change.after.resource}/{change.name}", change.after)


def _service_or_backend(raw: JsonObject) -> ServiceState | RouteState:
    return route_state(routes.BACKENDS, raw) if routes.is_backend(raw) else service_state(raw)


def _name(before: S | None, after: S | None) -> str:
    state = after if after is not None else before
    assert state is not None
    return state.name
