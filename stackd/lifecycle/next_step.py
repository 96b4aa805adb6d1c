"""What is to be done next about a stack, and why: the one place that decides. Pure.

Owns: ``next_step`` for a stack with a row, and ``plan``, which applies it to all rows and adds what becomes of objects
without a row. ``steps`` has one executor for each kind of step.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from stackd.clock import NANOSECONDS
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import wanted_pod
from stackd.kube.routes import BACKEND_PREFIX, RouteState, WantedRoute
from stackd.kube.routes import stack_of as stack_of_route
from stackd.kube.wire import KINDS
from stackd.model import RANGE_PREFIX, SERVICE_PREFIX, Desired, Stack
from stackd.structs import struct

PODS, SERVICES = "pods", "services"

UNFINISHED_NANOSECONDS = 60 * NANOSECONDS
"""How long before and after its last renewal an owner may have created a pod and not its Service."""


class StepKind(enum.StrEnum):
    """What can be done about a stack."""

    UNDO = "undo"
    """Its create was never completed: intend to delete it."""
    DELETE = "delete"
    """Delete Service and pod, then the row."""
    EXPIRE = "expire"
    """Its time is up: intend to delete it. A brake may hold that."""
    RELEASE = "release"
    """Give back the node ports of a stack that has ended. The Service stays, because it carries the record."""
    END = "end"
    """Its pod is missing: it ends once that is proven. A brake may hold that."""
    STOP = "stop"
    """Delete the pod; the Service keeps the ports."""
    START = "start"
    """Create a new pod."""
    REPAIR = "repair"
    """Make the Service be as the row says."""
    ANNOTATE = "annotate"
    """Bring the record up to date."""
    ROUTE = "route"
    """Make the routes be as the row says."""
    LABEL = "label"
    """Put our labels on the pod."""
    ADOPT = "adopt"
    """Make a row for the objects of a stack that the file lacks."""
    REMOVE_POD = "remove-pod"
    """Delete a pod that belongs to no stack."""
    REMOVE_SERVICE = "remove-service"
    """Delete a Service that belongs to no stack."""
    REMOVE_ROUTE = "remove-route"
    """Delete a route that belongs to no stack."""


UNASKED = frozenset({StepKind.END, StepKind.REMOVE_POD, StepKind.REMOVE_SERVICE, StepKind.REMOVE_ROUTE})
"""What nobody asked for; only these, and steps that are ``sudden``, are subject to the brake."""

OF_THE_PASS = frozenset({StepKind.END, StepKind.EXPIRE})
"""What a brake may hold back; so a pass does it, for all stacks together, and no single stack's worker."""


@struct
class SeenRoute:
    """An object that gives a stack a name: as it should be (None: it should not be there), and as it is, if it is there."""

    resource: str
    wanted: WantedRoute | None
    seen: RouteState | None

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return f"{KINDS[self.resource].name} for its names" if self.resource == SERVICES else KINDS[self.resource].name


@struct
class Step:
    """One thing to do, and why."""

    kind: StepKind
    why: str


def next_step(
    stack: Stack,
    pod: PodState | None,
    service: ServiceState | None,
    now: int | None,
    routes: Collection[SeenRoute] = (),
) -> Step | None:
    """What is to be done next about this stack; None if nothing is.

    ``pod`` and ``service`` are the objects with its names, as they are in the cluster. ``now`` in nanoseconds; None
    while the clock cannot be trusted: then nothing expires. ``routes`` are those of its routes that are watched.
    """
    if stack.deleting_since is not None:
        return Step(kind=StepKind.DELETE, why=f"its delete was requested ({stack.delete_reason})")
    if not stack.accepted:
        return Step(kind=StepKind.UNDO, why="its create was never completed")
    if now is not None and stack.ttl_expires_at <= now and not stack.unassigned:
        return Step(kind=StepKind.EXPIRE, why="its time is up")
    own = own_pod(pod, stack)
    if stack.ended:
        return _ended(stack, pod, service, routes)
    if stack.desired is Desired.STOPPED:
        if not stack.at_rest or pod is not None:
            return Step(kind=StepKind.STOP, why="it is to be stopped")
    elif stack.pod_uid is None:
        return Step(kind=StepKind.START, why="its new pod is not there yet")
    elif own is None:
        return Step(kind=StepKind.END, why="its pod is gone from the cluster")
    return service_step(stack, service) or _of_routes(routes) or _of_pod(stack, own)


def own_pod(pod: PodState | None, stack: Stack) -> PodState | None:
    """The pod of the stack's name, if it is its own; a pod of an earlier generation, which is being deleted, is not.

    The generation is an annotation, which anybody may remove: a pod with the row's uid is the stack's whatever it says.
    """
    return None if pod is None or (pod.uid != stack.pod_uid and pod.generation < stack.generation) else pod


def has_pod(stack: Stack) -> bool:
    """Whether the row says that the stack has a pod that should run."""
    running = stack.desired is Desired.RUNNING and stack.pod_uid is not None
    return running and stack.accepted and not stack.ended and stack.deleting_since is None


def _ended(
    stack: Stack, pod: PodState | None, service: ServiceState | None, routes: Collection[SeenRoute]
) -> Step | None:
    if stack.ports_held or (service is not None and service.node_ports) or any(one.seen for one in routes):
        return Step(kind=StepKind.RELEASE, why="its pod has ended for good")
    if pod is not None and stack.pod_uid not in (None, pod.uid):
        return Step(kind=StepKind.REMOVE_POD, why="its stack's own pod has ended before")
    return service_step(stack, service)


def service_step(stack: Stack, service: ServiceState | None) -> Step | None:
    """What is to be done so that the Service and its record are as the row says; None if they are."""
    error = service_error(stack, service)
    if error or service is None:
        return Step(kind=StepKind.REPAIR, why=error)
    if error := record_error(stack, service):
        return Step(kind=StepKind.ANNOTATE, why=error)
    if service.expires_at != stack.ttl_expires_at and not stack.unassigned:
        return Step(kind=StepKind.ANNOTATE, why="the expiry in its record is outdated")
    return None


def record_error(stack: Stack, service: ServiceState) -> str:
    """How the record on the Service differs from the row, apart from the expiry; empty if it does not."""
    if not service.recorded:
        return "its Service lacks the record from which a lost file is rebuilt"
    if bool(service.pool) != stack.unassigned or service.once_assigned != stack.unassigned:
        return "its Service does not say yet whether it was given away"
    if (service.generation, service.desired) != (stack.generation, wanted_pod(stack)):
        return "the record does not say yet that it was stopped or started"
    return ""


def _of_routes(routes: Collection[SeenRoute]) -> Step | None:
    error = route_error(routes)
    return Step(kind=StepKind.ROUTE, why=error) if error else None


def route_error(routes: Collection[SeenRoute]) -> str:
    """How the routes differ from what they should be; empty if they do not."""
    for one in routes:
        if one.wanted is not None and one.seen is None:
            return f"its {one.kind} is gone from the cluster"
        if one.wanted is not None and one.seen is not None and one.seen.content != one.wanted.content:
            return f"its {one.kind} was changed"
    return ""


def _of_pod(stack: Stack, pod: PodState | None) -> Step | None:
    if pod is None or pod.deleting:
        return None
    if pod.stack_id != stack.stack_id:
        return Step(kind=StepKind.LABEL, why="stackd's labels on its pod were changed")
    if bool(pod.pool) != stack.unassigned or pod.assigned:
        return Step(kind=StepKind.LABEL, why="the labels of its pod do not say yet whether it was given away")
    if pod.generation != stack.generation:
        return Step(kind=StepKind.LABEL, why="its pod does not say which one of the stack's it is")
    return None


def service_error(stack: Stack, service: ServiceState | None) -> str:
    """Why the stack cannot be reached through this Service as its row says; empty if it can."""
    if service is None:
        return "its Service is gone from the cluster"
    ours = sorted(stack.node_ports) if stack.ports_held else []
    wanted = "NodePort" if ours else "ClusterIP"
    if service.type != wanted:
        return f"its Service was changed to type {service.type}"
    theirs = sorted(service.node_ports)
    if ours != theirs:
        return f"the node ports of its Service were changed from {_listed(ours)} to {_listed(theirs)}"
    return "" if service.selects == stack.stack_id else "the selector of its Service was changed"


def _listed(ports: Sequence[int]) -> str:
    return ", ".join(map(str, ports)) or "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A pod, Service or route of ours without a row; it means only the object with that uid."""

    resource: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.resource} {self.name}"

    @property
    def stack_id(self) -> str:
        """The stack for which it was made, by its name."""
        return stack_of(self.resource, self.name)


def stack_of(resource: str, name: str) -> str:
    """The id of the stack whose pod, Service or route has this name."""
    if resource == PODS:
        return name
    if resource == SERVICES and not name.startswith(BACKEND_PREFIX):
        return name.removeprefix(SERVICE_PREFIX)
    return stack_of_route(resource, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A step of a plan: about a stack, or about the object ``orphan`` that has no row.

    ``sudden``: the stack has expired only since the clock was set; the brake checks that.
    """

    kind: StepKind
    name: str
    why: str
    orphan: Orphan | None = None
    sudden: bool = False

    @property
    def stack_id(self) -> str:
        """The stack that the action is about."""
        return self.name if self.orphan is None else self.orphan.stack_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An object of ours without a row, if it is not known whether its stack was removed; ``why`` says so."""

    object: Orphan
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """What a pass would do; ``blocked`` says why it does nothing at all, ``held`` which stacks a brake holds back.

    A pass leaves the objects in ``unknown`` alone.
    """

    actions: tuple[Action, ...] = ()
    blocked: str = ""
    held: frozenset[str] = frozenset()
    unknown: tuple[Unknown, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """Everything that a plan is made from, as it is at one moment; times in nanoseconds.

    ``step``      the next step of a stack (``next_step`` with what is seen of it)
    ``busy``      stacks that the worker has or will have in hand: creates under way, deletes of jobs, retries
    ``now``       None while the clock cannot be trusted; ``sudden_until``: to what time it was set forward (0: never)
    ``removed``   those of ``looked_up`` whose stacks the file has removed
    ``looked_up``  ids without a row that were looked up in the file
    ``unadoptable``  stacks for which no row can be made from their objects, and why
    ``incomplete``  the file may lack what the cluster has: objects without a row are adopted at once
    ``succeeded_at``  when the owner before this one renewed its Lease last; None if there was none
    """

    now: int | None
    orphan_grace: int
    stacks: Sequence[Stack]
    step: Callable[[Stack], Step | None]
    pods: Mapping[str, PodState]
    services: Mapping[str, ServiceState]
    routes: Collection[RouteState] = ()
    busy: Container[str] = ()
    removed: Container[str] = ()
    looked_up: Container[str] = ()
    unadoptable: Mapping[str, str] = field(default_factory=dict)
    incomplete: bool = False
    sudden_until: int = 0
    succeeded_at: int | None = None


def make_plan(seen: PlanInput) -> ReconcilePlan:
    """What a pass would do now."""
    rowless = list(_without_rows(seen, {stack.stack_id for stack in seen.stacks}))
    actions = [*_with_rows(seen), *(one for one in rowless if isinstance(one, Action))]
    return ReconcilePlan(actions=tuple(actions), unknown=tuple(one for one in rowless if isinstance(one, Unknown)))


def without_row(
    pods: Mapping[str, PodState],
    services: Mapping[str, ServiceState],
    rows: Collection[str],
    routes: Iterable[RouteState] = (),
) -> frozenset[str]:
    """The ids of stacks that have objects but no row."""
    served = {stack_of(SERVICES, name) for name in services} | {route.stack_id for route in routes}
    return frozenset(pods.keys() | served).difference(rows)


def _with_rows(seen: PlanInput) -> Iterator[Action]:
    for stack in seen.stacks:
        step = seen.step(stack)
        if step is None or (step.kind not in OF_THE_PASS and stack.stack_id in seen.busy):
            continue
        sudden = step.kind is StepKind.EXPIRE and stack.ttl_expires_at <= seen.sudden_until
        yield Action(kind=step.kind, name=stack.stack_id, why=step.why, sudden=sudden)


def _without_rows(seen: PlanInput, rows: Collection[str]) -> Iterator[Action | Unknown]:
    """What becomes of objects without a row. An object is removed only if the file has removed its stack."""
    for name, service in seen.services.items():
        orphan = Orphan(resource=SERVICES, name=name, uid=service.uid)
        if orphan.stack_id in rows or orphan.stack_id in seen.busy:
            continue
        if orphan.stack_id in seen.removed:
            yield _remove(orphan)
        elif name.startswith(RANGE_PREFIX):
            if _is_old(seen, service.created_at):
                yield _remove(orphan, "leftover Service of a node-port-range check")
        elif not service.deleting and _is_due(seen, orphan, service.created_at):
            yield _adopt(seen, orphan)
    others: Iterator[tuple[str, PodState | RouteState]] = chain(
        ((PODS, pod) for pod in seen.pods.values()), ((route.resource, route) for route in seen.routes)
    )
    for resource, found in others:
        orphan = Orphan(resource=resource, name=found.name, uid=found.uid)
        stack_id = orphan.stack_id
        if stack_id in rows or stack_id in seen.busy:
            continue
        comes_along = SERVICE_PREFIX + stack_id in seen.services and stack_id not in seen.unadoptable
        if stack_id in seen.removed:
            yield _remove(orphan)
        elif not found.deleting and not comes_along and _is_due(seen, orphan, found.created_at):
            if stack_id in seen.unadoptable and _was_never_acknowledged(seen, found, stack_id):
                yield _remove(orphan, "the owner before did not complete its create")
            else:
                yield _adopt(seen, orphan)


def _was_never_acknowledged(seen: PlanInput, found: PodState | RouteState, stack_id: str) -> bool:
    """Whether the object, which has no Service, is from a create that the owner before was making when it ended.

    All objects are created at the same time, and a delete takes the Service last. So nobody was ever told of a stack
    that lacks its Service and was created while that owner was about to end, or after: its last requests may be late.
    """
    if not found.annotated or seen.succeeded_at is None or SERVICE_PREFIX + stack_id in seen.services:
        return False
    return abs(found.created_at - seen.succeeded_at) <= UNFINISHED_NANOSECONDS


def _remove(orphan: Orphan, why: str = "its stack was removed") -> Action:
    is_service = orphan.resource == SERVICES and not orphan.name.startswith(BACKEND_PREFIX)
    others = StepKind.REMOVE_SERVICE if is_service else StepKind.REMOVE_ROUTE
    kind = StepKind.REMOVE_POD if orphan.resource == PODS else others
    return Action(kind=kind, name=orphan.name, why=why, orphan=orphan)


def _adopt(seen: PlanInput, orphan: Orphan) -> Action | Unknown:
    obstacle = seen.unadoptable.get(orphan.stack_id)
    if obstacle is not None:
        return Unknown(object=orphan, why=obstacle)
    why = "no row belongs to it, and none says that its stack was removed"
    return Action(kind=StepKind.ADOPT, name=orphan.stack_id, why=why)


def _is_due(seen: PlanInput, orphan: Orphan, created_at: int) -> bool:
    return orphan.stack_id in seen.looked_up and (seen.incomplete or _is_old(seen, created_at))


def _is_old(seen: PlanInput, created_at: int) -> bool:
    return seen.now is not None and seen.now - created_at >= seen.orphan_grace
