"""A stack's objects in the cluster: its pod, and its Service at node ports that nobody else holds.

Owns: that a stack made from a template has the template's policy and its own generated values at every start; and what
happens when a node port is refused. A port that others hold is replaced. The cluster's port range is asked for once,
and learned from each refusal: the file's pool hands out ports in both the configured range and the cluster's. If there
are none, creates fail at once, and readiness says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from stackd.errors import ClusterRefused, NodePortOutOfRange, NodePortTaken, NoNodePort, StackdError
from stackd.kube.labels import object_labels
from stackd.kube.manifests import PodRequest, ServiceRequest, pod_manifest, service_manifest
from stackd.kube.objects import PodState, ServiceState
from stackd.lifecycle.context import Context
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.create_request import Abandon
from stackd.lifecycle.plan import service_trouble
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


async def put_labels_on(context: Context, stack: Stack, pod_uid: str) -> PodState:
    """Put stackd's labels on the stack's pod of that uid and return it; something may remove them at once.

    Raises ObjectNotFound, PreconditionFailed, ClusterUnavailable.
    """
    wanted = object_labels(context.config.cluster.instance, stack.stack_id)
    return await context.cluster.patch_pod(stack.pod_name, pod_uid, labels=wanted)


def _replaced() -> None:
    crash_point("create.port_replaced")


async def expose(
    context: Context,
    stack: Stack,
    pod: PodState,
    *,
    abandon: Abandon | None = None,
    replaced: Callable[[], None] = _replaced,
) -> tuple[Stack, ServiceState]:
    """Create the Service; a node port that others hold is replaced until a free one is found or none is left.

    An existing stack asks for its port for ``KEEP_PORT_SECONDS`` before it gets another.
    ``replaced`` is called after each replacement (the crash points of the caller). All tries together end by the
    deadline of one call. Raises NoNodePort, and what ``create_service`` raises.
    """
    await context.right_cluster()
    deadline, instance = context.cluster.deadline(), context.config.cluster.instance
    keep, backoff = context.cluster.deadline(KEEP_PORT_SECONDS if stack.accepted else 0.0), context.cluster.backoff()
    for _ in range(PORT_TRIES):
        try:
            # Owned by the pod, so that the cluster collects it with the pod.
            request = service_manifest(ServiceRequest(stack=stack, instance=instance, pod_uid=pod.uid))
            service = await context.cluster.create_service(request, timeout=deadline.left)
            await _require_as_asked(context, stack, service)
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
        stack = await context.store.ports.replace(stack.stack_id, taken.node_port)
        replaced()
        if abandon is not None:
            abandon.check()
        if not deadline.left:
            break
    raise NoNodePort("no free node port was found in time: other Services in the cluster hold those that were tried")


async def keep_right_service(context: Context, stack: Stack, pod: PodState) -> ServiceState | None:
    """Return the stack's Service as the cluster has it now, if it is as the row says; otherwise delete it.

    A Service without stackd's labels is deleted, too: no watch shows it, and it has the name that the next one needs.
    Raises ClusterUnavailable, ClusterError.
    """
    await context.right_cluster()
    found = await context.cluster.get_service(stack.service_name)
    if found is None:
        return None
    ours = found.instance == context.config.cluster.instance and found.stack_id == stack.stack_id
    if ours and not found.deleting and not service_trouble(stack, found):
        return found
    await context.cluster.delete_service(stack.service_name, known=(stack.service_uid, pod.uid))
    return None


async def _require_as_asked(context: Context, stack: Stack, service: ServiceState) -> None:
    """Delete the Service and raise ClusterRefused if the Service that was made is not the one that was requested."""
    if trouble := service_trouble(stack, service):
        await context.cluster.delete_service(stack.service_name, service.uid)
        raise ClusterRefused(f"an admission policy of the cluster changes the Services that stackd makes: {trouble}")


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
    context.ports_trouble = "" if usable else f"no stack can be created: {mismatch}; {NODE_PORTS_REMEDY}"
    if not usable:
        log.error("%s", context.ports_trouble)
    elif mismatch:
        log.warning("%s", mismatch)
