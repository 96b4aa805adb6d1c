"""What is to be done now about a stack, and why: the one place that decides. Pure.

Owns: ``decide`` for a stack with a row, and ``of_orphans`` for objects without one. A decision is a change of the row
(``transitions`` has one function for each kind), or the requests that may go out together now (``apply`` sends them); and,
if nothing is to be done, when to look again. It is taken from the row, from the objects as they should be (``desired``) and as
they are (``Seen``). Nothing is decided anywhere else: a change names the object, and the uid that it was decided on.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterUnavailable, NoRoom, StackdError
from stackd.kube.objects import NodeState, PodState, ServiceState, TemplatePod
from stackd.kube.routes import INNER_PREFIXES, OF_GATEWAYS, RouteState, WantedRoute
from stackd.kube.wire import JsonObject
from stackd.lifecycle.desired import (
    PODS,
    SERVICES,
    ObjectName,
    Objects,
    WantedPod,
    WantedService,
    expiry_error,
    own_pod,
    pod_difference,
    record_error,
    route_difference,
    service_error,
    stack_of,
)
from stackd.model import RANGE_PREFIX, Desired, Stack, StackStatus, struct
from stackd.timing import (
    LATE_CREATE_NANOSECONDS,
    LINGER_NANOSECONDS,
    LONGEST_LINGER,
    PLACING_NANOSECONDS,
    PROVEN_NANOSECONDS,
    ROOM_NANOSECONDS,
    UNFINISHED_NANOSECONDS,
)

NO_NODE = "no node has room for the stack"
POD_DELETED = "the pod was deleted from the cluster while it was being created"


class Kind(enum.StrEnum):
    """What can be decided about a stack. All but the last two change the row only."""

    ACCEPT = "accept"  # its pod is there, and a new stack's on a node: write it into the row
    UNDO = "undo"  # its create cannot be completed: intend to delete it
    EXPIRE = "expire"  # its time is up: intend to delete it
    END = "end"  # Kubernetes has said that its pod is gone: it has ended
    SERVE = "serve"  # the Service of a shared stack is to select its new pod
    STOPPED = "stopped"  # its pod is gone, as its user wished
    RELEASED = "released"  # no Service holds its node ports any more: give them back
    REMOVED = "removed"  # all of its objects are gone: remove the row
    APPLY = "apply"  # send requests
    ADOPT = "adopt"  # make a row for the objects of a stack that the file lacks


class Verb(enum.StrEnum):
    """What a request does. ASK reads the object itself: an absence in the mirror is no proof."""

    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    REMOVE = "remove"
    ASK = "ask"


OBJECTS = ("pod", "service", "route")


@struct
class WantedTemplatePod:
    """A pod that a template owns, and no stack."""

    name: str
    manifest: JsonObject


Wanted = WantedService | WantedPod | WantedRoute | WantedTemplatePod
State = PodState | ServiceState | RouteState | TemplatePod


@struct
class Change:
    """One request: the object, as it should be, and the ``uid`` of the one that was chosen. Without a uid, UPDATE creates the
    object or changes what is there, and REMOVE asks what has the name, and leaves alone what is not stackd's.

    ``foreign``: a pod that is not stackd's has the name; ``retried``: something has held up an earlier removal.
    """

    verb: Verb
    resource: str
    name: str
    uid: str | None = None
    wanted: Wanted | None = None
    foreign: bool = False
    retried: bool = False

    def __str__(self) -> str:
        kind = {PODS: "pod", SERVICES: "service"}.get(self.resource, "route")
        return f"{self.verb}-{'route' if self.resource == SERVICES and self.name.startswith(INNER_PREFIXES) else kind}"


@struct
class Decision:
    """What is to be done now, and why; without a ``kind``, nothing is.

    ``changes``  the requests of APPLY, which may go out at the same time
    ``brake``    the brake is asked: nobody wanted this, and nothing in the cluster explains it
    ``again``    in how many seconds to look again, if nothing happens before; None: something has to happen
    ``error``    what those who wait for the stack are answered
    """

    kind: Kind | None = None
    why: str = ""
    changes: tuple[Change, ...] = ()
    brake: bool = False
    again: float | None = None
    error: StackdError | None = None

    @property
    def action(self) -> str:
        """What is done, in one word for plans, metrics and the log."""
        return str(self.changes[0] if self.changes else self.kind or "")


# What ``Decision.action`` may say.
ACTIONS = (*(kind for kind in Kind if kind is not Kind.APPLY), *(f"{verb}-{kind}" for verb in Verb for kind in OBJECTS))


@struct
class Creating:
    """A create that somebody waits for. ``made``: all of its objects were created once; ``uids`` are those of its pods, by
    their names.
    ``placeable`` and ``reachable``: for how many seconds more it waits for a node that the scheduler does not find, and for
    the Gateway."""

    made: bool
    uids: Mapping[str, str] = field(default_factory=dict)
    placeable: float = 0.0
    reachable: float = 0.0


@struct
class Seen:
    """What is known of a stack's objects.

    ``pod``       what has the name of its present pod; ``earlier``: the other pods of a shared stack, the latest first
    ``members``   what has the names of the pods of its members, in order
    ``named``     what gives it names, or should, by resource and name; only of kinds that are watched
    ``nodes``     all nodes, by name
    ``gone``      the objects that Kubernetes itself has said to be gone, since stackd last made them
    ``held``      the objects whose removal something holds up
    ``creating``  somebody waits for its create
    ``explained`` the cluster explains that a pod of it is gone: with its node, or disrupted
    ``crowded``   there is no quota for two of its pods
    """

    service: ServiceState | None = None
    pod: PodState | None = None
    earlier: tuple[PodState, ...] = ()
    members: tuple[PodState | None, ...] = ()
    named: Mapping[ObjectName, RouteState | None] = field(default_factory=dict)
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    gone: Container[ObjectName] = ()
    held: Container[ObjectName] = ()
    creating: Creating | None = None
    explained: bool = False
    crowded: bool = False


NOTHING = Decision()


def decide(stack: Stack, objects: Objects, seen: Seen, now: int | None) -> Decision:
    """What is to be done now about this stack. ``objects`` are those that it should have. ``now`` in nanoseconds; None while
    the clock cannot be trusted: then nothing expires."""
    if stack.deleting_since is not None:
        return _deletion(stack, objects, seen)
    left = None
    if now is not None and not (stack.unassigned or stack.shared):
        left = stack.ttl_expires_at - now + (0 if stack.accepted else LATE_CREATE_NANOSECONDS)
    expires = left is not None and left <= 0
    if not stack.accepted:
        decision = _create(stack, objects, seen)
        if decision.kind is not None or not expires:
            return _or_at_end(decision, left)
    if expires:
        return Decision(kind=Kind.EXPIRE, why="its time is up")
    return _or_at_end(_living(stack, objects, seen, now), left)


def _or_at_end(decision: Decision, left: int | None) -> Decision:
    if decision.kind is not None or left is None:
        return decision
    seconds = left / NANOSECONDS
    return replace(decision, again=seconds if decision.again is None else min(decision.again, seconds))


def _apply(why: str, *changes: Change) -> Decision:
    return Decision(kind=Kind.APPLY, why=why, changes=changes)


# ---- a new stack


def _create(stack: Stack, objects: Objects, seen: Seen) -> Decision:
    creating = seen.creating
    if creating is None:
        return Decision(kind=Kind.UNDO, why="its create was never completed")
    if not creating.made:
        if stack.members and (inner := list(_unnamed(objects, seen, Verb.CREATE))):
            return _apply("its pods have to know each other's addresses", *inner)
        return Decision(kind=Kind.APPLY, why="it is new", changes=_creations(objects, seen))
    unplaced: PodState | None = None
    for wanted, pod in zip(objects.pods, (seen.pod, *seen.members), strict=True):
        uid = creating.uids.get(wanted.name)
        if pod is None or pod.uid != uid:  # somebody else's may have the name
            return _lacks_its_new(wanted.name, uid, seen)
        if not (pod.scheduled and pod.node_name):
            unplaced = pod
    return _placed(objects, seen, creating, unplaced)


def _placed(objects: Objects, seen: Seen, creating: Creating, unplaced: PodState | None) -> Decision:
    if unplaced is None:
        waits = creating.reachable if objects.named and not _are_ready(objects.named, seen) else 0.0
        if waits > 0:
            return Decision(again=waits)
        return Decision(kind=Kind.ACCEPT, why="a node has its pod")
    if unplaced.scheduled is False:
        if creating.placeable > 0:
            return Decision(again=creating.placeable)
        error = NoRoom(NO_NODE, detail=unplaced.unschedulable_message)
        return Decision(kind=Kind.UNDO, why="no node takes its pod", error=error)
    return NOTHING


def _lacks_its_new(name: str, uid: str | None, seen: Seen) -> Decision:
    if (PODS, name) in seen.gone:
        return Decision(kind=Kind.UNDO, why="its new pod is gone", error=ClusterUnavailable(POD_DELETED))
    return _apply("the mirror lacks its new pod", _ask(name, uid))


def _unnamed(objects: Objects, seen: Seen, verb: Verb) -> Iterator[Change]:
    """What is to connect the stack's pods and is not there yet: a pod is made with the addresses of the others."""
    for wanted in objects.named:
        if wanted.resource not in OF_GATEWAYS and seen.named.get((wanted.resource, wanted.name), seen) is None:
            yield Change(verb=verb, resource=wanted.resource, name=wanted.name, wanted=wanted)


def _creations(objects: Objects, seen: Seen) -> tuple[Change, ...]:
    """A new stack may have taken a spare Service, which is changed then."""
    changes = list[Change]()
    for pod in objects.pods:
        changes.append(Change(verb=Verb.CREATE, resource=PODS, name=pod.name, wanted=pod))
    if (service := objects.service) is not None:
        verb, uid = (Verb.CREATE, None) if seen.service is None else (Verb.UPDATE, seen.service.uid)
        changes.append(Change(verb=verb, resource=SERVICES, name=service.name, uid=uid, wanted=service))
    for route in objects.named:
        if seen.named.get((route.resource, route.name)) is None:
            changes.append(Change(verb=Verb.CREATE, resource=route.resource, name=route.name, wanted=route))
    return tuple(changes)


def _are_ready(named: Iterable[WantedRoute], seen: Seen) -> bool:
    states = [seen.named.get((route.resource, route.name)) for route in named if route.resource in OF_GATEWAYS]
    return all(state is not None and state.ready for state in states)


def _ask(name: str, uid: str | None) -> Change:
    return Change(verb=Verb.ASK, resource=PODS, name=name, uid=uid)


# ---- the end of a stack


def _deletion(stack: Stack, objects: Objects, seen: Seen) -> Decision:
    """Pods and names first: the Service carries the record, so whoever owns the stacks next takes over what is left. What
    something holds up (a finalizer, say) keeps neither the Service nor the node ports."""
    why = f"its delete was requested ({stack.delete_reason})"
    first = [*_pod_removals(stack, seen), *_name_removals(objects, seen)]
    if fresh := [change for change in first if not change.retried]:
        return _apply(why, *fresh)
    service = SERVICES, stack.service_name
    if service not in seen.gone:
        uid = _known_uid(stack.stack_id, stack.service_uid, seen.service)
        held = service in seen.held
        return _apply(why, Change(verb=Verb.REMOVE, resource=SERVICES, name=service[1], uid=uid, retried=held))
    if not first:
        return Decision(kind=Kind.REMOVED, why=why)
    if stack.ports_held:
        return Decision(kind=Kind.RELEASED, why="its Service is gone")
    return _apply(why, *first)


def _pod_removals(stack: Stack, seen: Seen) -> list[Change]:
    """The removal of all pods of the stack that Kubernetes has not said to be gone."""
    if stack.spare:
        return []
    removals = [_removal(pod, seen) for pod in seen.earlier]
    names = stack.pod_name, *(stack.member_name(member.name) for member in stack.members)
    for name, of_row, state in zip(names, stack.pod_uids, (seen.pod, *seen.members), strict=True):
        if (PODS, name) not in seen.gone:
            uid, held = _known_uid(stack.stack_id, of_row, state), (PODS, name) in seen.held
            removals.append(Change(verb=Verb.REMOVE, resource=PODS, name=name, uid=uid, retried=held))
    return removals


def _removal(state: State, seen: Seen) -> Change:
    return replace(_removal_of(state), retried=(state.resource, state.name) in seen.held)


def _removal_of(state: State) -> Change:
    return Change(verb=Verb.REMOVE, resource=state.resource, name=state.name, uid=state.uid)


def _name_removals(objects: Objects, seen: Seen) -> Iterator[Change]:
    for name in objects.names:
        if name not in seen.gone:
            state = seen.named.get(name)
            uid = None if state is None else state.uid
            yield Change(verb=Verb.REMOVE, resource=name[0], name=name[1], uid=uid, retried=name in seen.held)


def _known_uid(stack_id: str, of_row: str | None, seen: PodState | ServiceState | None) -> str | None:
    """The uid of an object that is certainly the stack's; None: the API server has to be asked what has the name now."""
    return None if seen is None or (seen.uid != of_row and seen.stack_id != stack_id) else seen.uid


def _ended(stack: Stack, objects: Objects, seen: Seen) -> Decision:
    """Its Service stays, because it carries the record, and holds no node port; its own pod is left to the cluster. One pod
    of several has ended: the others go."""
    removals = [_removal(route, seen) for route in seen.named.values() if route is not None]
    if stack.ports_held:  # also of kinds that are not watched now
        removals = list(_name_removals(objects, seen))
    if seen.pod is not None and stack.pod_uid not in (None, seen.pod.uid):
        removals.append(_removal(seen.pod, seen))
    elif stack.members:
        removals += [_removal(pod, seen) for pod in (seen.pod, *seen.members) if pod is not None and is_alive(pod)]
    if changes := [*_service_changes(objects.service, seen.service)[1], *removals]:
        return _apply("its pod has ended for good", *changes)
    if stack.ports_held:
        return Decision(kind=Kind.RELEASED, why="its pod has ended for good")
    return NOTHING


# ---- a stack that was accepted


def _living(stack: Stack, objects: Objects, seen: Seen, now: int | None) -> Decision:
    if stack.ended and not stack.shared:
        return _ended(stack, objects, seen)
    why, service = _service_changes(objects.service, seen.service)
    own = own_pod(seen.pod, stack)
    if stack.ended:
        return _apply(why, *service) if why is not None else _replacement(stack, own, seen, now)
    has_pods = seen.pod is not None or seen.earlier or any(seen.members)
    if stack.desired is Desired.STOPPED and (not stack.at_rest or has_pods):
        # The record first: whoever loses the file reads it there.
        return _apply(why, *service) if why is not None else _stop(stack, seen)
    if stack.desired is Desired.RUNNING and stack.lacks_a_pod:
        return _apply(why, *service) if why is not None else _start(stack, objects, seen, now)
    others = _repairs(objects, own, seen)
    why = why or next((differs for differs, _ in others), None)
    changes = [*service, *(change for _, change in others)]
    missing = objects.pods[0] if own is None and stack.desired is Desired.RUNNING else None
    if stack.members and missing is None:
        those = zip(objects.pods[1:], stack.members, seen.members, strict=False)
        missing = next((wanted for wanted, member, pod in those if own_pod(pod, member) is None), None)
    end = Decision(kind=Kind.END, why="its pod is gone from the cluster", brake=not seen.explained)
    if missing and (PODS, missing.name) not in seen.gone:
        why = why or "the mirror lacks its pod"
        changes.append(_ask(missing.name, missing.uid))
    elif missing and stack.status in (StackStatus.CREATING, StackStatus.RUNNING):
        return end  # clients see it, whether the cluster takes its record or not
    if why is not None and changes:
        return _apply(why, *changes)
    if missing:
        return end
    return _replacement(stack, own, seen, now) if stack.shared else NOTHING


def _repairs(objects: Objects, own: PodState | None, seen: Seen) -> list[tuple[str, Change]]:
    """What differs of its names and its pods, and the requests that put it right."""
    repairs = list[tuple[str, Change]]()
    for wanted in objects.named:
        name = wanted.resource, wanted.name
        if name in seen.named and (differs := route_difference(wanted, seen.named[name])) is not None:
            change = Change(verb=Verb.UPDATE, resource=wanted.resource, name=wanted.name, wanted=wanted)
            repairs.append((differs, change))
    for pod, state in zip(objects.pods, (own, *seen.members), strict=False):
        if state is not None and (differs := pod_difference(pod, state)) is not None:
            change = Change(verb=Verb.PATCH, resource=PODS, name=state.name, uid=state.uid, wanted=pod)
            repairs.append((differs, change))
    return repairs


def _service_changes(wanted: WantedService | None, seen: ServiceState | None) -> tuple[str | None, list[Change]]:
    """How the Service differs, and the request that puts it right. An outdated expiry alone needs a patch of annotations only."""
    if wanted is None:
        return None, []
    why = service_error(wanted, seen)
    if seen is not None:
        why = why or record_error(wanted, seen)
    outdated = None if why is not None or seen is None else expiry_error(wanted, seen)
    if why is None and outdated is None:
        return None, []
    verb, uid = Verb.CREATE if wanted.spare and seen is None else Verb.UPDATE, None
    if seen is not None and not seen.deleting:
        uid, verb = seen.uid, verb if outdated is None else Verb.PATCH
    return why or outdated, [Change(verb=verb, resource=SERVICES, name=wanted.name, uid=uid, wanted=wanted)]


def _stop(stack: Stack, seen: Seen) -> Decision:
    if removals := _pod_removals(stack, seen):
        return _apply("it is to be stopped", *removals)
    return Decision(kind=Kind.STOPPED, why="its pod is gone, as its user wished")


def _start(stack: Stack, objects: Objects, seen: Seen, now: int | None) -> Decision:
    """A pod of the stack's name is its new one only if it carries our labels, which nobody else may write. An earlier try
    may have made it, whose answer was lost. Of several pods, those that the row names stay as they are."""
    if stack.members and (inner := list(_unnamed(objects, seen, Verb.UPDATE))):
        return _apply("its pods have to know each other's addresses", *inner)
    changes, placed = list[Change](), True
    why = "its new pod is not there yet"
    for wanted, pod in zip(objects.pods, (seen.pod, *seen.members), strict=True):
        if wanted.uid is not None:
            continue
        if pod is None:
            changes.append(Change(verb=Verb.CREATE, resource=PODS, name=wanted.name, wanted=wanted))
            continue
        ours = pod.stack_id == stack.stack_id
        if ours and not pod.deleting and pod.generation >= wanted.generation:
            placed = placed and pod.scheduled is not None
        else:
            changes.append(replace(_removal(pod, seen), foreign=not ours))
            why = "an earlier pod has the name of its new one"
    if seen.crowded and seen.earlier and seen.pod is None:
        return _apply("there is no quota for two of its pods", *(_removal(pod, seen) for pod in seen.earlier))
    if changes:
        return Decision(kind=Kind.APPLY, why=why, changes=tuple(changes))
    left = 0 if now is None or placed else PLACING_NANOSECONDS - abs(now - stack.updated_at)
    return Decision(again=left / NANOSECONDS) if left > 0 else Decision(kind=Kind.ACCEPT, why="its new pod is there")


# ---- the pods of a shared stack


def _replacement(stack: Stack, own: PodState | None, seen: Seen, now: int | None) -> Decision:
    """The new pod of a shared stack comes to run beside the earlier one. Once it has been ready for a while, or is and the
    earlier one is not, the Service selects it; the earlier one goes a little later."""
    # A clock that was set back by more than anybody waits counts as a wait that is over.
    since = 0 if now is None else abs(now - stack.updated_at)
    age = 0 if now is None or own is None else now - own.created_at
    served, switched, again = _served(stack, seen), stack.serving == stack.generation, math.inf
    if own is not None and not switched:
        ready = stack.status is StackStatus.RUNNING and not stack.status_reason
        if served is None:
            return Decision(kind=Kind.SERVE, why="no other pod of it serves")
        if (ready and since >= PROVEN_NANOSECONDS) or (own.ready and not _answers(served, seen)):
            return Decision(kind=Kind.SERVE, why="its new pod is ready")
        again = PROVEN_NANOSECONDS - since if ready else math.inf
    crowded = own is not None and own.scheduled is False
    if crowded and since < ROOM_NANOSECONDS:
        crowded, again = False, min(again, ROOM_NANOSECONDS - since)
    lingers = switched and stack.status is StackStatus.RUNNING and since < LINGER_NANOSECONDS and age < LONGEST_LINGER
    if lingers and seen.earlier:
        again = min(again, LINGER_NANOSECONDS - since, LONGEST_LINGER - age)
    removals = [
        _removal(pod, seen) for pod in seen.earlier if crowded or not is_alive(pod) or not (pod is served or lingers)
    ]
    if removals:
        return _apply("its new pod serves", *removals)
    return NOTHING if math.isinf(again) else Decision(again=again / NANOSECONDS)


def _served(stack: Stack, seen: Seen) -> PodState | None:
    """The earlier pod that the Service selects, unless it has ended or its node is gone."""
    pod = next((pod for pod in seen.earlier if pod.generation == stack.serving and is_alive(pod)), None)
    return None if pod is not None and pod.node_name and pod.node_name not in seen.nodes else pod


def _answers(pod: PodState, seen: Seen) -> bool:
    """Whether connections are led to the pod; one on a node that is silent keeps its condition for a while."""
    node = seen.nodes.get(pod.node_name or "")
    return pod.ready and (node is None or node.ready)


def is_alive(pod: PodState) -> bool:
    """Whether the pod runs, or may."""
    return pod.phase in ("", "Pending", "Running") and not pod.deleting


# ---- objects without a row

# Why a stack is not adopted of which there are only pods or routes.
NO_RECORD = "no Service carries its record"


@struct
class Orphan:
    """A pod, Service or route of ours without a row."""

    seen: PodState | ServiceState | RouteState

    def __str__(self) -> str:
        return f"{self.seen.resource} {self.seen.name}"

    @property
    def is_service(self) -> bool:
        """Whether it is a stack's Service, and not one behind a route or of a member."""
        return self.seen.resource == SERVICES and not self.seen.name.startswith(INNER_PREFIXES)

    @property
    def stack_id(self) -> str:
        """The stack's id, by the name of the object."""
        return stack_of(self.seen.resource, self.seen.name)


def orphans(
    rows: Container[str],
    pods: Mapping[str, PodState],
    services: Mapping[str, ServiceState],
    routes: Iterable[RouteState] = (),
) -> list[Orphan]:
    """The objects that belong to none of ``rows``."""
    states: Iterable[PodState | ServiceState | RouteState] = (*services.values(), *pods.values(), *routes)
    found = [Orphan(seen=state) for state in states]
    return [orphan for orphan in found if orphan.stack_id not in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An entry of a plan: a decision about a stack, or about the object ``orphan`` that has no row."""

    decision: Decision
    name: str
    orphan: Orphan | None = None

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
    ``unadoptable``  stacks for which no row can be made, as a list of what the cluster has of them has shown, and why
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
    """What a pass would do now about these objects. One is removed only if the file has removed its stack, or if the owner
    before did not complete its create. A stack is adopted from its Service, and from nothing else."""
    served = {orphan.stack_id for orphan in found if orphan.is_service and not _is_spare(orphan)}
    waiting = (orphan for orphan in found if orphan.stack_id not in around.busy)
    actions = [action for orphan in waiting if (action := _of_orphan(orphan, served, around)) is not None]
    unknown = [action for action in actions if action.decision.kind is Kind.ADOPT and action.orphan]
    return ReconcilePlan(actions=tuple(action for action in actions if action not in unknown), unknown=tuple(unknown))


def _is_spare(orphan: Orphan) -> bool:
    """Whether it is a Service that no stack has taken: a create that began to has not been completed."""
    return isinstance(orphan.seen, ServiceState) and orphan.seen.spare and not orphan.seen.recorded


def _of_orphan(orphan: Orphan, served: Container[str], around: Surroundings) -> Action | None:
    """An ADOPT of the object itself means that it is unknown, and left alone."""
    seen, stack_id = orphan.seen, orphan.stack_id
    if stack_id in around.removed:
        return _remove(orphan, "its stack was removed", brake=False)
    if _is_spare(orphan):
        return _remove(orphan, "a spare Service that the file does not have", brake=False)
    is_old = around.now is not None and around.now - seen.created_at >= around.orphan_grace
    if orphan.is_service and seen.name.startswith(RANGE_PREFIX):
        return _remove(orphan, "leftover Service of a node-port-range check", brake=False) if is_old else None
    obstacle = around.unadoptable.get(stack_id)
    comes_along = not orphan.is_service and stack_id in served and obstacle is None
    if seen.deleting or comes_along or not (around.incomplete or is_old or obstacle):
        return None
    if orphan.is_service and obstacle is None:
        why = "no row belongs to it, and none says that its stack was removed"
        return Action(decision=Decision(kind=Kind.ADOPT, why=why), name=stack_id)
    # All objects are created at the same time, and a delete takes the Service last. So nobody was ever told of a stack
    # without a Service that was created while that owner was about to end, or after: its last requests may be delayed. The
    # mirror may not show the Service yet; the obstacle comes from a list.
    since = math.inf if around.succeeded_at is None else abs(seen.created_at - around.succeeded_at)
    unfinished = obstacle is not None and stack_id not in served and since <= UNFINISHED_NANOSECONDS
    if unfinished and not isinstance(seen, ServiceState) and seen.annotated:
        return _remove(orphan, "the owner before did not complete its create", brake=True)
    return Action(decision=Decision(kind=Kind.ADOPT, why=obstacle or NO_RECORD), name=seen.name, orphan=orphan)


def _remove(orphan: Orphan, why: str, *, brake: bool) -> Action:
    decision = replace(_apply(why, _removal_of(orphan.seen)), brake=brake)
    return Action(decision=decision, name=orphan.seen.name, orphan=orphan)


def without_row(
    missing: WantedTemplatePod | None, unwanted: Iterable[State], removable: Container[str] | None
) -> Decision:
    """What is to be done about a key of the loop that has no row: create the ``missing`` pod of a template, remove the
    ``unwanted`` objects whose uids are ``removable``; None: all of them."""
    if missing is not None:
        return _apply("a template wants it", Change(verb=Verb.CREATE, resource=PODS, name=missing.name, wanted=missing))
    removals = [_removal_of(state) for state in unwanted if removable is None or state.uid in removable]
    return _apply("no row has it, and nobody wants it", *removals) if removals else NOTHING
