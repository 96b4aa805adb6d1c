"""A stack's objects in the cluster: its pod, and its Service at node ports that nobody else holds.

Owns: that a stack made from a template has the template's policy and its own generated values at every start; and what
happens when a node port is refused. A port that others hold is replaced. The cluster's port range is asked for once,
and learned from each refusal: the file's pool hands out ports in both the configured range and the cluster's. If there
are none, creates fail at once, and readiness says why.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import (
    ClusterRefused,
    NodePortOutOfRange,
    NodePortTaken,
    NoNodePort,
    ObjectNotFound,
    PreconditionFailed,
    StackdError,
)
from stackd.kube.connection import Backoff, Deadline
from stackd.kube.manifests import PodRequest, pod_manifest, service_manifest
from stackd.kube.objects import ServiceState
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.create_request import Abandon
from stackd.lifecycle.next_step import service_error
from stackd.logs import stack_log
from stackd.model import NODE_PORTS_REMEDY, PortRange, SanitizedSpec, Stack, TargetPort
from stackd.podspec import harden, sanitize
from stackd.podspec.additions import with_readiness, with_values

log = logging.getLogger(__name__)

TCP = "tcp"

PORT_TRIES = 50
"""After this many node ports that others hold, a create stops trying."""

KEEP_PORT_SECONDS = 2.0
"""How long an existing stack asks for its old node port: the API server frees a port a little after it has reported
that the port's Service is gone."""


def pod_request(context: Context, stack: Stack, spec: SanitizedSpec) -> dict[str, object]:
    """The manifest of a stack's pod, with the operator's additions and the stack's generated values."""
    manifest = harden(spec.manifest, context.policy_for(stack.template))
    if context.config.stacks.readiness == TCP:
        manifest = with_readiness(manifest, stack.ports)
    if stack.values:
        manifest = with_values(manifest, stack.values)
    return pod_manifest(
        PodRequest(
            stack=stack,
            manifest=manifest,
            instance=context.config.cluster.instance,
            node_selector=context.config.stacks.node_selector,
        )
    )


def spec_of(context: Context, stack: Stack) -> SanitizedSpec:
    """The spec of an existing stack whose spec text was read, under the policy in force. Raises InvalidPodSpec."""
    assert stack.pod_spec is not None, "it was read"
    ports = tuple(TargetPort(container_port=p.container_port, protocol=p.protocol) for p in stack.ports)
    policy = context.policy_for(stack.template)
    if policy is context.policy:
        return context.sanitizer.sanitize(stack.pod_spec, ports)
    return sanitize(stack.pod_spec, ports, policy)


async def expose(
    context: Context, stack: Stack, *, fresh: bool = False, abandon: Abandon | None = None, timeout: float | None = None
) -> tuple[Stack, ServiceState]:
    """Make the Service be as the row says; a node port that others hold is replaced until a free one is found.

    An existing stack asks for its port for ``KEEP_PORT_SECONDS`` before it gets another. ``fresh``: a create, so there
    is no Service of this name yet. All tries together end by the deadline of one call. Raises NoNodePort, ClusterRefused
    if a policy changes the Service, and what ``put_service`` raises.
    """
    await context.gate.right_cluster()
    deadline = context.cluster.deadline(timeout)
    keep, backoff = context.cluster.deadline(KEEP_PORT_SECONDS if stack.accepted else 0.0), Backoff()
    stack = await context.store.stacks.whole(stack)
    for _ in range(PORT_TRIES):
        try:
            service = await _put(context, stack, deadline, fresh=fresh)
            await _require_as_asked(context, stack, service, fresh=fresh)
            context.mirror.saw(service)
            return stack, service
        except NodePortOutOfRange as refused:
            await learn_node_ports(context, PortRange(*refused.cluster))
            taken: NodePortOutOfRange | NodePortTaken = refused
        except NodePortTaken as refused:
            if (pause := backoff.pause()) < keep.left:
                await asyncio.sleep(pause)
                continue
            taken = refused
        stack_log(log, stack.stack_id).info("%s; trying another node port", taken)
        replaced = await context.store.ports.replace(stack.stack_id, taken.node_port)
        stack = await context.store.stacks.whole(replaced)
        crash_point("service.port_replaced")
        if abandon is not None:
            abandon.check()
        if not deadline.left:
            break
    raise NoNodePort("no free node port was found in time: other Services in the cluster hold those that were tried")


async def _put(context: Context, stack: Stack, deadline: Deadline, *, fresh: bool) -> ServiceState:
    manifest = service_manifest(stack, context.config.cluster.instance)
    if fresh:
        return await context.cluster.create_service(manifest, timeout=deadline.left)
    seen = context.mirror.services.get(stack.service_name)
    if seen is not None and not seen.deleting:
        try:
            service = await context.cluster.patch_service(manifest, seen.uid, timeout=deadline.left)
        except (ObjectNotFound, PreconditionFailed):
            context.mirror.gone(seen)
        else:
            if not service_error(stack, service):
                return service
    return await context.cluster.put_service(manifest, known=(stack.service_uid,), timeout=deadline.left)


async def _require_as_asked(context: Context, stack: Stack, service: ServiceState, *, fresh: bool) -> None:
    """Raise ClusterRefused if the Service that was made is not the one that was requested; a new one is deleted."""
    if error := service_error(stack, service):
        if fresh:
            await context.cluster.delete_service(stack.service_name, service.uid)
        raise ClusterRefused(f"an admission policy of the cluster changes the Services that stackd makes: {error}")


async def ask_node_ports(context: Context) -> None:
    """Ask the cluster for its port range, unless it is known and contains all that is configured.

    If the cluster does not tell its range, its first refusal of a port does.
    """
    wanted = context.config.stacks.node_ports
    if context.node_ports is not None and wanted.common(context.node_ports) == wanted:
        return
    try:
        told = await context.cluster.node_port_range()
        if told is not None:
            await learn_node_ports(context, told)
    except StackdError as error:
        log.info("the cluster's node port range cannot be learned now: %s", error)


async def learn_node_ports(context: Context, cluster: PortRange) -> None:
    """Read the cluster's node port range and use it. Raises StoreUnavailable."""
    if context.node_ports == cluster:
        return
    wanted = context.config.stacks.node_ports
    usable = wanted.common(cluster)
    if context.node_ports is not None or usable != wanted:
        await context.store.ports.limit(cluster)
    context.node_ports = cluster
    mismatch = wanted.mismatch(cluster)
    context.gate.ports_trouble = "" if usable else f"no stack can be created: {mismatch}; {NODE_PORTS_REMEDY}"
    if not usable:
        log.error("%s", context.gate.ports_trouble)
    elif mismatch:
        log.warning("%s", mismatch)
