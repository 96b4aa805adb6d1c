"""Check what names for ports need: the Gateway API in the cluster, the Gateway, its listeners, DNS and the certificate."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

from stackd.clock import utc_minute
from stackd.config import Config
from stackd.doctor import Finding, fail, ok, warn
from stackd.errors import ObjectNotFound, StackdError
from stackd.kube.client import Cluster
from stackd.kube.routes import kinds_of
from stackd.model import Route
from stackd.validity import WARN_SECONDS

ABOUT = "routes"
GUIDE = "docs/hostnames.md"
CONNECT_SECONDS = 5.0
PROTOCOLS = {Route.HTTP: "HTTP", Route.HTTPS: "HTTPS", Route.TLS: "TLS"}


async def routes(cluster: Cluster, config: Config, size: object) -> list[Finding]:
    """What keeps ports from being reached at names; nothing unless ``routes.domain`` is set."""
    wanted = config.routes
    if not wanted.domain:
        return []
    offered = [route for route in Route if wanted.listener(route)]
    for kind in kinds_of(wanted):
        try:
            await cluster.list_raw(kind)
        except StackdError as error:
            return [fail(ABOUT, str(error), f"the Gateway API's CRDs are described in {GUIDE}")]
    namespace, _, name = wanted.gateway.partition("/")
    try:
        gateway = await cluster.gateway(namespace, name)
    except ObjectNotFound:
        return [fail(ABOUT, f"there is no Gateway {wanted.gateway}", "create it, or correct routes.gateway")]
    own = await cluster.namespace() or {}
    findings = []
    programmed = _conditions(gateway.get("status") or {}).get("Programmed", {})
    if programmed.get("status") != "True":
        why = programmed.get("message") or programmed.get("reason") or "no controller has answered for it"
        what = f"the Gateway {wanted.gateway} is not programmed: {why}"
        findings.append(fail(ABOUT, what, "see its controller's log"))
    for route in offered:
        findings += _listener(gateway, route, config, (own.get("metadata") or {}).get("labels") or {})
    addresses = [one["value"] for one in (gateway.get("status") or {}).get("addresses") or ()]
    probe = f"stackd-{secrets.token_hex(4)}.{wanted.domain}"
    findings.append(await _resolved(probe, addresses, wanted.domain))
    if Route.HTTPS in offered:
        findings.append(await _certified(probe, wanted.port, wanted.domain))
    return findings


def _listener(
    gateway: Mapping[str, Any], route: Route, config: Config, namespace_labels: Mapping[str, str]
) -> Iterator[Finding]:
    """Whether the listener for this route is there, and takes routes of the stacks' namespace and domain."""
    key, name, domain = f"routes.{route}_listener", config.routes.listener(route), config.routes.domain
    listener = next((one for one in gateway["spec"]["listeners"] if one["name"] == name), None)
    if listener is None:
        there = ", ".join(one["name"] for one in gateway["spec"]["listeners"])
        yield fail(ABOUT, f"the Gateway has no listener {name}; it has {there}", f"correct {key}")
        return
    problems = []
    if listener["protocol"] != PROTOCOLS[route]:
        problems.append(f"speaks {listener['protocol']}, not {PROTOCOLS[route]}")
    if not _covers(listener.get("hostname", ""), domain):
        problems.append(f"is for {listener['hostname']}, not for *.{domain}")
    if not _allows(listener, gateway["metadata"]["namespace"], config.stacks.namespace, namespace_labels):
        problems.append(f"lets in no routes of the namespace {config.stacks.namespace} (allowedRoutes)")
    statuses = (gateway.get("status") or {}).get("listeners") or ()
    conditions = next((_conditions(one) for one in statuses if one["name"] == name), {})
    problems += [
        f"is not {condition['type']}: {condition.get('message') or condition.get('reason')}"
        for condition in conditions.values()
        if condition["type"] in ("Accepted", "Programmed", "ResolvedRefs") and condition["status"] != "True"
    ]
    if problems:
        yield fail(ABOUT, f"listener {name} {'; '.join(problems)}", f"correct the Gateway, or {key} ({GUIDE})")
    else:
        yield ok(ABOUT, f"listener {name} serves {route} below {domain}")


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["type"]: one for one in status.get("conditions") or ()}


def _covers(hostname: str, domain: str) -> bool:
    """Whether a listener for ``hostname`` serves all names below the domain; an empty one serves all names."""
    if not hostname.startswith("*."):
        return not hostname
    return domain == hostname[2:] or domain.endswith(hostname[1:])


def _allows(listener: Mapping[str, Any], own: str, namespace: str, labels: Mapping[str, str]) -> bool:
    """Whether the listener takes routes of the namespace, by Kubernetes' defaults: only those of the Gateway's own."""
    allowed = (listener.get("allowedRoutes") or {}).get("namespaces") or {}
    which = allowed.get("from", "Same")
    if which != "Selector":
        return which == "All" or (which == "Same" and own == namespace)
    selector = allowed.get("selector") or {}
    has = {"kubernetes.io/metadata.name": namespace, **labels}
    named = all(has.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())
    return named and all(holds(one, has) for one in selector.get("matchExpressions") or ())


def holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether these labels fulfil one of the ``matchExpressions`` of a label selector."""
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or ()
    there = key in labels
    return {"Exists": there, "DoesNotExist": not there, "In": there and labels[key] in values}.get(
        operator, not there or labels[key] not in values
    )


async def _resolved(name: str, addresses: list[str], domain: str) -> Finding:
    record = f"*.{domain}"
    expected = {address for one in addresses for address in await _addresses(one)}
    resolved = set(await _addresses(name))
    if not resolved:
        return fail(ABOUT, f"{record} does not resolve", f"let it lead to {' or '.join(addresses) or 'the Gateway'}")
    if expected and not resolved & expected:
        text = f"{record} leads to {', '.join(sorted(resolved))}, and the Gateway is at {', '.join(addresses)}"
        return warn(ABOUT, text, "correct the DNS record, unless a load balancer is in between")
    return ok(ABOUT, f"{record} leads to {', '.join(sorted(resolved))}")


async def _addresses(name: str) -> list[str]:
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(one[4][0]) for one in entries]


async def _certified(name: str, port: int, domain: str) -> Finding:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(name, port, ssl=ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate at {domain}:{port} is not good for *.{domain}: {error.verify_message}"
        return fail(ABOUT, text, f"put one for *.{domain} into the Gateway's Secret ({GUIDE})")
    except (OSError, TimeoutError) as error:
        why = str(error) or "no answer in time"
        return fail(ABOUT, f"no TLS at {name}:{port}: {why}", "see the Gateway's address, routes.port and the firewall")
    certificate = writer.get_extra_info("peercert")
    writer.close()
    ends = ssl.cert_time_to_seconds(certificate["notAfter"])
    text = f"the certificate is good for *.{domain} until {utc_minute(ends)}"
    if ends - time.time() < WARN_SECONDS:
        return warn(ABOUT, text, "renew it now, or see why cert-manager does not")
    return ok(ABOUT, text)
