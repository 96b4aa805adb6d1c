"""The embedded cluster: assembles, starts and stops the parts, which have all the behaviour."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

from stackd.embedded.admission import Admission, report_quotas
from stackd.embedded.api import Registry, Watch, list_objects, read_log
from stackd.embedded.auth import REVIEWS, AccessAttributes, Accounts, User, denied, review
from stackd.embedded.deletion import Deletion
from stackd.embedded.faults import Answer, Counts, Fault, Faults
from stackd.embedded.kubelet import Kubelet
from stackd.embedded.nodeports import GatewayController, GatewayListener, NodePortListeners, PortAllocator, new_gateway
from stackd.embedded.nodes import EventRecorder, NodeController, Scheduler
from stackd.embedded.options import EmbeddedOptions
from stackd.embedded.request import RequestInfo, integer, is_true, read_target, selected_name, selector_of
from stackd.embedded.resources import (
    GATEWAY_API,
    GATEWAYS,
    JSON,
    NAMESPACES,
    NO_SUCH_PAGE,
    RESOURCE_QUOTAS,
    Json,
    StatusError,
    discover,
)
from stackd.embedded.schema import default_namespace
from stackd.embedded.server import ApiServer, Exchange
from stackd.embedded.store import Journal, LoopClock, ObjectStore
from stackd.files import write_private

_OWN_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_CREATED = 201


class EmbeddedCluster:
    """A Kubernetes API on a loopback port. `async with` starts and stops it."""

    def __init__(self, options: EmbeddedOptions | None = None) -> None:
        self.options = options or EmbeddedOptions()
        self.faults = Faults(self)
        self.gateway: GatewayListener | None = None
        self._running = AsyncExitStack()
        self._users = {user.token: user for user in self.options.users}
        self.server = ApiServer(self)

    async def start(self) -> None:
        """Load the state file, if any, and listen. Raises OSError if the port is taken."""
        options = self.options
        async with AsyncExitStack() as running:
            self.store = ObjectStore(options.clock or LoopClock())
            journal = Journal(options.state_path, self.store) if options.state_path is not None else None
            loaded = journal is not None and journal.load()
            self._assemble()
            if journal is not None:
                journal.open()
                running.callback(journal.close)
            if loaded:
                self._scheduler.adopt()
                self.kubelet.adopt()
            else:
                self._populate()
            running.callback(self.kubelet.stop)
            running.push_async_callback(self.server.stop)
            await self.server.start(options.host, options.port)
            running.push_async_callback(self.faults.stop)
            if options.serve_node_ports:
                listeners = NodePortListeners(self.store, options.host)
                listeners.start()
                running.push_async_callback(listeners.stop)
            if options.gateway_port is not None:
                self.gateway = GatewayListener(self.store)
                await self.gateway.start(options.host, options.gateway_port)
                running.callback(self.gateway.stop)
            self._running = running.pop_all()

    async def stop(self) -> None:
        """Close everything. The state file, if any, is complete afterwards."""
        await self._running.aclose()

    async def __aenter__(self) -> EmbeddedCluster:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://{self.server.host}:{self.server.port}"

    @property
    def counts(self) -> Counts:
        return self.server.counts

    def write_kubeconfig(self, path: Path, *, token: str | None = None) -> None:
        """Write a kubeconfig for this cluster to a file that only its owner can read."""
        write_private(path, render_kubeconfig(self.url, token))

    def _assemble(self) -> None:
        options, store = self.options, self.store
        events = EventRecorder(store)
        self.ports = PortAllocator(store, options.node_port_range, options.port_release_delay)
        self.nodes = NodeController(store)
        self._scheduler = Scheduler(store, events)
        self._deletion = Deletion(store, pod_gc_delay=options.pod_gc_delay)
        self.kubelet = Kubelet(store, events, self._deletion, options)
        if options.gateway:
            GatewayController(store, options.gateway_delay)
        self.accounts = Accounts(options.users, store)
        admission = Admission(store, self.ports)
        self.api = Registry(store, admission, self._deletion)

    def _populate(self) -> None:
        for name in _OWN_NAMESPACES:
            namespace: Json = {"metadata": {"name": name}}
            default_namespace(namespace)
            self.store.create(NAMESPACES, self.store.prepare(NAMESPACES, "", namespace))
        for spec in self.options.nodes:
            self.nodes.add(spec)
        if self.options.gateway:
            where, name = self.options.gateway.split("/")
            self.store.create(GATEWAYS, self.store.prepare(GATEWAYS, where, new_gateway(name, self.options.host)))

    def identify(self, token: str | None) -> User | None:
        """The user with this token; None if there are no users. Raises StatusError 401."""
        if not self._users:
            return None
        user = self._users.get(token or "") or self.accounts.who(token or "")
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def route(self, call: Exchange) -> None:
        """Set the request's target, if it has one, and check that its user may do that. Raises StatusError."""
        if call.path in REVIEWS or self._discover(call) is not None:
            return
        target = call.target = read_target(call.method, call.path, call.query)
        ask = AccessAttributes(
            verb=target.verb,
            resource=target.full_resource,
            group=target.resource.group,
            namespace=target.namespace or (target.name if target.resource is NAMESPACES else ""),  # as Kubernetes does
            name=target.name or selected_name(target.verb, call.query),
        )
        if call.user is not None and not call.user.may(ask):
            raise denied(call.user.name, ask)

    def answer(self, call: Exchange, faults: Iterable[Fault] = ()) -> Answer:
        """The response; a list with the fault `stale` is as it was at the last `remember`. Raises StatusError."""
        target = call.target
        if call.path in REVIEWS:
            return _CREATED, review(call.user, call.body), JSON
        if target is None:
            return self._discover(call) or NO_SUCH_PAGE
        if target.subresource == "log":
            return 200, read_log(self.store, target, call.query), "text/plain"
        if target.subresource == "token":
            return _CREATED, self.accounts.request(target.namespace, target.name, call.body), JSON
        return *self._act(call, target, stale=any(fault.action == "stale" for fault in faults)), JSON

    def _act(self, call: Exchange, target: RequestInfo, *, stale: bool) -> tuple[int, bytes]:
        if target.resource is RESOURCE_QUOTAS:
            report_quotas(self.store)
        match target.verb:
            case "get":
                return 200, self.api.get(target)
            case "create":
                return _CREATED, self.api.create(target, call.query, call.body)
            case "patch":
                return 200, self.api.patch(target, call.query, call.body)
            case "update":
                return self.api.update(target, call.query, call.body)
            case "delete":
                return 200, self.api.delete(target, call.query, call.body)
        collection, revision = self.store.of(target.resource), self.store.revision
        if stale:
            collection, revision = self.faults.past.get(target.resource.qualified, (collection, revision))
        return 200, list_objects(collection, revision, target, call.query)

    def _discover(self, call: Exchange) -> Answer | None:
        lacking = not self.options.gateway and call.path.startswith(f"/apis/{GATEWAY_API}/")
        return NO_SUCH_PAGE if lacking else discover(call.path, call.method)

    def watch(self, call: Exchange) -> Watch:
        """The watch that the request asks for, open. Raises StatusError."""
        target, query = call.target, call.query
        assert target is not None
        bookmarks = is_true(query.get("allowWatchBookmarks"))
        watch = Watch(self.store.of(target.resource), target.namespace, selector_of(query), bookmarks=bookmarks)
        watch.open(integer(query, "resourceVersion") or 0)
        return watch


def render_kubeconfig(url: str, token: str | None) -> str:
    """A kubeconfig with one cluster, one user and one context. (JSON is YAML.)"""
    name = "embedded"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url}}],
        "users": [{"name": name, "user": {"token": token} if token else {}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    return json.dumps(config, indent=2) + "\n"
