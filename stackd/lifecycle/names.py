"""The names of a stack's routed ports: made once, and kept true by the objects in the cluster that lead to the stack.

Owns: what a stack's routes should be under the configuration in force, and what they are; the wait until the Gateway
has accepted them. A route that is not served keeps nothing else from working.
"""

from __future__ import annotations

import asyncio

from stackd.config import RoutesSection
from stackd.errors import ClusterUnavailable
from stackd.hostnames import DEFAULT_PREFIX, new_hostname
from stackd.kube.routes import BACKENDS, WantedRoute, names_of, resource_of, wanted_routes
from stackd.kube.wire import HTTP_ROUTES, TLS_ROUTES
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.create_request import CreateRequest
from stackd.model import PortMapping, Route, RoutedPort, RoutedTarget, Stack

LISTED_SECONDS = 2.0
"""How long a create waits for the first list of routes after a start."""


def kinds_of(config: RoutesSection) -> tuple[str, ...]:
    """The kinds of routes that this configuration uses."""
    if not config.domain:
        return ()
    http = (HTTP_ROUTES,) if config.http_listener or config.https_listener else ()
    return (*http, TLS_ROUTES) if config.tls_listener else http


def named(context: Context, request: CreateRequest) -> tuple[PortMapping, ...]:
    """The ports of a new stack; each routed one has its name, the others have no node port yet."""
    config = context.config.routes
    prefix = request.template.route_prefix if request.template is not None else DEFAULT_PREFIX
    return tuple(
        _named(port, config, prefix)
        if isinstance(port, RoutedTarget)
        else PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=0)
        for port in request.target_ports
    )


def _named(port: RoutedTarget, config: RoutesSection, prefix: str) -> RoutedPort:
    number = {Route.HTTP: config.http_port, Route.HTTPS: config.port, Route.TLS: config.tls_port}[port.route]
    default = {Route.HTTP: 80, Route.HTTPS: 443}.get(port.route)
    hostname = new_hostname(prefix, config.domain)
    host = hostname if number == default else f"{hostname}:{number}"
    return RoutedPort(container_port=port.container_port, protocol=port.protocol, route=port.route, host=host)


async def require_served(context: Context, request: CreateRequest) -> None:
    """Raise ClusterUnavailable if the cluster does not serve the kinds of routes that the create needs."""
    for kind in {resource_of(port.route) for port in request.target_ports if isinstance(port, RoutedTarget)}:
        health = context.mirror.route_health[kind]
        if not await context.mirror.until_known(kind, 0.0 if health.last_error else LISTED_SECONDS):
            why = health.last_error or f"the {kind} of the cluster were not listed yet"
            raise ClusterUnavailable("no port can get a name now", detail=why)


def wanted(context: Context, stack: Stack) -> tuple[WantedRoute, ...]:
    """What the stack's routes should be."""
    return wanted_routes(stack, context.config.routes, context.config.cluster.instance)


async def put_routes(context: Context, stack: Stack) -> None:
    """Make the routes that differ be as they should."""
    await context.gate.right_cluster()
    for one in wanted(context, stack):
        seen = context.mirror.routes[one.resource].get(one.name)
        if seen is None or seen.content != one.content:
            context.mirror.saw(await context.cluster.put_route(one))
            crash_point("route.put")


async def delete_routes(context: Context, stack: Stack) -> None:
    """Delete all that gives the stack names, and return when it is confirmed gone."""

    async def goes(resource: str, name: str) -> None:
        seen = context.mirror.routes[resource].get(name)
        await context.cluster.delete_route(resource, name, None if seen is None else seen.uid)
        crash_point("delete.route_deleted")
        if seen is not None:
            context.mirror.gone(seen)

    results = await asyncio.gather(*(goes(*one) for one in names_of(stack)), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def until_accepted(context: Context, stack: Stack) -> None:
    """Return once the Gateway has accepted the stack's routes, or ``routes.accept_timeout`` is over."""
    try:
        async with asyncio.timeout(context.config.routes.accept_timeout):
            for one in wanted(context, stack):
                await context.mirror.until_ready(one.resource, one.name, timeout=context.config.routes.accept_timeout)
    except TimeoutError:
        return


def what_is_wrong(context: Context, stack: Stack) -> tuple[str, str]:
    """What keeps the stack from being reached at its names: the Gateway's reason and message; empty if nothing does."""
    objects = wanted(context, stack)
    if stack.ports_held and len(stack.routed) > sum(one.resource != BACKENDS for one in objects):
        return "RouteNotConfigured", "there is no listener for its name in the configuration any more ([routes])"
    for one in objects:
        if context.mirror.knows(one.resource):
            seen = context.mirror.routes[one.resource].get(one.name)
            if seen is not None and not seen.ready:
                gateway = context.config.routes.gateway
                return seen.reason or "RoutePending", seen.message or f"the Gateway {gateway} has not accepted it yet"
    return "", ""
