"""What a stack's objects should be: its Service with the record, its pods, and what gives its ports their names. Pure.

Owns: ``desired``, and the first difference between an object as it should be and as it is. Only fields that stackd sets are
compared: Kubernetes adds defaults, and others may add labels of their own. The objects are compared without their manifests,
which ``apply`` builds only for those that it writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from stackd.config import RoutesSection
from stackd.kube import labels
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import wanted_members as which_members
from stackd.kube.records import wanted_pod
from stackd.kube.routes import INNER_PREFIXES, RouteState, WantedRoute, names_of, wanted_members, wanted_routes
from stackd.kube.routes import stack_of as stack_of_route
from stackd.kube.wire import KINDS
from stackd.model import SERVICE_PREFIX, Desired, Member, Stack, struct

PODS, SERVICES = "pods", "services"
ObjectName = tuple[str, str]
"""The resource and the name of an object in the stacks' namespace."""


@struct
class WantedService:
    """The Service of a stack as it should be; ``node_ports`` in order. Without ``expires_at``, the expiry in its record does
    not matter: the stack waits in a pool. A ``spare`` one has no record. ``members``: which pods of its members are meant."""

    name: str
    stack_id: str
    node_ports: tuple[int, ...]
    serving: int | None
    unassigned: bool
    generation: int
    pod: str
    expires_at: int | None
    labels: Mapping[str, str]
    relabelled: int = 0
    spare: bool = False
    members: str = ""


@struct
class WantedPod:
    """A pod of a stack as it should be; ``uid`` is the one that the row names, ``part`` as of ``PodState``."""

    name: str
    stack_id: str
    generation: int
    unassigned: bool
    labels: Mapping[str, str]
    uid: str | None = None
    part: str = ""


@struct
class Objects:
    """All objects that a stack should have. ``pods``: the first, then those of its members, in order. ``named`` are its routes
    and the Service behind them, and what connects its pods; ``names``: of all such objects that it may have."""

    service: WantedService | None = None
    pods: tuple[WantedPod, ...] = ()
    named: tuple[WantedRoute, ...] = ()
    names: tuple[ObjectName, ...] = ()


def desired(stack: Stack, routes: RoutesSection, instance: str) -> Objects:
    """The objects that the stack should have: none once it is to be deleted, no pod while it is to be stopped, and neither
    pod nor node ports nor names once it has ended; a shared one keeps its ports, because it is started again."""
    names = names_of(stack)
    if stack.deleting_since is not None:
        return Objects(names=names)
    over = stack.ended and not stack.shared
    service = WantedService(
        name=stack.service_name,
        stack_id=stack.stack_id,
        node_ports=() if over else held_ports(stack),
        serving=stack.serving,
        unassigned=stack.unassigned,
        generation=stack.generation,
        pod=wanted_pod(stack),
        expires_at=None if stack.unassigned else stack.ttl_expires_at,
        labels=stack.labels,
        relabelled=stack.relabelled,
        spare=stack.spare,
        members=which_members(stack) if stack.members else "",
    )
    pods: tuple[WantedPod, ...] = ()
    if not stack.ended and stack.desired is Desired.RUNNING:
        pods = (
            WantedPod(
                name=stack.pod_name,
                stack_id=stack.stack_id,
                generation=stack.generation,
                unassigned=stack.unassigned,
                labels=stack.labels,
                uid=stack.pod_uid,
                part=labels.PUBLISHED if stack.members else "",
            ),
        )
        if stack.members:
            pods += _of_members(stack, pods[0])
    named = () if over else wanted_routes(stack, routes, instance)
    if stack.members and not over:
        named += wanted_members(stack, instance)
    return Objects(service=service, pods=pods, named=named, names=names)


def _of_members(stack: Stack, first: WantedPod) -> tuple[WantedPod, ...]:
    return tuple(
        replace(
            first,
            name=stack.member_name(member.name),
            generation=member.generation,
            uid=member.pod_uid,
            part=member.name,
        )
        for member in stack.members
    )


def held_ports(stack: Stack) -> tuple[int, ...]:
    """The node ports that the stack holds, in order."""
    return tuple(sorted(stack.node_ports)) if stack.ports_held else ()


# ---- what differs


def service_error(wanted: WantedService, seen: ServiceState | None) -> str | None:
    """Why the stack cannot be reached through this Service as it should be; None if it can."""
    if seen is None:
        return "its Service is gone from the cluster"
    if seen.type != ("NodePort" if wanted.node_ports else "ClusterIP"):
        return f"its Service was changed to type {seen.type}"
    theirs = tuple(sorted(seen.node_ports))
    if wanted.node_ports != theirs:
        was, now = (", ".join(map(str, ports)) or "none" for ports in (wanted.node_ports, theirs))
        return f"the node ports of its Service were changed from {was} to {now}"
    serves = seen.selects == wanted.stack_id and seen.serving == wanted.serving
    serves = serves and seen.published == bool(wanted.members)
    return None if serves else "the selector of its Service was changed"


def record_error(wanted: WantedService, seen: ServiceState) -> str | None:
    """How the record on the Service differs from what it should say, apart from the expiry; None if it does not."""
    if wanted.spare != seen.spare:
        return "its Service does not say yet whether it is a spare one"
    if wanted.spare:
        return None
    if not seen.recorded:
        return "its Service lacks the record from which a lost file is rebuilt"
    if bool(seen.pool) != wanted.unassigned or seen.once_assigned != wanted.unassigned:
        return "its Service does not say yet whether it was assigned"
    if (seen.generation, seen.desired, seen.members) != (wanted.generation, wanted.pod, wanted.members):
        return "the record does not say yet that it was stopped or started"
    if (wanted.labels, wanted.relabelled) != (seen.labels, seen.relabelled):
        return "the labels in its record are outdated"
    return None


def expiry_error(wanted: WantedService, seen: ServiceState) -> str | None:
    return None if wanted.expires_at in (None, seen.expires_at) else "the expiry in its record is outdated"


def service_difference(wanted: WantedService, seen: ServiceState | None) -> str | None:
    """The first difference between the Service with its record and what it should be; None if there is none."""
    if (why := service_error(wanted, seen)) is not None or seen is None:
        return why
    return record_error(wanted, seen) or expiry_error(wanted, seen)


def pod_difference(wanted: WantedPod, seen: PodState) -> str | None:
    """How stackd's labels on the stack's own pod differ from what they should be; None if they do not. A pod that is being
    deleted gets only those without which the watch would not report its end."""
    if seen.stack_id != wanted.stack_id or seen.part != wanted.part:
        return "stackd's labels on its pod were changed"
    if seen.deleting:
        return None
    if bool(seen.pool) != wanted.unassigned or seen.assigned:
        return "the labels of its pod do not say yet whether it was assigned"
    if wanted.labels != seen.labels:
        return "its pod has other labels"
    return None if seen.generation == wanted.generation else "its pod does not say which one of the stack's it is"


def route_difference(wanted: WantedRoute, seen: RouteState | None) -> str | None:
    """How what gives the stack a name differs from what it should be; None if it does not."""
    kind = KINDS[wanted.resource].name + (" for its names" if wanted.resource == SERVICES else "")
    if seen is None:
        return f"its {kind} is gone from the cluster"
    return None if seen.content == wanted.content else f"its {kind} was changed"


def first_route_difference(named: Collection[WantedRoute], seen: Mapping[ObjectName, RouteState | None]) -> str | None:
    """The first difference of those that are watched; None if there is none."""
    for wanted in named:
        name = wanted.resource, wanted.name
        if name in seen and (why := route_difference(wanted, seen[name])) is not None:
            return why
    return None


# ---- whose object it is


def stack_of(resource: str, name: str) -> str:
    """The id of the stack whose pod, Service or route has this name. What follows it is a member, or the number of a later pod
    of a shared stack."""
    if resource == PODS:
        return name if name.count("-") < 2 else "-".join(name.split("-", 2)[:2])
    if resource == SERVICES and not name.startswith(INNER_PREFIXES):
        return name.removeprefix(SERVICE_PREFIX)
    return stack_of_route(resource, name)


def own_pod(pod: PodState | None, row: Stack | Member) -> PodState | None:
    """The pod of its name, if it is the stack's or member's own; one of an earlier generation, which is being deleted, is not.

    The generation is an annotation, which anybody may remove: a pod with the row's uid is the stack's whatever it says.
    """
    return None if pod is None or (pod.uid != row.pod_uid and pod.generation < row.generation) else pod


def has_pod(stack: Stack) -> bool:
    """Whether the row says that the stack has a pod that should run."""
    running = stack.desired is Desired.RUNNING and stack.pod_uid is not None
    return running and stack.accepted and not stack.ended and stack.deleting_since is None
