"""What is to be done next about a stack, and why: the one place that decides. Pure.

Owns: ``next_step`` for a stack with a row, and ``of_orphans`` for objects without one. ``steps`` has one executor for each
kind of step.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stackd.clock import NANOSECONDS
from stackd.kube.objects import NodeState, PodState, ServiceState
from stackd.kube.records import wanted_pod
from stackd.kube.routes import BACKEND_PREFIX, RouteState, WantedRoute
from stackd.kube.routes import stack_of as stack_of_route
from stackd.kube.wire import KINDS
from stackd.model import RANGE_PREFIX, SERVICE_PREFIX, Desired, Stack, StackStatus, struct

PODS, SERVICES = "pods", "services"

UNFINISHED_NANOSECONDS = 60 * NANOSECONDS
"""How long before and after its last renewal an owner may have created a pod and not its Service."""


class StepKind(enum.StrEnum):
    """What can be done about a stack."""

    MAKE = "make"  # create its pod, Service and routes
    ACCEPT = "accept"  # a node has its new pod: complete its create
    REFUSE = "refuse"  # no node takes its new pod
    UNDO = "undo"  # nobody waits for its create: intend to delete it
    DELETE = "delete"  # delete Service and pod, then the row
    EXPIRE = "expire"  # its time is up: intend to delete it; the brake may hold that
    RELEASE = "release"  # give back the node ports of a stack that has ended; the Service stays: it carries the record
    END = "end"  # its pod is missing: it ends once that is proven; the brake may hold that
    STOP = "stop"  # delete the pod; the Service keeps the ports
    START = "start"  # create a new pod
    REPAIR = "repair"  # make the Service be as the row says
    ANNOTATE = "annotate"  # bring the record up to date
    ROUTE = "route"  # make the routes be as the row says
    LABEL = "label"  # put our labels on the pod
    SERVE = "serve"  # have the Service of a shared stack select its new pod
    ADOPT = "adopt"  # make a row for the objects of a stack that the file lacks
    REMOVE_POD = "remove-pod"  # delete a pod that belongs to no stack, and so on
    REMOVE_SERVICE = "remove-service"
    REMOVE_ROUTE = "remove-route"


PROVEN_NANOSECONDS = 5 * NANOSECONDS
"""The new pod of a shared stack has to be ready for so long before it takes the place of one that serves."""

LINGER_NANOSECONDS = 10 * NANOSECONDS
"""How long the earlier pod of a shared stack stays once the new one serves: nodes learn a little later where to send
connections to, and those that are open may come to an end."""

LONGEST_LINGER = 120 * NANOSECONDS
"""The earlier pod goes once the new one is so old, even if the stack's status changes meanwhile."""

ROOM_NANOSECONDS = 20 * NANOSECONDS
"""How long the new pod of a shared stack waits for a node before the earlier one has to make room for it."""

UNASKED = frozenset({StepKind.END, StepKind.REMOVE_POD, StepKind.REMOVE_SERVICE, StepKind.REMOVE_ROUTE})
"""What nobody asked for, unless an action says so; only these, and expiries after the clock was set forward, are subject to
the brake."""

LATE_CREATE_NANOSECONDS = 2 * NANOSECONDS
"""A create goes on for so long after the end of its stack: a stack that lives shorter than its create takes is created, and
expires then."""

MAY_BE_HELD = frozenset({StepKind.END, StepKind.EXPIRE})
"""What the brake may hold back."""

IN_THE_FILE = frozenset({StepKind.ACCEPT, StepKind.REFUSE, StepKind.UNDO, StepKind.EXPIRE, StepKind.SERVE})
"""These steps ask the cluster nothing."""


@struct
class SeenRoute:
    """An object that gives a stack a name: as it should be (None: it should not be there), and as it is, if it is there."""

    resource: str
    wanted: WantedRoute | None
    seen: RouteState | None


@struct
class CreateProgress:
    """How far a create that somebody waits for has come.

    ``made``        its pod, Service and routes were created
    ``placeable``   it waits no longer for a node that the scheduler does not find
    ``reachable``   the Gateway has accepted its routes, or it waits no longer for that
    """

    made: bool
    placeable: bool = True
    reachable: bool = True


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
    create: CreateProgress | None = None,
) -> Step | None:
    """What is to be done next about this stack; None if nothing is.

    ``pod`` and ``service`` are the objects with its names, as they are in the cluster. ``now`` in nanoseconds; None
    while the clock cannot be trusted: then nothing expires. ``routes`` are those of its routes that are watched.
    ``create``: somebody waits for its create.
    """
    if stack.deleting_since is not None:
        return Step(kind=StepKind.DELETE, why=f"its delete was requested ({stack.delete_reason})")
    late = 0 if stack.accepted else LATE_CREATE_NANOSECONDS
    expires = now is not None and stack.ttl_expires_at + late <= now and not (stack.unassigned or stack.shared)
    step = None if stack.accepted else _create_step(pod, create)
    if step is not None or not (stack.accepted or expires):
        return step
    if expires:
        return Step(kind=StepKind.EXPIRE, why="its time is up")
    if stack.ended:
        if stack.shared:
            return service_step(stack, service)  # it keeps its ports: it is started again
        if stack.ports_held or (service is not None and service.node_ports) or any(one.seen for one in routes):
            return Step(kind=StepKind.RELEASE, why="its pod has ended for good")
        if pod is not None and stack.pod_uid not in (None, pod.uid):
            return Step(kind=StepKind.REMOVE_POD, why="its stack's own pod has ended before")
        return service_step(stack, service)
    own = own_pod(pod, stack)
    if stack.desired is Desired.STOPPED:
        if not stack.at_rest or pod is not None:  # the record first: whoever loses the file reads it there
            return service_step(stack, service) or Step(kind=StepKind.STOP, why="it is to be stopped")
    elif stack.pod_uid is None:
        return service_step(stack, service) or Step(kind=StepKind.START, why="its new pod is not there yet")
    elif own is None:
        return Step(kind=StepKind.END, why="its pod is gone from the cluster")
    return service_step(stack, service) or _route_step(routes) or _label_step(stack, own)


def _create_step(pod: PodState | None, create: CreateProgress | None) -> Step | None:
    if create is None:
        return Step(kind=StepKind.UNDO, why="its create was never completed")
    if not create.made:
        return Step(kind=StepKind.MAKE, why="it is new")
    if pod is None:
        return Step(kind=StepKind.END, why="its new pod is gone from the cluster")
    if pod.scheduled and pod.node_name:
        return Step(kind=StepKind.ACCEPT, why="a node has its pod") if create.reachable else None
    if pod.scheduled is False and not create.placeable:
        return Step(kind=StepKind.REFUSE, why="no node takes its pod")
    return None


def replacement_step(
    stack: Stack,
    own: PodState | None,
    now: int | None,
    earlier: Sequence[PodState],
    nodes: Mapping[str, NodeState] | None = None,
) -> Step | None:
    """What is to be done about the ``earlier`` pods of a shared stack about which nothing else is; ``nodes``: all there are.

    Its new pod comes to run beside the earlier one. Once that has been ready for a while, or is and the earlier one is not,
    the Service selects it; the earlier one goes a little later.
    """
    served, since = _served(stack, earlier, nodes), _since(stack, now)
    proven = stack.status is StackStatus.RUNNING and not stack.status_reason and since >= PROVEN_NANOSECONDS
    better = served is not None and own is not None and own.ready and not _answers(served, nodes)
    if own is not None and stack.serving != stack.generation and (proven or better or served is None):
        return Step(kind=StepKind.SERVE, why="its new pod is ready" if served else "no other pod of it serves")
    if any(True for _ in replaced_pods(stack, own, now, earlier, nodes)):
        return Step(kind=StepKind.REMOVE_POD, why="its new pod serves")
    return None


def replacement_waits(stack: Stack, now: int) -> int:
    """In how many nanoseconds ``replacement_step`` may say something else if nothing happens; 0 if time changes nothing."""
    since = _since(stack, now)
    times = (PROVEN_NANOSECONDS, LINGER_NANOSECONDS, ROOM_NANOSECONDS)
    return min((time - since for time in times if time > since), default=0)


def _since(stack: Stack, now: int | None) -> int:
    """For how long the status has been as it is. A clock that was set back by more than anybody waits counts as that."""
    return 0 if now is None else abs(now - stack.updated_at)


def replaced_pods(
    stack: Stack,
    own: PodState | None,
    now: int | None,
    earlier: Sequence[PodState],
    nodes: Mapping[str, NodeState] | None = None,
) -> Iterator[PodState]:
    """Those of the earlier pods of a shared stack that are needed no longer."""
    since, served = _since(stack, now), _served(stack, earlier, nodes)
    crowded = own is not None and own.scheduled is False and since >= ROOM_NANOSECONDS
    switched, age = (
        stack.serving == stack.generation,
        now - own.created_at if own is not None and now is not None else 0,
    )
    for pod in earlier:
        lingers = (
            switched and stack.status is StackStatus.RUNNING and since < LINGER_NANOSECONDS and age < LONGEST_LINGER
        )
        if crowded or stack.desired is Desired.STOPPED or not is_alive(pod) or not (pod is served or lingers):
            yield pod


def _served(stack: Stack, earlier: Sequence[PodState], nodes: Mapping[str, NodeState] | None) -> PodState | None:
    """The pod that the Service selects, unless it has ended or its node is gone."""
    pod = next((pod for pod in earlier if pod.generation == stack.serving and is_alive(pod)), None)
    gone = pod is not None and nodes is not None and bool(pod.node_name) and pod.node_name not in nodes
    return None if gone else pod


def _answers(pod: PodState, nodes: Mapping[str, NodeState] | None) -> bool:
    """Whether connections are led to the pod; one on a node that is silent keeps its condition for a while."""
    node = nodes.get(pod.node_name or "") if nodes is not None else None
    return pod.ready and (node is None or node.ready)


def is_alive(pod: PodState) -> bool:
    """Whether the pod runs, or may."""
    return pod.phase in ("", "Pending", "Running") and not pod.deleting


def own_pod(pod: PodState | None, stack: Stack) -> PodState | None:
    """The pod of the stack's name, if it is its own; a pod of an earlier generation, which is being deleted, is not.

    The generation is an annotation, which anybody may remove: a pod with the row's uid is the stack's whatever it says.
    """
    return None if pod is None or (pod.uid != stack.pod_uid and pod.generation < stack.generation) else pod


def has_pod(stack: Stack) -> bool:
    """Whether the row says that the stack has a pod that should run."""
    running = stack.desired is Desired.RUNNING and stack.pod_uid is not None
    return running and stack.accepted and not stack.ended and stack.deleting_since is None


def service_step(stack: Stack, service: ServiceState | None) -> Step | None:
    """What is to be done so that the Service and its record are as the row says; None if they are."""
    error = service_error(stack, service)
    if error or service is None:
        return Step(kind=StepKind.REPAIR, why=error)
    error = record_error(stack, service)
    if not error and service.expires_at != stack.ttl_expires_at and not stack.unassigned:
        error = "the expiry in its record is outdated"
    return Step(kind=StepKind.ANNOTATE, why=error) if error else None


def service_error(stack: Stack, service: ServiceState | None) -> str:
    """Why the stack cannot be reached through this Service as its row says; empty if it can."""
    if service is None:
        return "its Service is gone from the cluster"
    ours, theirs = sorted(stack.node_ports) if stack.ports_held else [], sorted(service.node_ports)
    if service.type != ("NodePort" if ours else "ClusterIP"):
        return f"its Service was changed to type {service.type}"
    if ours != theirs:
        was, now = (", ".join(map(str, ports)) or "none" for ports in (ours, theirs))
        return f"the node ports of its Service were changed from {was} to {now}"
    serves = service.selects == stack.stack_id and service.serving == stack.serving
    return "" if serves else "the selector of its Service was changed"


def record_error(stack: Stack, service: ServiceState) -> str:
    """How the record on the Service differs from the row, apart from the expiry; empty if it does not."""
    if not service.recorded:
        return "its Service lacks the record from which a lost file is rebuilt"
    if bool(service.pool) != stack.unassigned or service.once_assigned != stack.unassigned:
        return "its Service does not say yet whether it was assigned"
    if (service.generation, service.desired) != (stack.generation, wanted_pod(stack)):
        return "the record does not say yet that it was stopped or started"
    return ""


def route_error(routes: Collection[SeenRoute]) -> str:
    """How the routes differ from what they should be; empty if they do not."""
    for one in routes:
        kind = KINDS[one.resource].name + " for its names" * (one.resource == SERVICES)
        if one.wanted is not None and one.seen is None:
            return f"its {kind} is gone from the cluster"
        if one.wanted is not None and one.seen is not None and one.seen.content != one.wanted.content:
            return f"its {kind} was changed"
    return ""


def _route_step(routes: Collection[SeenRoute]) -> Step | None:
    return Step(kind=StepKind.ROUTE, why=why) if (why := route_error(routes)) else None


def _label_step(stack: Stack, pod: PodState | None) -> Step | None:
    if pod is None:
        return None
    if pod.stack_id != stack.stack_id:  # the watch does not report it, not even that it is gone
        return Step(kind=StepKind.LABEL, why="stackd's labels on its pod were changed")
    if pod.deleting:
        return None
    why = "its pod does not say which one of the stack's it is" if pod.generation != stack.generation else ""
    if bool(pod.pool) != stack.unassigned or pod.assigned:
        why = "the labels of its pod do not say yet whether it was assigned"
    return Step(kind=StepKind.LABEL, why=why) if why else None


@struct
class Orphan:
    """A pod, Service or route of ours without a row."""

    resource: str
    seen: PodState | ServiceState | RouteState

    def __str__(self) -> str:
        return f"{self.resource} {self.seen.name}"

    @property
    def is_service(self) -> bool:
        """Whether it is a stack's Service, and not one behind a route."""
        return self.resource == SERVICES and not self.seen.name.startswith(BACKEND_PREFIX)

    @property
    def stack_id(self) -> str:
        """The stack's id, by the name of the object."""
        return stack_of(self.resource, self.seen.name)


def stack_of(resource: str, name: str) -> str:
    """The id of the stack whose pod, Service or route has this name. A later pod of a shared stack has a number in it."""
    if resource == PODS:
        first, _, number = name.rpartition("-")
        return first if "-" in first and number.isdecimal() else name
    if resource == SERVICES and not name.startswith(BACKEND_PREFIX):
        return name.removeprefix(SERVICE_PREFIX)
    return stack_of_route(resource, name)


def orphans(
    rows: Container[str],
    pods: Mapping[str, PodState],
    services: Mapping[str, ServiceState],
    routes: Iterable[RouteState] = (),
) -> list[Orphan]:
    """The objects that belong to none of ``rows``."""
    found = [Orphan(resource=SERVICES, seen=one) for one in services.values()]
    found += [Orphan(resource=PODS, seen=one) for one in pods.values()]
    found += [Orphan(resource=one.resource, seen=one) for one in routes]
    return [one for one in found if one.stack_id not in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """A step of a plan: about a stack, or about the object ``orphan`` that has no row. ``asked``: the file has removed its
    stack, or it is none of a stack's, so that no brake holds it."""

    kind: StepKind
    name: str
    why: str
    orphan: Orphan | None = None
    asked: bool = False

    @property
    def stack_id(self) -> str:
        """The stack that the action is about."""
        return self.name if self.orphan is None else self.orphan.stack_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """What a pass would do; ``blocked`` says why it does nothing at all, ``held`` which stacks a brake holds back.
    ``unknown``: objects that a pass leaves alone, because nothing says whether their stack was removed; and why."""

    actions: tuple[Action, ...] = ()
    blocked: str = ""
    held: frozenset[str] = frozenset()
    unknown: tuple[Action, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the fate of objects without a row depends on; times in nanoseconds.

    ``now``       None while the clock cannot be trusted
    ``busy``      stacks that the loop works on, or that wait in its queue
    ``removed``   stacks that the file has removed
    ``unadoptable``  stacks for which no row can be made from their objects, and why
    ``incomplete``  the file may lack what the cluster has: objects without a row are adopted at once
    ``succeeded_at``  when the owner before this one renewed its Lease last; None if there was none
    """

    now: int | None
    orphan_grace: int
    busy: Container[str] = ()
    removed: Container[str] = ()
    unadoptable: Mapping[str, str] = field(default_factory=dict)
    incomplete: bool = False
    succeeded_at: int | None = None


def of_orphans(found: Sequence[Orphan], around: Surroundings) -> ReconcilePlan:
    """What a pass would do now about these objects. One is removed only if the file has removed its stack."""
    served = {orphan.stack_id for orphan in found if orphan.is_service}
    waiting = (orphan for orphan in found if orphan.stack_id not in around.busy)
    actions = [action for orphan in waiting if (action := _of_orphan(orphan, served, around)) is not None]
    unknown = [action for action in actions if action.kind is StepKind.ADOPT and action.orphan]
    return ReconcilePlan(actions=tuple(one for one in actions if one not in unknown), unknown=tuple(unknown))


def _of_orphan(orphan: Orphan, served: Container[str], around: Surroundings) -> Action | None:
    """An ADOPT of the object itself means that it is unknown, and left alone."""
    seen, stack_id = orphan.seen, orphan.stack_id
    if stack_id in around.removed:
        return _remove(orphan, "its stack was removed", asked=True)
    is_old = around.now is not None and around.now - seen.created_at >= around.orphan_grace
    if orphan.is_service and seen.name.startswith(RANGE_PREFIX):
        return _remove(orphan, "leftover Service of a node-port-range check", asked=True) if is_old else None
    obstacle = around.unadoptable.get(stack_id)
    comes_along = not orphan.is_service and stack_id in served and obstacle is None
    if seen.deleting or comes_along or not (around.incomplete or is_old or obstacle):
        return None
    if obstacle is None:
        why = "no row belongs to it, and none says that its stack was removed"
        return Action(kind=StepKind.ADOPT, name=stack_id, why=why)
    # All objects are created at the same time, and a delete takes the Service last. So nobody was ever told of a stack
    # without a Service that was created while that owner was about to end, or after: its last requests may be delayed.
    since = math.inf if around.succeeded_at is None else abs(seen.created_at - around.succeeded_at)
    unfinished = stack_id not in served and since <= UNFINISHED_NANOSECONDS
    if unfinished and not isinstance(seen, ServiceState) and seen.annotated:
        return _remove(orphan, "the owner before did not complete its create")
    return Action(kind=StepKind.ADOPT, name=seen.name, why=obstacle, orphan=orphan)


def _remove(orphan: Orphan, why: str, *, asked: bool = False) -> Action:
    kind = StepKind.REMOVE_SERVICE if orphan.is_service else StepKind.REMOVE_ROUTE
    kind = StepKind.REMOVE_POD if orphan.resource == PODS else kind
    return Action(kind=kind, name=orphan.seen.name, why=why, orphan=orphan, asked=asked)
