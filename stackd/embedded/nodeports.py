"""Node ports and names: the allocation of ports (and cluster IPs), the status of routes, and the sockets on loopback that
answer for them.

A service whose pod is ready answers with a short page over TCP. If another program on this machine already
uses a port, the cluster does not listen on it. The Gateway answers for the names of HTTPRoutes, for plain HTTP only, with
the same page; it lets routes of all namespaces in, at each name.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator

from aiohttp import web

from stackd.embedded.nodes import is_ready
from stackd.embedded.request import labels_of
from stackd.embedded.resources import (
    GATEWAYS,
    HTTP_ROUTES,
    PODS,
    SERVICES,
    TLS_ROUTES,
    Json,
    StatusError,
    invalid,
    wrong,
)
from stackd.embedded.store import Key, ObjectChange, ObjectStore, Record, timestamp

_LOG = logging.getLogger(__name__)
_OTHERS = "(others)"
_BACKLOG = 64


class PortAllocator:
    """The node ports and cluster IPs of a cluster. Follows the store's services."""

    def __init__(self, store: ObjectStore, port_range: tuple[int, int], release_delay: float) -> None:
        self._release_delay = release_delay
        self._low, self._high = port_range
        self._holders: dict[int, str] = {}
        self._random = random.Random()
        for record in store.of(SERVICES).records.values():
            self._note(record)
        store.observe(self._follow)

    def is_free(self, port: int) -> bool:
        return port not in self._holders

    def take(self, port: int) -> None:
        """Mark the port as taken by an invisible Service."""
        self._holders[port] = _OTHERS

    def give_back(self, port: int) -> None:
        if self._holders.get(port) == _OTHERS:
            del self._holders[port]

    def assign(self, service: Json, *, own: frozenset[int] = frozenset(), dry_run: bool = False) -> None:
        """Fill in ports and addresses; they are taken only once the service is stored. Raises StatusError 422 or 500.

        `own` are the ports that this service already has. As in Kubernetes 1.36, a dry run does not check the range.
        """
        spec = service["spec"]
        if spec["type"] in {"NodePort", "LoadBalancer"}:
            self._assign_ports(service["metadata"].get("name", ""), spec, own, dry_run=dry_run)
        if spec.get("clusterIP"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        elif spec["type"] != "ExternalName":
            address = f"10.96.{self._random.randint(1, 255)}.{self._random.randint(1, 254)}"
            spec |= {"clusterIP": address, "clusterIPs": [address]}

    def _assign_ports(self, name: str, spec: Json, own: frozenset[int], *, dry_run: bool) -> None:
        chosen: set[int] = set()
        checked: dict[int, int] = {}  # one number for each port, whatever its protocols
        for position, port in enumerate(spec.get("ports", ())):
            key = port.get("port", 0)
            same = (one["nodePort"] for one in spec["ports"] if one.get("port", 0) == key and one.get("nodePort"))
            number = port.get("nodePort") or checked.get(key) or next(same, 0) or self._free_port(chosen)
            outside = not self._low <= number <= self._high
            if number != checked.get(key) and not (dry_run and outside):
                self._check(name, position, number, chosen, own)
            port["nodePort"] = checked[key] = number
            chosen.add(number)

    def _check(self, name: str, position: int, number: int, chosen: set[int], own: frozenset[int]) -> None:
        problem = ""
        if not self._low <= number <= self._high:
            span = f"{self._low}-{self._high}"
            problem = f"provided port is not in the valid range. The range of valid ports is {span}"
        elif number in chosen or (number in self._holders and number not in own):
            problem = "provided port is already allocated"
        if problem:
            raise invalid(SERVICES, name, [wrong(f"spec.ports[{position}].nodePort", number, problem)])

    def _free_port(self, chosen: set[int]) -> int:
        if self._high - self._low < len(self._holders) + len(chosen):
            message = "Internal error occurred: failed to allocate a nodePort: range is full"
            raise StatusError(500, "InternalError", message)
        while (port := self._random.randint(self._low, self._high)) in self._holders or port in chosen:
            pass
        return port

    def _follow(self, change: ObjectChange) -> None:
        if change.after.resource is SERVICES:
            if change.type == "DELETED" and self._release_delay:
                asyncio.get_running_loop().call_later(self._release_delay, self._release, change.after)
            elif change.before is not None:
                self._release(change.before)
            if change.type != "DELETED":
                self._note(change.after)

    def _note(self, service: Record) -> None:
        self._holders |= dict.fromkeys(node_ports(service.obj["spec"]), service.uid)

    def _release(self, service: Record) -> None:
        for number in node_ports(service.obj["spec"]):
            if self._holders.get(number) == service.uid:
                del self._holders[number]


def node_ports(spec: Json) -> frozenset[int]:
    return frozenset(port["nodePort"] for port in spec.get("ports", ()) if port.get("nodePort"))


def ready_pod(store: ObjectStore, service: Record) -> Record | None:
    """A ready pod that the service selects; None if there is none."""
    selector = service.obj["spec"].get("selector")
    pods = store.of(PODS).labelled(service.key[0], selector.items()) if selector else ()
    return next((pod for pod in pods if is_ready(pod.obj)), None)


def answering(answer: Callable[[str, int], tuple[int, str]]) -> web.Server:
    """Answers each request, to this host and port, with a status and a page."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        status, page = answer(request.host.lower().partition(":")[0], port)
        response = web.Response(status=status, text=page)
        response.force_close()
        return response

    return web.Server(handle, access_log=None)


class NodePortListeners:
    """Opens and closes sockets as services and pods change."""

    def __init__(self, store: ObjectStore, host: str) -> None:
        self._store = store
        self._host = host
        self._servers: dict[Key, dict[int, asyncio.Server]] = {}
        self._texts: dict[int, str] = {}
        self._web = answering(lambda _, port: (200, self._texts[port]))
        self._stale = dict.fromkeys(store.of(SERVICES).records)
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        store.observe(self._follow)

    def start(self) -> None:
        """Start to listen, beginning with the services that the store already holds."""
        self._task = asyncio.create_task(self._work(), name="embedded node ports")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for servers in self._servers.values():
            for server in servers.values():
                server.close()
        self._servers.clear()

    def _follow(self, change: ObjectChange) -> None:
        pods = [one for one in (change.before, change.after) if one is not None]
        if change.after.resource is SERVICES:
            self._stale[change.after.key] = None
            self._woken.set()
        elif change.after.resource is PODS and any(is_ready(pod.obj) for pod in pods):
            for service in self._store.of(SERVICES).in_namespace(change.after.key[0]):
                selector = (service.obj["spec"].get("selector") or {}).items()
                if any(selector <= labels_of(pod.obj).items() for pod in pods):
                    self._stale[service.key] = None
                    self._woken.set()

    async def _work(self) -> None:
        while True:
            stale, self._stale = self._stale, {}
            for key in stale:
                await self._reconcile(key)
            self._woken.clear()
            if not self._stale:
                await self._woken.wait()

    async def _reconcile(self, key: Key) -> None:
        wanted = self._wanted(key)
        servers = self._servers.pop(key, {})
        for port in servers.keys() - wanted.keys():
            servers.pop(port).close()
        self._texts |= wanted
        for port in wanted.keys() - servers.keys():
            if (server := await self._listen(port)) is not None:
                servers[port] = server
        if servers:
            self._servers[key] = servers

    def _wanted(self, key: Key) -> dict[int, str]:
        """The ports on which the service answers, and its text."""
        service = self._store.of(SERVICES).records.get(key)
        if service is None or (pod := ready_pod(self._store, service)) is None:
            return {}
        return {
            port["nodePort"]: f"This is {pod.key[1]} (service {key[1]}, port {port['port']}), "
            f"answering on node port {port['nodePort']}.\n"
            for port in service.obj["spec"].get("ports", ())
            if port["protocol"] == "TCP" and port.get("nodePort")
        }

    async def _listen(self, port: int) -> asyncio.Server | None:
        try:
            loop = asyncio.get_running_loop()
            return await loop.create_server(self._web, self._host, port, backlog=_BACKLOG)
        except OSError as exc:
            _LOG.warning("node port %d/TCP does not answer: %s", port, exc.strerror)
            return None


# ---- routes and their Gateway


CONTROLLER = "stackd.io/embedded-gateway"
_ROUTES = (HTTP_ROUTES, TLS_ROUTES)


def new_gateway(name: str, address: str) -> Json:
    """A Gateway object with a listener for each kind of route."""
    listeners = [
        {"name": listener, "protocol": protocol, "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
        for listener, protocol, port in (("http", "HTTP", 80), ("https", "HTTPS", 443), ("tls", "TLS", 443))
    ]
    conditions = [
        {"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 1}
        for kind in ("Accepted", "Programmed")
    ]
    return {
        "metadata": {"name": name},
        "spec": {"gatewayClassName": "embedded", "listeners": listeners},
        "status": {"addresses": [{"type": "IPAddress", "value": address}], "conditions": conditions},
    }


def default_route(route: Json) -> None:
    """Fill in what the CRD of a TLSRoute does."""
    spec = route.setdefault("spec", {})
    for parent in spec.get("parentRefs", ()):
        parent.update({"group": GATEWAYS.group, "kind": "Gateway"} | parent)
    for rule in spec.get("rules", ()):
        for backend in rule.get("backendRefs", ()):
            backend.update({"group": "", "kind": "Service", "weight": 1} | backend)


def default_http_route(route: Json) -> None:
    """Fill in what the CRD of an HTTPRoute does."""
    default_route(route)
    for rule in route["spec"].setdefault("rules", [{}]):
        rule.setdefault("matches", [{"path": {"type": "PathPrefix", "value": "/"}}])


class GatewayController:
    """Writes the status of routes, ``delay`` seconds after they or their Services have changed."""

    def __init__(self, store: ObjectStore, delay: float) -> None:
        self._store = store
        self._delay = delay
        store.observe(self._follow)

    def _follow(self, change: ObjectChange) -> None:
        resource, (namespace, name) = change.after.resource, change.after.key
        if resource in _ROUTES and change.type != "DELETED":
            if change.before is None or _spec(change.before) != _spec(change.after):
                self._later(change.after)
        elif resource is SERVICES and change.type != "MODIFIED":
            for route in [one for kind in _ROUTES for one in self._store.of(kind).in_namespace(namespace)]:
                if name in {backend["name"] for backend in _backends(route)}:
                    self._later(route)

    def _later(self, route: Record) -> None:
        self._store.clock.later(self._delay, lambda: self._judge(route))

    def _judge(self, seen: Record) -> None:
        route = self._store.of(seen.resource).records.get(seen.key)
        if route is None or route.uid != seen.uid:
            return
        reported = (route.obj.get("status") or {}).get("parents", [])
        parents = [entry for entry in reported if entry.get("controllerName") != CONTROLLER]
        for parent in _spec(route).get("parentRefs", ()):
            gateway = (parent.get("namespace", route.key[0]), parent["name"])
            if gateway in self._store.of(GATEWAYS).records:  # no controller answers for one that does not exist
                parents.append(self._entry(route, parent))
        if parents != reported:
            self._store.update(route, status={"parents": parents})

    def _entry(self, route: Record, parent: Json) -> Json:
        services = self._store.of(SERVICES).records
        resolved = ("True", "ResolvedRefs", "")
        for backend in _backends(route):
            if (route.key[0], backend["name"]) not in services:
                resolved = ("False", "BackendNotFound", f"no Service {backend['name']}")
        conditions = [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": route.obj["metadata"]["generation"],
                "lastTransitionTime": timestamp(self._store.clock.now()),
            }
            for kind, (status, reason, message) in (("Accepted", ("True", "Accepted", "")), ("ResolvedRefs", resolved))
        ]
        return {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}


class GatewayListener:
    """Answers for the names of HTTPRoutes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen, unless another program on this machine has the port."""
        try:
            self._server = await asyncio.get_running_loop().create_server(answering(self._answer), host, port)
            self.port = self._server.sockets[0].getsockname()[1]
        except OSError as exc:
            _LOG.warning("the Gateway does not answer on port %d: %s", port, exc.strerror)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def _answer(self, hostname: str, _: int) -> tuple[int, str]:
        services = self._store.of(SERVICES).records
        for route in self._store.of(HTTP_ROUTES).in_namespace(""):
            if hostname in _spec(route).get("hostnames", ()):
                for backend in _backends(route):
                    service = services.get((route.key[0], backend["name"]))
                    if service is not None and (pod := ready_pod(self._store, service)) is not None:
                        return 200, f"This is {pod.key[1]}, answering as {hostname}.\n"
                return 503, "no pod is ready\n"
        return 404, f"no stack has the name {hostname}\n"


def _spec(record: Record) -> Json:
    spec: Json = record.obj.get("spec") or {}
    return spec


def _backends(route: Record) -> Iterator[Json]:
    for rule in _spec(route).get("rules", ()):
        yield from rule.get("backendRefs", ())
