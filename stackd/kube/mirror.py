"""``Mirror``: a local copy of our pods and services, and of all nodes, fed by three watches; and, if asked for, of
our routes and templates, fed by one more for each kind. Pods that templates own have a table of their own. stackd's reads
never ask Kubernetes (invariant 6).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from stackd.clock import Clock, SystemClock
from stackd.errors import ClusterSilent, StackdError
from stackd.kube import labels, template_maps
from stackd.kube.client import Cluster
from stackd.kube.objects import (
    NodeState,
    PodState,
    ServiceState,
    TemplatePod,
    node_state,
    pod_state,
    service_state,
    template_pod,
)
from stackd.kube.routes import BACKENDS, INNER_PREFIXES, RESOURCES, ROUTES, RouteState
from stackd.kube.template_maps import TemplateMap, template_map
from stackd.kube.watch import WatchHealth, endless
from stackd.kube.wire import CONFIG_MAPS, HTTP_ROUTES, NETWORK_POLICIES, TLS_ROUTES, JsonObject, KubeRequest, is_older
from stackd.model import struct
from stackd.tasks import set_within

log = logging.getLogger(__name__)
WITHHELD = (
    "the watch of pods is open and reports nothing, although pods have changed; is there a proxy that buffers answers "
    "between stackd and the API server?"
)
State = PodState | TemplatePod | ServiceState | RouteState | TemplateMap | NodeState


def _read_pod(raw: JsonObject) -> PodState | TemplatePod:
    return template_pod(raw) if labels.role_of(labels.labels_of(raw)) else pod_state(raw)


def _read_service(raw: JsonObject) -> ServiceState | RouteState:
    is_inner = raw["metadata"]["name"].startswith(INNER_PREFIXES)
    return ROUTES[BACKENDS].read(raw) if is_inner else service_state(raw)


_READERS: Mapping[str, Callable[[JsonObject], Any]] = {
    "pods": _read_pod,
    **{resource: kind.read for resource, kind in ROUTES.items()},
    "services": _read_service,
    "nodes": node_state,
    CONFIG_MAPS: template_map,
}


@struct
class Changed:
    """An object appeared (``before`` None), changed in what its state keeps, or is gone (``after`` None). ``state``: as it is, or
    was at last. ``own``: an answer to a request of stackd says so, and not the watch."""

    before: State | None
    after: State | None
    state: State
    own: bool = False


@struct
class Relisted:
    """A list was read (the first one, too), and its differences were reported."""

    kind: str


class _AnyNode(Mapping[str, NodeState]):
    """Every name is a node's: which nodes there are is not read."""

    def __init__(self, node: NodeState) -> None:
        self._node = node

    def __getitem__(self, name: str) -> NodeState:
        if not name:
            raise KeyError(name)
        return replace(self._node, name=name)

    def __iter__(self) -> Iterator[str]:
        return iter((self._node.name,))

    def __len__(self) -> int:
        return 1


class Mirror:
    """The copy. ``pods``, ``template_pods``, ``services`` and ``nodes`` are live views by name. The watches change them, and the
    answers to stackd's own changes, which come sooner (``saw``, ``gone``).

    ``removals`` counts the objects that have gone.

    ``routes`` are views by resource and name, ``templates`` a view by the ConfigMap's name; their watches run only while their
    kinds are ``followed`` (``follow``). The rest does not depend on them: while the watches of routes are away, all but names
    works.

    While Kubernetes does not answer, all watches count as disconnected. When the three are back, the cluster's identity is
    in doubt.
    """

    def __init__(self, cluster: Cluster, *, clock: Clock | None = None) -> None:
        self._cluster = cluster
        contact, clock = cluster.connection.contact, clock or SystemClock()
        contact.subscribe(self._contact_changed)
        self._tables: dict[tuple[type[State], str], dict[str, Any]] = {
            (PodState, "pods"): {},
            (TemplatePod, "pods"): {},
            (ServiceState, "services"): {},
            (NodeState, "nodes"): {},
            (TemplateMap, CONFIG_MAPS): {},
            **{(RouteState, resource): {} for resource in RESOURCES},
        }
        self._by_resource: dict[str, list[dict[str, Any]]] = {}
        for (_, resource), table in self._tables.items():
            self._by_resource.setdefault(resource, []).append(table)
        self.pods: Mapping[str, PodState] = self._tables[PodState, "pods"]
        self.template_pods: Mapping[str, TemplatePod] = self._tables[TemplatePod, "pods"]
        self.services: Mapping[str, ServiceState] = self._tables[ServiceState, "services"]
        any_node = cluster.target.any_node
        self.nodes: Mapping[str, NodeState] = _AnyNode(any_node) if any_node else self._tables[NodeState, "nodes"]
        self.templates: Mapping[str, TemplateMap] = self._tables[TemplateMap, CONFIG_MAPS]
        self.routes: Mapping[str, Mapping[str, RouteState]] = {
            resource: self._tables[RouteState, resource] for resource in RESOURCES
        }
        self.health_by_kind: Mapping[str, WatchHealth] = {
            kind: WatchHealth(kind, clock, contact.tried.set, self._restored)
            for kind in ("pods", "services", *(() if any_node else ("nodes",)))
        }
        self.extra_health = {
            kind: WatchHealth(kind, clock) for kind in (HTTP_ROUTES, TLS_ROUTES, NETWORK_POLICIES, CONFIG_MAPS)
        }
        self._listed = {kind: asyncio.Event() for kind in (*self.health_by_kind, *self.extra_health)}
        self.followed: tuple[str, ...] = ()
        self._removed: dict[str, tuple[int, State]] = {}
        self._others = template_maps.Others()
        self.removals = 0
        self._subscribers: dict[str, list[Callable[[Changed | Relisted], None]]] = {kind: [] for kind in _READERS}
        self._synced = asyncio.Event()
        self._again = asyncio.Event()
        self._running = False
        self._begin: Callable[[str, WatchHealth], None] | None = None

    @property
    def synced(self) -> bool:
        """Whether all three kinds were listed; remains true when a watch is lost, but not during a ``relist``."""
        return self._synced.is_set()

    @property
    def disconnected_since(self) -> float | None:
        """Since when (monotonic seconds) at least one of the three watches has no connection; None if all have one."""
        earliest = None
        for health in self.health_by_kind.values():
            since = health.disconnected_since
            if since is not None and (earliest is None or since < earliest):
                earliest = since
        return earliest

    @property
    def last_error(self) -> str:
        """Why a watch is not connected, for /readyz; empty when all are, or before the first attempt has failed."""
        return next((f"{p.kind}: {p.last_error}" for p in self.health_by_kind.values() if p.last_error), "")

    @property
    def watches(self) -> Mapping[str, WatchHealth]:
        """All watches that should run, by kind; the copy is current without the extra ones."""
        return {**self.health_by_kind, **{kind: self.extra_health[kind] for kind in self.followed}}

    def find(self, resource: str, name: str) -> State | None:
        for table in self._by_resource[resource]:
            if name in table:
                state: State = table[name]
                return state
        return None

    def staleness(self) -> float:
        """Seconds since the copy was last known to be current. On a quiet cluster up to ``IDLE_SECONDS`` of a watch."""
        return max(health.staleness() for health in self.health_by_kind.values())

    def subscribe(self, callback: Callable[[Changed | Relisted], None], *kinds: str) -> None:
        """Call ``callback``, which must not block, with each change of these kinds (by default, of all), in order. An exception
        from it ends ``run``.

        A new object with the name of an old one makes two changes: the old one is gone, then the new one appears.
        """
        for kind in kinds or _READERS:
            self._subscribers[kind].append(callback)

    async def wait_synced(self) -> None:
        await self._synced.wait()

    # ---- routes and templates

    def follow(self, kinds: Collection[str]) -> None:
        """Watch these kinds, too, from now on, and no others."""
        wanted, before = tuple(sorted(kinds)), self.followed
        if wanted == before:
            return
        self.followed = wanted
        for kind in self.extra_health.keys() - set(wanted):
            self._listed[kind].clear()
            self._replace(kind, ())
        if self._begin is not None and set(before) <= set(wanted):  # the others go on
            for kind in set(wanted) - set(before):
                self._begin(kind, self.extra_health[kind])
        else:
            self._again.set()

    def also_follow(self, kind: str) -> None:
        if kind not in self.followed:
            self.follow((*self.followed, kind))

    def all_routes(self) -> Iterator[RouteState]:
        return chain.from_iterable(table.values() for table in self.routes.values())

    def knows(self, resource: str) -> bool:
        """Whether the copy has such objects: they are watched, and were listed, and the API server knows their kind."""
        health = self.extra_health.get(resource)
        return health is None or (health.served and self._listed[resource].is_set())

    async def until_known(self, resource: str, seconds: float) -> bool:
        return self.knows(resource) or (await set_within(self._listed[resource], seconds) and self.knows(resource))

    # ---- what else is known of the cluster

    def version(self, resource: str) -> str:
        """The resourceVersion up to which the watch has reported what happened; empty before its first list."""
        return self._health(resource).version

    def saw(self, state: State, since: str = "") -> None:
        """An answer of the API server to stackd's own change: the copy need not wait for the watch.

        One that is older than what the watch has reported is ignored: the object may be gone by now. But if the copy lacks
        the object, and the request has changed nothing of it (it is not newer than ``since``, the watch's version before
        the request), then the watch was wrong, and no event follows: the object is stored, and the list is read again.
        """
        if not self._is_ours(state):
            return
        health, version = self._health(state.resource), getattr(state, "resource_version", "")
        if not is_older(version, health.version):
            self._store(state, own=True)
        elif since and not is_older(since, version) and self.find(state.resource, state.name) is None:
            self._store(state, own=True)
            health.list_again()

    def gone(self, state: State, *, own: bool = True) -> None:
        """The object is gone: the API server has confirmed it, or (not ``own``) the watch reports it."""
        for table in self._by_resource[state.resource]:
            before = table.get(state.name)
            if before is not None and before.uid == state.uid:  # otherwise another object has the name by now
                del table[state.name]
                self._report(before, None, own=own)

    def removed(self, state: State) -> None:
        """The API server has removed the object at stackd's request: what a late watch still reports of it is outdated."""
        if (seen := self.find(state.resource, state.name)) is not None and seen.uid == state.uid:
            self._removed[state.uid] = self._cluster.connection.identity.epoch, state
            self.gone(state)

    def missed(self, pod: PodState) -> None:
        """Reopen the watch if it has not reported ``pod`` as a get has just returned it.

        If the new connection reports nothing either, something holds back the events (``withheld``).
        """
        seen = self.pods.get(pod.name)
        overtaken = seen is not None and seen.uid == pod.uid and is_older(pod.resource_version, seen.resource_version)
        if not self._is_ours(pod) or seen == pod or overtaken:
            return  # the pod lacks stackd's labels, so it is not watched; or the watch has reported it
        health = self.health_by_kind["pods"]
        if not is_older(health.version, pod.resource_version):
            return  # an old list has left it out, and the watch, which goes on from there, never reports it
        health.missed()
        if health.withheld:
            log.warning("%s", WITHHELD, extra={"same": "withheld"})
        health.reconnect()

    def keep(self, pod: PodState) -> None:
        """Store a pod that the watch does not report: it lacks stackd's labels, or the watch is late."""
        seen = self.pods.get(pod.name)
        if seen is None or not is_older(pod.resource_version, seen.resource_version):
            self._store(pod, own=True)

    @property
    def withheld(self) -> bool:
        """Whether the watch of pods is open and reports nothing of what Kubernetes has."""
        return self.health_by_kind["pods"].withheld

    def lose(self, error: StackdError) -> None:
        """Kubernetes does not answer: mark all watches as disconnected, even if their connections look open."""
        for health in (*self.health_by_kind.values(), self.extra_health[CONFIG_MAPS]):
            health.lost(error)
        for health in (*self.health_by_kind.values(), *self.extra_health.values()):
            health.reconnect()

    def list_again(self) -> None:
        """Begin to read all lists again, with new watches; the copy is not synced until they are read. Nothing before
        ``run``."""
        if not self._running:
            return
        for kind in (*self.health_by_kind, CONFIG_MAPS):
            self._listed[kind].clear()
        self._synced.clear()
        self._again.set()

    async def relist(self) -> None:
        """Read all lists again. Nothing before ``run``."""
        self.list_again()
        if self._running:
            await self._synced.wait()

    # ---- the watches

    async def run(self) -> None:
        self._running = True
        while True:
            self._again.clear()
            async with asyncio.TaskGroup() as group:
                watches: list[asyncio.Task[None]] = []

                def begin(kind: str, health: WatchHealth, group: Any = group, watches: Any = watches) -> None:
                    watches.append(group.create_task(self._follow(kind, health), name=f"mirror-{kind}"))

                for kind, health in self.watches.items():
                    begin(kind, health)
                self._begin = begin
                try:
                    await self._again.wait()
                finally:
                    self._begin = None
                for watch in watches:
                    watch.cancel()

    async def _follow(self, kind: str, health: WatchHealth) -> None:
        wanted = {"labelSelector": template_maps.selector(self._cluster.instance)} if kind == CONFIG_MAPS else None
        nodes = KubeRequest(verb="list", resource="nodes")
        listing = nodes if kind == "nodes" else self._cluster.on("list", kind, params=wanted or self._cluster.ours())
        async with aclosing(endless(self._cluster, listing, partial(self._read, kind, health), health)) as news:
            async for event in news:
                if isinstance(event, list):
                    self._replace(kind, [*event, *self._newer_than_list(kind, health)])
                    self._listed[kind].set()
                    if all(self._listed[kind].is_set() for kind in self.health_by_kind):
                        self._synced.set()
                    self._tell(kind, Relisted(kind=kind))
                else:
                    state, gone = event
                    if state.uid in self._removed:
                        if gone:
                            del self._removed[state.uid]
                    elif gone or not self._is_ours(state):
                        self.gone(state, own=False)
                        self._others.forget(state.name)
                        if kind == CONFIG_MAPS and self._others.have_room:
                            health.list_again()
                    else:
                        self._store(state)

    def _read(self, kind: str, health: WatchHealth, raw: JsonObject) -> State:
        """The state of the object. Much of what a watch reports, stackd has done itself and knows by the answer; a list is read
        in full, since the cluster's history may have been set back."""
        metadata = raw["metadata"]
        if metadata["uid"] in self._removed:
            epoch, removed = self._removed[metadata["uid"]]
            if health.version and epoch == self._cluster.connection.identity.epoch:
                return removed
            del self._removed[metadata["uid"]]  # perhaps by another cluster
        for table in self._by_resource[kind] if health.version else ():
            seen: State | None = table.get(metadata["name"])
            same = getattr(seen, "resource_version", "") == metadata["resourceVersion"]
            if same and seen is not None and seen.uid == metadata["uid"]:
                return seen
        state: State = _READERS[kind](raw)
        return self._others.limited(state) if isinstance(state, TemplateMap) else state

    def _store(self, state: State, *, own: bool = False) -> None:
        table = self._tables[type(state), state.resource]
        for other in self._by_resource[state.resource]:
            if other is not table and (moved := other.pop(state.name, None)) is not None:  # its labels have changed
                self._report(moved, None, own=own)
        before, table[state.name] = table.get(state.name), state
        self._report(before, state, own=own)

    def _newer_than_list(self, resource: str, health: WatchHealth) -> list[State]:
        """What the copy has from after the list that was just read, by answers to stackd's own changes: a list may take
        long, and its absence there means nothing. The watch reports the end of it, because it continues from the list.

        Nothing if the list is the first of these watches, or older than what they have shown: perhaps of another cluster,
        or of one whose history was set back.
        """
        if not health.expired or is_older(health.version, health.expired):
            return []
        states = chain.from_iterable(table.values() for (_, of), table in self._tables.items() if of == resource)
        return [state for state in states if is_older(health.version, getattr(state, "resource_version", ""))]

    def _replace(self, resource: str, states: Iterable[State]) -> None:
        """Make the copy be this complete list (of two states of one name, the last), then report the differences."""
        self._removed = {uid: known for uid, known in self._removed.items() if known[1].resource != resource}
        listed = [state for state in states if self._is_ours(state)]
        pairs: list[tuple[State | None, State | None]] = []
        for (kind, of), table in self._tables.items():
            if of == resource:
                old, new = dict(table), {state.name: state for state in listed if isinstance(state, kind)}
                table.clear()
                table.update(new)
                pairs += [(state, None) for name, state in old.items() if name not in new]
                pairs += [(old.get(name), state) for name, state in new.items()]
        if resource == CONFIG_MAPS:
            self._others.listed(self.templates)
        for before, after in pairs:
            self._report(before, after)

    def _report(self, before: State | None, after: State | None, *, own: bool = False) -> None:
        state = after or before
        if before == after or state is None:
            return
        if before is not None and after is not None and before.uid != after.uid:
            self._report(before, None, own=own)
            before = None
        self.removals += after is None
        self._tell(state.resource, Changed(before=before, after=after, state=state, own=own))

    def _tell(self, kind: str, change: Changed | Relisted) -> None:
        for callback in self._subscribers[kind]:
            callback(change)

    def _restored(self) -> None:
        if self.disconnected_since is None and self.synced:
            self._cluster.connection.identity.doubt()

    def _contact_changed(self, lost: bool) -> None:
        if lost:
            self.lose(ClusterSilent(str(self._cluster.connection.contact.error())))

    def _health(self, resource: str) -> WatchHealth:
        return self.health_by_kind.get(resource) or self.extra_health[resource]

    def _is_ours(self, state: State) -> bool:
        # The selector already excludes the others. This check holds even if the selector were wrong (invariant 5).
        return isinstance(state, NodeState) or state.instance == self._cluster.instance
