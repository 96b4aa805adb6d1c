"""The objects that give a stack's ports their names: an HTTPRoute or TLSRoute for each routed port; and those by which its
pods reach each other: a Service for each member, and two NetworkPolicies. Pure.

One route object cannot serve two names with different ports behind them, because its rules do not match by name. A
NodePort Service gives each of its ports a node port; so the routed ports of a stack that has node ports, too, are behind
a Service of their own, without node ports. Manifests are complete, with the values that Kubernetes would fill in: what is
stored differs from them only if somebody has changed it.

NetworkPolicies add up: with those that `stackd manifests` prints, nothing but the pods of a stack reaches its members, and its
first pod reaches what it would without them, too. One has the ingress of the members, the other the egress of all pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from sys import intern
from typing import Any, Final

from msgspec import json

from stackd.clock import to_nanoseconds
from stackd.config import RoutesSection
from stackd.kube import labels
from stackd.kube.manifests import service_port, service_selector
from stackd.kube.objects import MESSAGE_LIMIT, ObjectKind
from stackd.kube.wire import GATEWAY_API, HTTP_ROUTES, KINDS, NETWORK_POLICIES, TLS_ROUTES
from stackd.model import Member, PortMapping, Route, RoutedPort, Stack, struct

BACKENDS: Final = "services"
OF_GATEWAYS: Final = (HTTP_ROUTES, TLS_ROUTES)
RESOURCES: Final = (BACKENDS, *OF_GATEWAYS, NETWORK_POLICIES)
BACKEND_PREFIX: Final = "rt-"
INNER_PREFIXES: Final = (BACKEND_PREFIX, "stack-")
"""How the names of Services begin that are not a stack's own: those behind routes, and those of members."""
OF_MEMBER: Final = "member"
INGRESS: Final = "ingress"  # the end of the name of a NetworkPolicy; no member has it
_CONDITIONS: Final = ("Accepted", "ResolvedRefs")
_NONE: Mapping[str, Any] = {}


@struct
class WantedRoute:
    """One object as it should be; ``content`` is what is compared of it."""

    resource: str
    name: str
    manifest: Mapping[str, Any]
    content: bytes


@struct
class RouteState:
    """One object as it is. ``ready``: the Gateway has accepted it as it is now, and resolved what it refers to.

    ``annotated``: it has stackd's annotation. ``address`` is a Service's. If the Gateway refuses it, ``reason`` and ``message``
    are the Gateway's.
    """

    resource: str
    name: str
    uid: str
    resource_version: str
    instance: str
    deleting: bool
    created_at: int
    content: bytes
    annotated: bool = True
    address: str = ""
    ready: bool = True
    reason: str = ""
    message: str = ""

    @property
    def stack_id(self) -> str:
        """The stack that it is for, by its name."""
        return stack_of(self.resource, self.name)


def stack_of(resource: str, name: str) -> str:
    if resource in OF_GATEWAYS:
        return name.rpartition("-")[0]
    return name.removeprefix(BACKEND_PREFIX) if name.startswith(BACKEND_PREFIX) else "-".join(name.split("-", 2)[:2])


def resource_of(route: Route) -> str:
    return TLS_ROUTES if route is Route.TLS else HTTP_ROUTES


def kinds_of(config: RoutesSection) -> tuple[str, ...]:
    http = (HTTP_ROUTES,) if config.http_listener or config.https_listener else ()
    kinds = (*http, TLS_ROUTES) if config.tls_listener else http
    return kinds if config.domain else ()


def names_of(stack: Stack) -> tuple[tuple[str, str], ...]:
    """Resource and name of all objects that this stack may have beside its pods and its Service."""
    inner = _names_of_members(stack) if stack.members else ()
    if not stack.routed:
        return inner
    routes = tuple((resource_of(port.route), _name(stack, port)) for port in stack.routed)
    return (*routes, (BACKENDS, BACKEND_PREFIX + stack.stack_id), *inner) if _is_mixed(stack) else (*routes, *inner)


def _names_of_members(stack: Stack) -> tuple[tuple[str, str], ...]:
    services = [(BACKENDS, stack.member_name(member.name)) for member in stack.members if member.ports]
    policies = [(NETWORK_POLICIES, name) for name in (stack.stack_id, f"{stack.stack_id}-{INGRESS}")]
    return (*services, *policies)


def _is_mixed(stack: Stack) -> bool:
    return bool(stack.routed and stack.node_ports)


def _name(stack: Stack, port: RoutedPort) -> str:
    return f"{stack.stack_id}-{port.container_port}"


def wanted_members(stack: Stack, instance: str) -> tuple[WantedRoute, ...]:
    """The objects by which the stack's pods reach each other. A Service that was deleted asks for its address again, because
    the pods that there are know that one."""
    ours = {labels.STACK: stack.stack_id}
    peers = [{"podSelector": {"matchLabels": ours}}]
    members = {"matchLabels": ours, "matchExpressions": [{"key": labels.MEMBER, "operator": "Exists"}]}
    policies: dict[str, dict[str, Any]] = {
        stack.stack_id: {"podSelector": {"matchLabels": ours}, "policyTypes": ["Egress"], "egress": [{"to": peers}]},
        f"{stack.stack_id}-{INGRESS}": {
            "podSelector": members,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers}],
        },
    }
    objects = [(BACKENDS, stack.member_name(one.name), _service_spec(stack, one)) for one in stack.members if one.ports]
    objects += [(NETWORK_POLICIES, name, spec) for name, spec in policies.items()]
    return tuple(_wanted(stack, instance, resource, name, OF_MEMBER, spec) for resource, name, spec in objects)


def _service_spec(stack: Stack, member: Member) -> dict[str, Any]:
    ports = [
        service_port(PortMapping(container_port=number, protocol=protocol, node_port=0))
        for number, protocol in member.ports
    ]
    spec = {
        "type": "ClusterIP",
        "selector": {labels.STACK: stack.stack_id, labels.MEMBER: member.name},
        "ports": ports,
    }
    return {**spec, "clusterIP": member.address} if member.address else spec


def wanted_routes(stack: Stack, config: RoutesSection, instance: str) -> tuple[WantedRoute, ...]:
    """The objects that give the stack names. None for ports whose listener is not configured (any more)."""
    if not (stack.routed and stack.ports_held and config.domain):
        return ()
    mixed = _is_mixed(stack)
    backend = BACKEND_PREFIX + stack.stack_id if mixed else stack.service_name
    objects: list[tuple[str, str, Route, dict[str, Any]]] = []
    for port in stack.routed:
        if listener := config.listener(port.route):
            spec = _route_spec(port, config.gateway, listener, backend)
            objects.append((resource_of(port.route), _name(stack, port), port.route, spec))
    if mixed:
        ports = [service_port(port) for port in stack.routed]
        spec = {"type": "ClusterIP", "selector": service_selector(stack), "ports": ports}
        objects.append((BACKENDS, backend, stack.routed[0].route, spec))
    return tuple(_wanted(stack, instance, resource, name, route.value, spec) for resource, name, route, spec in objects)


def _wanted(stack: Stack, instance: str, resource: str, name: str, what_for: str, spec: dict[str, Any]) -> WantedRoute:
    metadata = {
        "name": name,
        "namespace": stack.namespace,
        "labels": labels.object_labels(instance, stack.stack_id),
        "annotations": {labels.ROUTE: what_for},
    }
    manifest = {**KINDS[resource].type_meta, "metadata": metadata, "spec": spec}
    return WantedRoute(resource=resource, name=name, manifest=manifest, content=_content(resource, spec))


def _route_spec(port: RoutedPort, gateway: str, listener: str, service: str) -> dict[str, Any]:
    namespace, _, name = gateway.partition("/")
    parent = {"group": GATEWAY_API, "kind": "Gateway", "namespace": namespace, "name": name, "sectionName": listener}
    backend = {"group": "", "kind": "Service", "name": service, "port": port.container_port, "weight": 1}
    rule: dict[str, Any] = {"backendRefs": [backend]}
    if port.route is not Route.TLS:
        rule["matches"] = [{"path": {"type": "PathPrefix", "value": "/"}}]
    return {"parentRefs": [parent], "hostnames": [port.hostname], "rules": [rule]}


def _content(resource: str, spec: Mapping[str, Any]) -> bytes:
    if resource == BACKENDS:
        compared = ("name", "protocol", "port", "targetPort")
        ports = [{key: port.get(key) for key in compared} for port in spec.get("ports") or ()]
        spec = {"type": spec.get("type"), "selector": spec.get("selector"), "ports": ports}
    return json.encode(spec, order="sorted")


def route_state(resource: str, raw: Mapping[str, Any]) -> RouteState:
    metadata, spec = raw["metadata"], raw.get("spec") or _NONE
    ours = labels.marks_of(metadata)
    return RouteState(
        resource=resource,
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        instance=ours.instance,
        deleting="deletionTimestamp" in metadata,
        created_at=to_nanoseconds(metadata["creationTimestamp"]),
        content=_content(resource, spec),
        annotated=labels.ROUTE in ours.annotations,
        **(_outcome(raw, spec) if resource in OF_GATEWAYS else {"address": spec.get("clusterIP") or ""}),
    )


ROUTES: Mapping[str, ObjectKind[RouteState]] = {
    resource: ObjectKind(resource=resource, read=partial(route_state, resource)) for resource in RESOURCES
}


def _outcome(raw: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """What the Gateway says of the route as it is now; it may be served by several controllers, which all have a say."""
    (parent, *_), generation = spec.get("parentRefs") or (_NONE,), raw["metadata"].get("generation", 0)
    named = [
        {
            condition["type"]: condition
            for condition in entry.get("conditions") or ()
            if condition.get("observedGeneration", 0) >= generation
        }
        for entry in (raw.get("status") or _NONE).get("parents") or ()
        if all(entry["parentRef"].get(key) == parent.get(key) for key in ("namespace", "name", "sectionName"))
    ]
    outcomes = [(kind, conditions.get(kind, _NONE)) for conditions in named for kind in _CONDITIONS]
    for kind, outcome in outcomes:
        if outcome.get("status") == "False":
            message = (outcome.get("message") or "")[:MESSAGE_LIMIT]
            return {"ready": False, "reason": intern(outcome.get("reason") or kind), "message": message}
    return {"ready": bool(outcomes) and all(outcome.get("status") == "True" for _, outcome in outcomes)}
