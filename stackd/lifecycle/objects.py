"""A stack's objects in the cluster: its pod, its Service at node ports that nobody else holds, and the routes to its names.

Owns: that a stack made from a template has the template's policy and its own generated values at every start; what
happens when a node port is refused (one that others hold is replaced); the names of routed ports, what its routes should
be, and the wait until the Gateway has accepted them. A route that is not served keeps nothing else from working.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

from stackd.codes import ErrorCode
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterRefused,
    ClusterUnavailable,
    Conflict,
    InvalidPodSpec,
    NodePortOutOfRange,
    NodePortTaken,
    NoNodePort,
    ObjectNotFound,
    PreconditionFailed,
)
from stackd.kube.connection import RETRIES, Deadline
from stackd.kube.manifests import pod_manifest, service_manifest
from stackd.kube.objects import SERVICES, ServiceState
from stackd.kube.routes import BACKENDS, ROUTES, WantedRoute, names_of, resource_of, wanted_routes
from stackd.lifecycle.bring_up import learn_node_ports
from stackd.lifecycle.context import Context, CreateRequest, Creation
from stackd.lifecycle.next_step import service_error, service_step
from stackd.logs import stack_log
from stackd.model import PortMapping, PortRange, Route, RoutedPort, RoutedTarget, SanitizedSpec, Stack, TargetPort
from stackd.names import DEFAULT_PREFIX, new_hostname
from stackd.podspec import harden, sanitize
from stackd.podspec.additions import with_readiness, with_values

log = logging.getLogger(__name__)

TCP = "tcp"

PORT_TRIES = 50  # after this many node ports that others hold, a create stops trying
KEEP_PORT_SECONDS = 2.0
"""How long an existing stack asks for its old node port: the API server frees a port a little after it has reported
that the port's Service is gone."""

LISTED_SECONDS = 2.0  # how long a create waits for the first list of routes after a start


async def gather_all(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Make the calls at the same time. All outcomes are known when this returns, or raises the first error."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def pod_request(context: Context, stack: Stack, spec: SanitizedSpec) -> dict[str, object]:
    """The manifest of a stack's pod, with the operator's additions and the stack's generated values."""
    manifest = harden(spec.manifest, context.policy_for(stack.template))
    if context.config.stacks.readiness == TCP:
        manifest = with_readiness(manifest, stack.ports)
    if stack.values or stack.env:
        manifest = with_values(manifest, {**stack.values, **stack.env})
    selector = context.config.stacks.node_selector
    return pod_manifest(stack, manifest, instance=context.cluster.instance, node_selector=selector)


def spec_of(context: Context, stack: Stack) -> SanitizedSpec:
    """The spec of a stack that is to start, whose spec text was read. Raises Conflict if the policy in force does not
    allow it any more."""
    assert stack.pod_spec is not None, "it was read"
    template = context.settings.templates.get(stack.template) if stack.template is not None else None
    if template is not None and template.spec.text == stack.pod_spec:
        return template.spec
    ports = tuple(TargetPort(container_port=p.container_port, protocol=p.protocol) for p in stack.ports)
    try:
        if template is None:
            return context.settings.sanitizer.sanitize(stack.pod_spec, ports)
        return sanitize(stack.pod_spec, ports, template.policy)
    except InvalidPodSpec as exc:
        sentence = f"{stack.stack_id} cannot be started: its pod spec is not allowed any more: {exc}"
        raise Conflict(sentence, code=ErrorCode.POD_SPEC_NOT_ALLOWED) from exc


# ---- the Service


async def expose(context: Context, stack: Stack, *, creation: Creation | None = None) -> tuple[Stack, ServiceState]:
    """Make the Service be as the row says; a node port that others hold is replaced until a free one is found.

    An existing stack asks for its port for ``KEEP_PORT_SECONDS`` before it gets another. ``creation``: it is new, so there
    is no Service of this name yet. All tries together end by the deadline of one call: then ClusterUnavailable is raised,
    since other ports may be free. Raises NoNodePort, ClusterRefused if a policy changes the Service, and what
    ``Cluster.put`` raises.
    """
    deadline = context.cluster.deadline()
    keep = context.cluster.deadline(KEEP_PORT_SECONDS if stack.accepted else 0.0)
    stack = await context.store.stacks.with_pod_spec(stack)
    for tries in range(1, PORT_TRIES + 1):
        try:
            service = await _put(context, stack, deadline, fresh=creation is not None)
        except NodePortOutOfRange as refused:
            await learn_node_ports(context, PortRange(*refused.cluster))
            taken: NodePortOutOfRange | NodePortTaken = refused
        except NodePortTaken as refused:
            if (pause := RETRIES.delay(tries)) < keep.left:
                await asyncio.sleep(pause)
                continue
            taken = refused
        else:
            try:
                require_as_made(stack, service)
            except ClusterRefused:
                if creation is not None:
                    await context.cluster.remove("services", stack.service_name, service.uid)
                raise
            context.mirror.saw(service)
            return stack, service
        if taken.node_port in context.store.ports.fixed and stack.shared:
            raise ClusterUnavailable(f"node port {taken.node_port} is fixed in the template {stack.template}: {taken}")
        stack_log(log, stack.stack_id).info("%s; trying another node port", taken)
        replaced = await context.store.ports.replace(stack.stack_id, taken.node_port)
        stack = await context.store.stacks.with_pod_spec(replaced)
        crash_point("service.port_replaced")
        if creation is not None:
            creation.check()
        if not deadline.left:
            raise ClusterUnavailable("no free node port was found in time: other Services hold those that were tried")
    raise NoNodePort(f"no free node port was found: other Services in the cluster hold {PORT_TRIES} that were tried")


def require_as_made(stack: Stack, service: ServiceState) -> None:
    """Raise ClusterRefused if the Service or its record, just written, is not as the row says."""
    if step := service_step(stack, service):
        why = f"an admission policy of the cluster changes the Services that stackd makes: {step.why}"
        raise ClusterRefused(why)


async def _put(context: Context, stack: Stack, deadline: Deadline, *, fresh: bool) -> ServiceState:
    manifest = service_manifest(stack, context.cluster.instance)
    if fresh:
        return await context.cluster.create(SERVICES, manifest, timeout=deadline.left)
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None and not seen.deleting:
        try:
            service = await context.cluster.update(SERVICES, manifest, seen.uid, timeout=deadline.left)
        except (ObjectNotFound, PreconditionFailed):
            context.mirror.gone(seen)
        else:
            if not service_error(stack, service):
                return service
    return await context.cluster.put(SERVICES, manifest, known=(stack.service_uid,), timeout=deadline.left)


# ---- the names


def named(context: Context, request: CreateRequest) -> tuple[PortMapping, ...]:
    """The ports of a new stack; each routed one has its name, the others have no node port yet."""
    config = context.config.routes
    template = request.template
    prefix = template.route_prefix if template is not None else DEFAULT_PREFIX
    node_ports, names = (template.node_ports, template.hostnames) if template and request.shared else ({}, {})

    def with_name(port: TargetPort) -> PortMapping:
        if not isinstance(port, RoutedTarget):
            fixed = node_ports.get(port.container_port, 0)
            return PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=fixed)
        number = {Route.HTTP: config.http_port, Route.HTTPS: config.port, Route.TLS: config.tls_port}[port.route]
        default = {Route.HTTP: 80, Route.HTTPS: 443}.get(port.route)
        fixed_name = names.get(port.container_port)
        hostname = f"{fixed_name}.{config.domain}" if fixed_name else new_hostname(prefix, config.domain)
        host = hostname if number == default else f"{hostname}:{number}"
        return RoutedPort(container_port=port.container_port, protocol=port.protocol, route=port.route, host=host)

    return tuple(map(with_name, request.target_ports))


async def require_served(context: Context, request: CreateRequest) -> None:
    """Raise ClusterUnavailable if the cluster does not serve the kinds of routes that the create needs."""
    for kind in {resource_of(port.route) for port in request.target_ports if isinstance(port, RoutedTarget)}:
        health = context.mirror.route_health[kind]
        if not await context.mirror.until_known(kind, 0.0 if health.last_error else LISTED_SECONDS):
            why = health.last_error or f"the {kind} of the cluster were not listed yet"
            raise ClusterUnavailable("no port can get a name now", detail=why)


def wanted(context: Context, stack: Stack) -> tuple[WantedRoute, ...]:
    """What the stack's routes should be."""
    return wanted_routes(stack, context.config.routes, context.cluster.instance)


async def put_routes(context: Context, stack: Stack) -> None:
    """Make the routes that differ be as they should."""
    for one in wanted(context, stack):
        seen = context.mirror.routes[one.resource].get(one.name)
        if seen is None or seen.content != one.content:
            context.mirror.saw(await context.cluster.put(ROUTES[one.resource], one.manifest))
            crash_point("route.put")


async def delete_routes(context: Context, stack: Stack) -> None:
    """Delete all that gives the stack names, and return when it is confirmed gone."""

    async def delete(resource: str, name: str) -> None:
        seen = context.mirror.routes[resource].get(name)
        uid = None if seen is None else seen.uid  # saves a request
        await context.cluster.delete(resource, name, uid) or await context.cluster.delete(resource, name)
        crash_point("delete.route_deleted")
        if seen is not None:
            context.mirror.gone(seen)

    await gather_all(delete(*one) for one in names_of(stack))


def what_is_wrong(context: Context, stack: Stack) -> tuple[str, str]:
    """What keeps the stack from being reached at its names: the Gateway's reason and message; empty if nothing does."""
    objects = wanted(context, stack)
    if stack.ports_held and len(stack.routed) > sum(one.resource != BACKENDS for one in objects):
        return "RouteNotConfigured", "there is no listener for its name in the configuration any more ([routes])"
    for one in objects:
        seen = context.mirror.routes[one.resource].get(one.name) if context.mirror.knows(one.resource) else None
        if seen is not None and not seen.ready:
            gateway = context.config.routes.gateway
            return seen.reason or "RoutePending", seen.message or f"the Gateway {gateway} has not accepted it yet"
    return "", ""
