"""What a stack's pod says about the stack: the status that is written, if it differs, and what is remembered for it.

Owns: since when a pull has been failing, and what was last seen of a pod's containers.
``status.derive_status`` does the mapping.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stackd.clock import NANOSECONDS
from stackd.kube.objects import PodState
from stackd.kube.routes import OF_GATEWAYS, WantedRoute
from stackd.lifecycle.context import Context
from stackd.lifecycle.desired import first_route_difference, own_pod, service_error
from stackd.lifecycle.nodes import address
from stackd.lifecycle.status import (
    DerivedStatus,
    PodProgress,
    PodSnapshot,
    derive_status,
    observation,
    pod_progress,
    pull_has_failed,
    pull_is_failing,
    together,
)
from stackd.lifecycle.view import member_pods, names, objects_of, own_pods
from stackd.logs import stack_log
from stackd.model import SERVICE_PREFIX, Observation, Stack
from stackd.store import differs

log = logging.getLogger(__name__)


async def observe(context: Context, stack: Stack) -> Stack:
    """Write the status of an accepted stack if it differs from the row; returns the row. That a missing pod ends the
    stack is a step (``end``). Raises StoreUnavailable; then nothing seen is remembered."""
    stack_id, memory, mirror = stack.stack_id, context.memory, context.mirror
    if not stack.accepted or stack.deleting_since is not None:
        return stack
    pod = own_pod(mirror.pods.get(stack.pod_name), stack)
    if (stack.pod_uid is None or pod is None) and not stack.ended:
        return stack  # it is being stopped or started, or its end has to be proven: a step writes its status
    if context.gate.view_is_unverified:
        return stack
    node: object = mirror.nodes.get((pod.node_name if pod is not None else None) or stack.node_id or "")
    if stack.members and pod is not None and not stack.ended:
        others = own_pods(context, stack)[1:]
        if stack.lacks_a_pod or None in others:
            return stack
        node = node, [mirror.nodes.get(one.node_name or "") for one in others if one is not None]
        pod = together(pod, stack.members, others)
    seen = (pod, mirror.services.get(SERVICE_PREFIX + stack_id), node)
    if memory.seen.get(stack_id) == (stack, *seen):
        return stack
    context.gate.brake.forget([stack_id])
    snapshot, derived = derive(context, stack, pod)
    progress, events = pod_progress(memory.progress.get(stack_id), stack, snapshot)
    row = await write(context, stack, observation(stack, snapshot, derived, events))
    remember(context, stack_id, snapshot, derived, progress, seen)
    return row


def remember(
    context: Context,
    stack_id: str,
    snapshot: PodSnapshot,
    derived: DerivedStatus,
    progress: PodProgress | None,
    seen: tuple[object, ...],
) -> None:
    """What was written about the stack is not derived again from the same pod, Service and node (``seen``)."""
    row, memory = context.store.stacks.get(stack_id), context.memory
    if derived.recheck_at is not None:
        context.loop.wake([stack_id], delay=(derived.recheck_at - snapshot.now) / NANOSECONDS)
    if row is not None:
        if progress is not None:
            memory.progress[stack_id] = progress
        if derived.recheck_at is None and not row.routed:  # nothing else decides on the status
            memory.seen[stack_id] = (row, *seen)


def derive(context: Context, stack: Stack, pod: PodState | None) -> tuple[PodSnapshot, DerivedStatus]:
    """What is seen of the stack, and the status that it means."""
    memory, now = context.memory, context.clock.now()
    if (service := context.mirror.services.get(stack.service_name)) is not None and service.families:
        context.facts.families = service.families
    if pull_is_failing(stack, pod):
        since = min(now, stack.updated_at) if pull_has_failed(stack) else now
        memory.pull_failing.setdefault(stack.stack_id, since)
    else:
        memory.pull_failing.pop(stack.stack_id, None)
    node = pod.node_name if pod is not None and pod.node_name else stack.node_id
    lost_node = None
    if stack.members and pod is not None:
        others = [one.node_name for one in member_pods(context, stack) if one is not None and one.node_name]
        lost_node = next((name for name in others if name not in context.mirror.nodes), None)
    snapshot = PodSnapshot(
        pod=pod,
        node_exists=node in context.mirror.nodes and lost_node is None,
        lost_node=lost_node,
        node_public_ip=_public_address(context, node),
        disruption=memory.disruptions.get(stack.pod_uid, ""),
        pull_failing_since=memory.pull_failing.get(stack.stack_id),
        now=now,
        repaired=_repaired(context, stack, pod),
    )
    return snapshot, derive_status(stack, snapshot, context.config.stacks.image_pull_grace)


def _public_address(context: Context, node_name: str | None) -> str | None:
    """The address at which a node's ports are reached: ``stacks.public_ips`` first, then the node's own address in the
    families of the stack's Service; while that is not there, in those that stacks' Services had last."""
    if (node := context.mirror.nodes.get(node_name or "")) is None:
        return context.config.stacks.public_ips.get(node_name or "")
    return address(context.config, node, context.facts.families)


async def write(context: Context, stack: Stack, seen: Observation) -> Stack:
    """Write the observation if it is news; returns the row, or the stack as given if the row is gone."""
    stack_id = stack.stack_id
    changed = await context.store.stacks.observe([seen]) if differs(stack, seen) else []
    for row in changed:
        tell(context, row)
    return context.store.stacks.get(stack_id) or stack


def tell(context: Context, row: Stack) -> None:
    """Log the status that was written; of a stack that ended or has a reason, keep events and logs."""
    reason = f" ({row.status_reason})" if row.status_reason else ""
    message = f": {row.status_message}" if row.status_message else ""
    stack_log(log, row.stack_id).info("%s%s%s", row.status, reason, message)
    if row.ended or row.status_reason:
        context.diagnostics.queue.add(row.stack_id)


def _repaired(context: Context, stack: Stack, pod: PodState | None) -> tuple[str, str]:
    """What somebody else has changed and stackd repairs: a reason and a sentence, empty if nothing was."""
    if pod is None or stack.ended:
        return "", ""
    if pod.instance != context.cluster.instance:
        return "LabelsMissing", "stackd's labels were removed from the pod; stackd restores them"
    if pod.stack_id != stack.stack_id:
        return "LabelsChanged", "stackd's labels on the pod were changed; stackd restores them"
    objects = objects_of(context, stack)
    service = context.mirror.services.get(stack.service_name)
    switches = stack.shared and service is not None and service.serving not in (None, stack.serving)
    why = None
    if objects.service is not None and service is not None and not switches:
        why = service_error(objects.service, service)
    if why is not None:
        return "ServiceChanged", f"{why}; stackd repairs it"
    if (why := first_route_difference(objects.named, names(context, objects))) is not None:
        return "RouteChanged", f"{why}; stackd repairs it"
    if stack.routed and (wrong := _refused_by_gateway(context, stack, objects.named))[0]:
        return wrong
    return context.checks.complaint(stack)


def _refused_by_gateway(context: Context, stack: Stack, named: Sequence[WantedRoute]) -> tuple[str, str]:
    """What keeps the stack from being reached at its names: the Gateway's reason and message; empty if nothing does."""
    if stack.ports_held and len(stack.routed) > sum(route.resource in OF_GATEWAYS for route in named):
        return "RouteNotConfigured", "there is no listener for its name in the configuration any more ([routes])"
    for route in named:
        seen = context.mirror.routes[route.resource].get(route.name) if context.mirror.knows(route.resource) else None
        if seen is not None and not seen.ready:
            gateway = context.config.routes.gateway
            return seen.reason or "RoutePending", seen.message or f"the Gateway {gateway} has not accepted it yet"
    return "", ""
