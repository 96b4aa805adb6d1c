"""``Mirror``: a local copy of our pods and services, and of all nodes, fed by three watches; and, if asked for, of
our routes, fed by one more for each kind. stackd's reads never ask Kubernetes (invariant 6).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from stackd.clock import Clock, SystemClock
from stackd.errors import StackdError
from stackd.kube.client import Cluster
from stackd.kube.objects import NodeState, PodState, ServiceState, node_state, pod_state, service_state
from stackd.kube.routes import BACKENDS, RESOURCES, RouteState, is_backend, route_state
from stackd.kube.watch import WatchHealth, endless
from stackd.kube.wire import HTTP_ROUTES, TLS_ROUTES, JsonObject, KubeRequest, is_older
from stackd.structs import struct
from stackd.tasks import Waiters, set_within

log = logging.getLogger(__name__)
WITHHELD = (
    "the watch of pods is open and reports nothing, although pods have changed; is there a proxy that buffers answers "
    "between stackd and the API server?"
)
T = TypeVar("T")
_State = PodState | ServiceState | RouteState | NodeState
_READERS: Mapping[str, Callable[[JsonObject], Any]] = {
    "pods": pod_state,
    "services": lambda raw: route_state(BACKENDS, raw) if is_backend(raw) else service_state(raw),
    "nodes": node_state,
    HTTP_ROUTES: partial(route_state, HTTP_ROUTES),
    TLS_ROUTES: partial(route_state, TLS_ROUTES),
}
_RESOURCES: Mapping[type[Any], str] = {PodState: "pods", ServiceState: "services", NodeState: "nodes"}
S = TypeVar("S", bound=_State)


@struct
class ObjectChanged(Generic[S]):
    """An object appeared (``before`` None), changed, or is gone (``after`` None)."""

    name: str
    before: S | None
    after: S | None


class PodChanged(ObjectChanged[PodState]):
    """A change of a pod."""


class ServiceChanged(ObjectChanged[ServiceState]):
    """A change of a Service."""


class NodeChanged(ObjectChanged[NodeState]):
    """A change of a node in a field that ``NodeState`` keeps."""


class RouteChanged(ObjectChanged[RouteState]):
    """A change of an object that gives a stack a name."""


@struct
class Relisted:
    """A list was read (the first one, too), and its differences were reported."""

    kind: str


MirrorChange = PodChanged | ServiceChanged | NodeChanged | RouteChanged | Relisted


class ObjectTable(Generic[S]):
    """Objects by name. Each update returns its differences as changes of the class ``change``.

    A new object with the name of an old one makes two differences: the old one is gone, then the new one appears.
    """

    def __init__(self, change: Callable[..., MirrorChange]) -> None:
        self._change = change
        self.current: dict[str, S] = {}

    def put(self, state: S) -> list[MirrorChange]:
        """Store the state of one object."""
        before = self.current.get(state.name)
        self.current[state.name] = state
        return self._differences(before, state)

    def drop(self, state: S) -> list[MirrorChange]:
        """Remove the object, unless another one has the name by now."""
        before = self.current.get(state.name)
        if before is None or before.uid != state.uid:
            return []
        del self.current[state.name]
        return self._differences(before, None)

    def replace(self, states: Iterable[S]) -> list[MirrorChange]:
        """Replace the table by a complete list, then return the differences."""
        old = dict(self.current)
        self.current.clear()
        self.current.update((state.name, state) for state in states)
        pairs = [(state, None) for name, state in old.items() if name not in self.current]
        pairs += [(old.get(name), state) for name, state in self.current.items()]  # type: ignore[misc]
        return [change for pair in pairs for change in self._differences(*pair)]

    def _differences(self, before: S | None, after: S | None) -> list[MirrorChange]:
        if before == after:
            return []
        if before is not None and after is not None and before.uid != after.uid:
            return self._differences(before, None) + self._differences(None, after)
        name = next(state.name for state in (before, after) if state is not None)
        return [self._change(name=name, before=before, after=after)]


class Mirror:
    """The copy. ``pods``, ``services`` and ``nodes`` are live views by name. The watches change them, and the answers to
    stackd's own changes, which come sooner (``saw``, ``gone``).

    ``routes`` are views by resource and name; without ``follow_routes``, their watches do not run. The rest does not
    depend on them: without routes, or while their watches are away, all but names works.

    ``failed`` is called when one of the three watches loses its connection, or cannot get one; ``restored`` when all
    three have one again, with the seconds for which the last of them had none.
    """

    def __init__(self, cluster: Cluster, *, clock: Clock | None = None) -> None:
        self._cluster = cluster
        clock = clock or SystemClock()
        pods: ObjectTable[PodState] = ObjectTable(PodChanged)
        services: ObjectTable[ServiceState] = ObjectTable(ServiceChanged)
        nodes: ObjectTable[NodeState] = ObjectTable(NodeChanged)
        routes: dict[str, ObjectTable[RouteState]] = {resource: ObjectTable(RouteChanged) for resource in RESOURCES}
        self.pods: Mapping[str, PodState] = MappingProxyType(pods.current)
        self.services: Mapping[str, ServiceState] = MappingProxyType(services.current)
        self.nodes: Mapping[str, NodeState] = MappingProxyType(nodes.current)
        self.routes: Mapping[str, Mapping[str, RouteState]] = {
            resource: MappingProxyType(table.current) for resource, table in routes.items()
        }
        self._tables: dict[tuple[str, type[Any]], ObjectTable[Any]] = {
            ("pods", PodState): pods,
            ("services", ServiceState): services,
            ("nodes", NodeState): nodes,
            **{(resource, RouteState): table for resource, table in routes.items()},
        }
        self.failed: Callable[[], None] = lambda: None
        self.restored: Callable[[float], None] = lambda away: None
        self.health_by_kind: Mapping[str, WatchHealth] = {
            kind: WatchHealth(kind, clock, self._failed, self._restored) for kind in ("pods", "services", "nodes")
        }
        self.route_health = {kind: WatchHealth(kind, clock) for kind in (HTTP_ROUTES, TLS_ROUTES)}
        self._listed = {kind: asyncio.Event() for kind in (*self.health_by_kind, *self.route_health)}
        self._followed: tuple[str, ...] = ()
        self._waiters: Waiters[Any] = Waiters()
        self._subscribers: list[Callable[[MirrorChange], None]] = []
        self._synced = asyncio.Event()
        self._again = asyncio.Event()
        self._running = False

    @property
    def synced(self) -> bool:
        """Whether all three kinds were listed; remains true when a watch is lost, but not during a ``relist``."""
        return self._synced.is_set()

    @property
    def disconnected_since(self) -> float | None:
        """Since when (monotonic seconds) at least one of the three watches has no connection; None if all have one."""
        since = (health.disconnected_since for health in self.health_by_kind.values())
        return min((one for one in since if one is not None), default=None)

    @property
    def last_error(self) -> str:
        """Why a watch is not connected, for /readyz; empty when all are, or before the first attempt has failed."""
        return next((f"{p.kind}: {p.last_error}" for p in self.health_by_kind.values() if p.last_error), "")

    @property
    def watches(self) -> Mapping[str, WatchHealth]:
        """All watches that should run, by kind; the copy is current without those of routes."""
        return {**self.health_by_kind, **{kind: self.route_health[kind] for kind in self._followed}}

    def staleness(self) -> float:
        """Seconds since the copy was last known to be current. On a quiet cluster up to a minute, between bookmarks."""
        return max(health.staleness() for health in self.health_by_kind.values())

    def subscribe(self, callback: Callable[[MirrorChange], None]) -> None:
        """Call ``callback``, which must not block, with each change, in order. An exception from it ends ``run``."""
        self._subscribers.append(callback)

    async def wait_synced(self) -> None:
        """Return when all three kinds were listed."""
        await self._synced.wait()

    async def until(self, name: str, predicate: Callable[[PodState | None], T | None], *, timeout: float) -> T:
        """The first value other than None that the predicate returns for the pod of that name, now or after a change.

        It gets None if the copy has no such pod, which means nothing just after a create. Raises TimeoutError.
        """
        return await self._waiters.until(f"pods/{name}", predicate, lambda: self.pods.get(name), timeout)

    # ---- routes

    def follow_routes(self, kinds: Collection[str]) -> None:
        """Watch these kinds of routes from now on, and no others."""
        wanted = tuple(sorted(kinds))
        if wanted == self._followed:
            return
        self._followed = wanted
        for kind in self.route_health.keys() - set(wanted):
            self._listed[kind].clear()
            self._tables[kind, RouteState].replace(())
        self._again.set()

    def all_routes(self) -> Iterator[RouteState]:
        """All objects that give stacks names."""
        return chain.from_iterable(table.values() for table in self.routes.values())

    def knows(self, resource: str) -> bool:
        """Whether the copy has such objects: they are watched, and were listed."""
        return resource not in self.route_health or self._listed[resource].is_set()

    async def until_known(self, resource: str, seconds: float) -> bool:
        """Whether the copy has such objects within ``seconds``."""
        return self.knows(resource) or await set_within(self._listed[resource], seconds)

    async def until_ready(self, resource: str, name: str, *, timeout: float) -> None:
        """Return once the Gateway has accepted this route. Raises TimeoutError after ``timeout`` seconds."""
        await self._waiters.until(
            f"{resource}/{name}",
            lambda state: (state is not None and state.ready) or None,
            lambda: self.routes[resource].get(name),
            timeout,
        )

    # ---- what else is known of the cluster

    def saw(self, state: _State) -> None:
        """An answer of the API server to stackd's own change: the copy need not wait for the watch.

        One that is older than what the watch has reported is ignored: the object may be gone by now.
        """
        resource = _resource_of(state)
        health = self.health_by_kind.get(resource) or self.route_health[resource]
        if self._is_ours(state) and not is_older(getattr(state, "resource_version", ""), health.version):
            self._report(resource, self._tables[resource, type(state)].put(state))

    def gone(self, state: _State) -> None:
        """The API server has confirmed that this object is gone."""
        resource = _resource_of(state)
        self._report(resource, self._tables[resource, type(state)].drop(state))

    def missed(self, pod: PodState) -> None:
        """Reopen the watch if it has not reported ``pod`` as a get has just returned it.

        If the new connection reports nothing either, something holds back the events (``withheld``).
        """
        seen = self.pods.get(pod.name)
        overtaken = seen is not None and seen.uid == pod.uid and is_older(pod.resource_version, seen.resource_version)
        if not self._is_ours(pod) or seen == pod or overtaken:
            return  # the pod lacks stackd's labels, so it is not watched; or the watch has reported it
        self.health_by_kind["pods"].missed()
        if self.withheld:
            log.warning("%s", WITHHELD, extra={"same": "withheld"})
        self.reopen("pods")

    def keep(self, pod: PodState) -> None:
        """Store a pod that only a get has returned: it lacks stackd's labels, or the watch has not reported it."""
        self._report("pods", self._tables["pods", PodState].put(pod))

    @property
    def withheld(self) -> bool:
        """Whether the watch of pods is open and reports nothing of what Kubernetes has."""
        return self.health_by_kind["pods"].withheld

    def reopen(self, kind: str | None = None) -> None:
        """Restart the watch of ``kind``, or all, from the same version over new connections: the old may be dead."""
        for one in (*self.health_by_kind.values(), *self.route_health.values()):
            if kind in (None, one.kind):
                one.reopen()

    def lose(self, error: StackdError) -> None:
        """Kubernetes does not answer: mark all watches as disconnected, even if their connections look open."""
        for one in self.health_by_kind.values():
            one.lost(error)
        self.reopen()

    async def relist(self) -> None:
        """Read all three lists again, with new watches; until it returns the copy is not synced. Nothing before ``run``."""
        if not self._running:
            return
        for kind in self.health_by_kind:
            self._listed[kind].clear()
        self._synced.clear()
        self._again.set()
        await self._synced.wait()

    # ---- the watches

    async def run(self) -> None:
        """Keep the copy up to date until cancelled."""
        self._running = True
        while True:
            self._again.clear()
            watches = asyncio.create_task(self._run(), name="mirror-watches")
            again = asyncio.create_task(self._again.wait(), name="mirror-again")
            try:
                await asyncio.wait((watches, again), return_when=asyncio.FIRST_COMPLETED)
                if watches.done():
                    return watches.result()
            finally:
                watches.cancel()
                again.cancel()
                await asyncio.gather(watches, again, return_exceptions=True)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind, health in self.watches.items():
                group.create_task(self._follow(kind, health), name=f"mirror-{kind}")

    async def _follow(self, kind: str, health: WatchHealth) -> None:
        nodes = KubeRequest(verb="list", resource="nodes")
        listing = nodes if kind == "nodes" else self._cluster.on("list", kind, params=self._cluster.ours())
        tables = {cls: table for (resource, cls), table in self._tables.items() if resource == kind}
        async with aclosing(endless(self._cluster, listing, _READERS[kind], health)) as news:
            async for one in news:
                if isinstance(one, list):
                    for cls, table in tables.items():
                        items = (item for item in one if isinstance(item, cls) and self._is_ours(item))
                        self._report(kind, table.replace(items))
                    self._listed[kind].set()
                    if all(self._listed[one].is_set() for one in self.health_by_kind):
                        self._synced.set()
                    self._tell(Relisted(kind=kind))
                else:
                    item, gone = one
                    table = tables[type(item)]
                    self._report(kind, table.drop(item) if gone or not self._is_ours(item) else table.put(item))

    def _report(self, resource: str, changes: Iterable[MirrorChange]) -> None:
        for change in changes:
            self._tell(change)
            if isinstance(change, ObjectChanged):
                self._waiters.wake(f"{resource}/{change.name}", change.after)

    def _tell(self, change: MirrorChange) -> None:
        for callback in self._subscribers:
            callback(change)

    def _failed(self) -> None:
        self.failed()

    def _restored(self, away: float) -> None:
        if self.disconnected_since is None:
            self.restored(away)

    def _is_ours(self, state: _State) -> bool:
        # The selector already excludes the others. This check holds even if the selector were wrong (invariant 5).
        return isinstance(state, NodeState) or state.instance == self._cluster.instance


def _resource_of(state: _State) -> str:
    return state.resource if isinstance(state, RouteState) else _RESOURCES[type(state)]
