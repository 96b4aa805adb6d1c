"""What is known now of a stack's objects, from the mirror and from what is remembered of it; and the decision that follows.

Owns: ``see`` and ``look_at``. Sends nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from stackd.codes import ErrorCode
from stackd.errors import NotFound
from stackd.kube.labels import PUBLISHED
from stackd.kube.objects import PodState
from stackd.kube.routes import RouteState
from stackd.lifecycle.context import Context
from stackd.lifecycle.decide import Creating, Decision, Seen, decide
from stackd.lifecycle.desired import ObjectName, Objects, desired, own_pod
from stackd.model import SERVICE_PREFIX, Stack

NO_NAMES: Mapping[ObjectName, RouteState | None] = MappingProxyType({})


def look_at(context: Context, stack: Stack) -> Decision:
    objects = objects_of(context, stack)
    return decide(stack, objects, see(context, stack, objects), context.wall_clock.trusted_now())


def objects_of(context: Context, stack: Stack) -> Objects:
    """The objects that the stack should have, by the configuration in force. They are computed once for each version of the
    row."""
    known, routes = context.memory.objects.get(stack.stack_id), context.config.routes
    if known is not None and known[0] is stack and known[1] is routes:
        return known[2]
    objects = desired(stack, routes, context.cluster.instance)
    if context.store.stacks.get(stack.stack_id) is stack:
        context.memory.objects[stack.stack_id] = stack, routes, objects
    return objects


def see(context: Context, stack: Stack, objects: Objects) -> Seen:
    mirror, memory, stack_id = context.mirror, context.memory, stack.stack_id
    pod = mirror.pods.get(stack.pod_name)
    if pod is not None and pod.instance != context.cluster.instance:
        pod = replace(pod, stack_id="")  # somebody has changed or removed our labels
    earlier = earlier_pods(context, stack) if stack.shared else ()
    members = member_pods(context, stack) if stack.members else ()
    return Seen(
        service=mirror.services.get(SERVICE_PREFIX + stack_id),
        pod=pod,
        earlier=earlier,
        members=members,
        named=names(context, objects),
        nodes=mirror.nodes,
        gone=memory.gone.get(stack_id, ()),
        held=memory.held.get(stack_id, ()),
        creating=None if stack.accepted else _creating(context, stack, objects),
        explained=(pod is None and is_explained(context, stack))
        or (None in members and (lost := lost_member(context, stack)) is not None and is_explained(context, lost)),
        crowded=stack_id in memory.crowded,
    )


def names(context: Context, objects: Objects) -> Mapping[ObjectName, RouteState | None]:
    """What gives a stack with these objects its names, as far as it is watched."""
    if not objects.names:
        return NO_NAMES
    mirror = context.mirror
    return {(kind, name): mirror.routes[kind].get(name) for kind, name in objects.names if mirror.knows(kind)}


def current_pod(context: Context, stack: Stack) -> PodState | None:
    """The stack's pod as the mirror has it; a pod of an earlier generation, which is being deleted, does not count."""
    return own_pod(context.mirror.pods.get(stack.pod_name), stack)


def earlier_pods(context: Context, stack: Stack) -> tuple[PodState, ...]:
    """The other pods of a shared stack, the latest first."""
    pods = context.mirror.pods.values()
    others = [pod for pod in pods if pod.stack_id == stack.stack_id and pod.name != stack.pod_name]
    others = [pod for pod in others if pod.part in ("", PUBLISHED)]
    return tuple(sorted(others, key=lambda pod: -pod.generation))


def member_pods(context: Context, stack: Stack) -> tuple[PodState | None, ...]:
    """What has the names of the pods of the stack's members, in order."""
    pods = [context.mirror.pods.get(stack.member_name(member.name)) for member in stack.members]
    ours = context.cluster.instance
    return tuple(pod if pod is None or pod.instance == ours else replace(pod, stack_id="") for pod in pods)


def own_pods(context: Context, stack: Stack) -> tuple[PodState | None, ...]:
    """Its pods as the mirror has them: the first, then those of its members, in order."""
    return (current_pod(context, stack), *map(own_pod, member_pods(context, stack), stack.members))


def require_member(stack: Stack, name: str) -> None:
    if stack.member(name) is None:
        known = "it has " + (", ".join(one.name for one in stack.members) or "none")
        raise NotFound(f"{stack.stack_id} has no member {name[:64]!r}; {known}", code=ErrorCode.MEMBER_NOT_FOUND)


def lost_member(context: Context, stack: Stack) -> Stack | None:
    """The stack as if the pod of a member were its own: of the first whose pod is gone from the mirror, if the row names that."""
    for member, pod in zip(stack.members, member_pods(context, stack), strict=True):
        if member.pod_uid is not None and own_pod(pod, member) is None:
            return replace(stack, generation=member.generation, pod_uid=member.pod_uid, node_id=member.node_id)
    return None


def is_explained(context: Context, stack: Stack) -> bool:
    """Whether the cluster explains that the stack's pod is gone: its node is gone, or the cluster itself disrupted it."""
    return stack.node_id not in context.mirror.nodes or stack.pod_uid in context.memory.disruptions


def _creating(context: Context, stack: Stack, objects: Objects) -> Creating | None:
    creation = context.creates.get(stack.stack_id)
    if creation is None or creation.abandoned:
        return None
    if creation.made_at is None:
        return Creating(made=False)
    since = context.clock.monotonic() - creation.made_at
    return Creating(
        made=True,
        uids=creation.uids,
        placeable=context.config.stacks.unschedulable_grace - since,
        reachable=context.config.routes.accept_timeout - since if objects.named else 0.0,
    )
