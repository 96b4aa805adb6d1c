"""A Gateway as a Gateway API implementation serves it: it answers for the names of HTTPRoutes, and says in the status
of each route whether it is accepted and whether what it refers to exists.

It listens for plain HTTP only, with the same page as a node port. It lets routes of all namespaces in, at each name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from stackd.embedded.nodeports import HttpAnswer, ready_pod
from stackd.embedded.resources import GATEWAYS, HTTP_ROUTES, SERVICES, TLS_ROUTES, Json
from stackd.embedded.store import ObjectChange, ObjectStore, Record, timestamp

_LOG = logging.getLogger(__name__)
CONTROLLER = "stackd.io/embedded-gateway"
_LISTENERS = (("http", "HTTP", 80), ("https", "HTTPS", 443), ("tls", "TLS", 443))
_ROUTES = (HTTP_ROUTES, TLS_ROUTES)
_GATEWAY, _SERVICE = "Gateway", "Service"


def new_gateway(name: str, address: str) -> Json:
    """A Gateway object with a listener for each kind of route."""
    listeners = [
        {"name": listener, "protocol": protocol, "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}}
        for listener, protocol, port in _LISTENERS
    ]
    return {
        "metadata": {"name": name},
        "spec": {"gatewayClassName": "embedded", "listeners": listeners},
        "status": {
            "addresses": [{"type": "IPAddress", "value": address}],
            "conditions": [
                {"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 1}
                for kind in ("Accepted", "Programmed")
            ],
        },
    }


def default_route(route: Json) -> None:
    """Fill in what the CRD of a TLSRoute does."""
    spec = route.setdefault("spec", {})
    for parent in spec.get("parentRefs", ()):
        parent.update({"group": GATEWAYS.group, "kind": _GATEWAY} | parent)
    for rule in spec.get("rules", ()):
        for backend in rule.get("backendRefs", ()):
            backend.update({"group": "", "kind": _SERVICE, "weight": 1} | backend)


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
        if change.type == "DELETED" and resource is not SERVICES:
            return
        if resource in _ROUTES and (change.before is None or _spec(change.before) != _spec(change.after)):
            self._store.clock.later(self._delay, lambda: self._judge(change.after))
        elif resource is SERVICES and change.type != "MODIFIED":
            for route in [one for kind in _ROUTES for one in self._store.of(kind).in_namespace(namespace)]:
                if name in {backend["name"] for backend in _backends(route)}:
                    self._store.clock.later(self._delay, lambda route=route: self._judge(route))  # type: ignore[misc]

    def _judge(self, seen: Record) -> None:
        route = self._store.of(seen.resource).records.get(seen.key)
        if route is None or route.uid != seen.uid:
            return
        told = (route.obj.get("status") or {}).get("parents", [])
        others = [entry for entry in told if entry.get("controllerName") != CONTROLLER]
        own = [entry for parent in _spec(route).get("parentRefs", ()) for entry in self._entry(route, parent)]
        if others + own != told:
            self._store.update(route, status={"parents": others + own})

    def _entry(self, route: Record, parent: Json) -> Iterator[Json]:
        gateway = self._store.of(GATEWAYS).records.get((parent.get("namespace", route.key[0]), parent["name"]))
        if gateway is None:
            return  # no controller answers for a Gateway that does not exist
        wanted = parent.get("sectionName")
        listens = any(wanted in (None, one["name"]) for one in _spec(gateway)["listeners"])
        missing = [
            backend["name"]
            for backend in _backends(route)
            if (route.key[0], backend["name"]) not in self._store.of(SERVICES).records
        ]
        accepted = ("True", "Accepted", "") if listens else ("False", "NoMatchingParent", f"no listener {wanted}")
        resolved = ("False", "BackendNotFound", f"no Service {missing[0]}") if missing else ("True", "ResolvedRefs", "")
        conditions = [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": route.obj["metadata"]["generation"],
                "lastTransitionTime": timestamp(self._store.clock.now()),
            }
            for kind, (status, reason, message) in (("Accepted", accepted), ("ResolvedRefs", resolved))
        ]
        yield {"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}


class GatewayListener:
    """Answers for the names of HTTPRoutes."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen, unless another program on this machine has the port."""
        try:
            self._server = await asyncio.get_running_loop().create_server(lambda: HttpAnswer(self.answer), host, port)
        except OSError as exc:
            _LOG.warning("the Gateway does not answer on port %d: %s", port, exc.strerror)
            return
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the socket."""
        if self._server is not None:
            self._server.close()

    def answer(self, hostname: str) -> tuple[str, str]:
        """The status line and the page for a request to this name."""
        for route in self._store.of(HTTP_ROUTES).in_namespace(""):
            if hostname in _spec(route).get("hostnames", ()):
                pod = self._pod_behind(route)
                if pod is None:
                    return "503 Service Unavailable", "no pod is ready\n"
                return "200 OK", f"This is {pod.key[1]}, answering as {hostname}.\n"
        return "404 Not Found", f"no stack has the name {hostname}\n"

    def _pod_behind(self, route: Record) -> Record | None:
        services = self._store.of(SERVICES).records
        behind = [service for backend in _backends(route) if (service := services.get((route.key[0], backend["name"])))]
        return next((pod for service in behind if (pod := ready_pod(self._store, service))), None)


def _spec(record: Record) -> Json:
    spec: Json = record.obj.get("spec") or {}
    return spec


def _backends(route: Record) -> Iterator[Json]:
    for rule in _spec(route).get("rules", ()):
        yield from rule.get("backendRefs", ())
