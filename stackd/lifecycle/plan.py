"""What a reconciliation pass would do, and why: a pure comparison of rows and mirror; and the keys of the work queues.

Owns: the comparison, and the keys (stacks by id, objects without a row, repairs). It makes no request and remembers
nothing, so anybody may call it as often as they like. What a pass has to know of the one before is part of the
input.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import StoppedRecord
from stackd.kube.wire import CONFIG_MAPS
from stackd.model import RANGE_PREFIX, SERVICE_PREFIX, Desired, Stack

PODS, SERVICES = "pods", "services"


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A pod, a Service or a stopped stack's record of ours without a row; it means only the object with that uid."""

    resource: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.resource} {self.name}"

    @property
    def stack_id(self) -> str:
        """The stack for which it was made, by its name."""
        return self.name.removeprefix(SERVICE_PREFIX) if self.resource == SERVICES else self.name


Removal = str | Orphan
"""What the deleter handles: a stack that is being deleted or has ended, or an object without a row."""


class RepairKind(enum.StrEnum):
    """What a living stack may lack."""

    RESUME = "resume"
    SERVICE = "service"
    ANNOTATE = "annotate"
    LABELS = "labels"
    RECORD = "record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Something that a stack lacks and that stackd has to create or restore."""

    kind: RepairKind
    stack_id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.stack_id}"


class ActionKind(enum.StrEnum):
    """What a pass can do."""

    UNDO = "undo"
    DELETE = "delete"
    RELEASE = "release"
    EXPIRE = "expire"
    END = "end"
    REPAIR = "repair"
    RESUME = "resume"
    ANNOTATE = "annotate"
    RECORD = "record"
    ADOPT = "adopt"
    REMOVE_POD = "remove-pod"
    REMOVE_SERVICE = "remove-service"
    REMOVE_RECORD = "remove-record"


REMOVES = {
    PODS: ActionKind.REMOVE_POD,
    SERVICES: ActionKind.REMOVE_SERVICE,
    CONFIG_MAPS: ActionKind.REMOVE_RECORD,
}

UNASKED = frozenset({ActionKind.END, *REMOVES.values()})
"""What nobody asked for; only these, and actions that are ``sudden``, are subject to the brake."""

REPAIRS = {
    ActionKind.RESUME: RepairKind.RESUME,
    ActionKind.REPAIR: RepairKind.SERVICE,
    ActionKind.ANNOTATE: RepairKind.ANNOTATE,
    ActionKind.RECORD: RepairKind.RECORD,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, and why; ``orphan`` is the object to remove because it has no row.

    ``sudden``: the stack has expired only since the clock was set; the brake checks that.
    """

    kind: ActionKind
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
class PlanInput:
    """Everything that a plan is made from, as it is at one moment; times in nanoseconds.

    ``creating``  creates under way
    ``being_deleted``  stacks that a request or a batch job deletes
    ``locked``    stacks that somebody is at work on
    ``removed``   those of ``looked_up`` whose stacks the file has removed
    ``looked_up``  ids without a row that were looked up in the file
    ``stopped``   the records of stacks without a pod
    ``unadoptable``  pods and records from which no row can be made, by uid, and why
    ``unrecordable``  the uids of pods from which something in the cluster removes stackd's annotations
    ``incomplete``  the file may lack what the cluster has: objects without a row are adopted at once
    ``removals``, ``repairs``  what is in the work queues already
    ``clock_trusted``  whether ``now`` may be right; ``sudden_until``  to what time the clock was set forward (0: never)
    """

    now: int
    orphan_grace: int
    stacks: Sequence[Stack]
    pods: Mapping[str, PodState]
    services: Mapping[str, ServiceState]
    stopped: Mapping[str, StoppedRecord] = field(default_factory=dict)
    creating: Container[str] = ()
    being_deleted: Container[str] = ()
    locked: Container[str] = ()
    removed: Container[str] = ()
    looked_up: Container[str] = ()
    unadoptable: Mapping[str, str] = field(default_factory=dict)
    unrecordable: Container[str] = ()
    incomplete: bool = False
    removals: Container[Removal] = ()
    repairs: Container[Repair] = ()
    clock_trusted: bool = True
    sudden_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePlan:
    """What a pass would do; ``blocked`` says why it does nothing at all, ``held`` which stacks a brake holds back.

    A pass leaves the objects in ``unknown`` alone.
    """

    actions: tuple[Action, ...] = ()
    blocked: str = ""
    held: frozenset[str] = frozenset()
    unknown: tuple[Unknown, ...] = ()


def make_plan(seen: PlanInput) -> ReconcilePlan:
    """What a pass would do now."""
    known = {stack.stack_id: stack for stack in seen.stacks}
    actions = [action for stack in seen.stacks if (action := _row(seen, stack)) is not None]
    unknown: list[Unknown] = []
    for found in _rowless(seen, known):
        if isinstance(found, Action):
            actions.append(found)
        else:
            unknown.append(found)
    return ReconcilePlan(actions=tuple(actions), unknown=tuple(unknown))


def without_row(
    pods: Mapping[str, PodState],
    services: Mapping[str, ServiceState],
    stopped: Mapping[str, StoppedRecord],
    known: Collection[str],
) -> frozenset[str]:
    """The ids of stacks that have objects but no row."""
    served = {name.removeprefix(SERVICE_PREFIX) for name in services}
    return frozenset(pods.keys() | served | stopped.keys()).difference(known)


def is_kept(orphan: Orphan, stack: Stack | None) -> bool:
    """Whether the row, if there is one, is reason enough to keep the object.

    For an ended stack these are its Service and its own pod. Another pod of that name was made by a create that was
    given up.
    """
    if stack is None:
        return False
    if orphan.resource == SERVICES:
        return orphan.name == stack.service_name
    if orphan.resource == CONFIG_MAPS:
        return True  # the repairs handle it
    return not stack.ended or stack.pod_uid in (None, orphan.uid)


def own_pod(pods: Mapping[str, PodState], stack: Stack) -> PodState | None:
    """The stack's pod; a pod of an earlier generation, which is being deleted, does not count.

    The generation is an annotation, which anybody may remove: a pod with the row's uid is the stack's whatever it says.
    """
    pod = pods.get(stack.pod_name)
    return None if pod is None or (pod.uid != stack.pod_uid and pod.generation < stack.generation) else pod


def wants_service(stack: Stack) -> bool:
    """Whether the stack should have a Service now."""
    return (
        stack.accepted
        and not stack.ended
        and stack.deleting_since is None
        and stack.desired is Desired.RUNNING
        and stack.pod_uid is not None
    )


def service_trouble(stack: Stack, service: ServiceState | None) -> str:
    """Why the stack cannot be reached through this Service as its row says; empty if it can.

    Just after a create the mirror may not have the Service yet: the repair asks the cluster first.
    """
    if service is None:
        return "its Service is gone from the cluster"
    if service.type != "NodePort":
        return f"its Service was changed to type {service.type}"
    ours, theirs = sorted(port.node_port for port in stack.ports), sorted(service.node_ports)
    if ours != theirs:
        return f"the node ports of its Service were changed from {_listed(ours)} to {_listed(theirs)}"
    # A Service that waits for the assignment also serves once that is on the pod; one that does not serves at once.
    right = service.selects == stack.stack_id and (service.once_assigned or not stack.unassigned)
    return "" if right else "the selector of its Service was changed"


def wrongly_labelled(stack: Stack, pod: PodState, service: ServiceState | None) -> str:
    """Why a pod from a pool can be reached while nobody has it, or cannot although somebody has; empty if neither."""
    if stack.unassigned:
        return "its pod is in a pool and does not say so" if pod.assigned or not pod.pool else ""
    waits = bool(pod.pool) or (service is not None and service.once_assigned and not pod.assigned)
    return "its pod does not say yet that it was given away" if waits else ""


def _listed(ports: Sequence[int]) -> str:
    return ", ".join(map(str, ports)) or "none"


def _row(seen: PlanInput, stack: Stack) -> Action | None:
    name = stack.stack_id
    if stack.deleting_since is not None:
        if name in seen.removals or name in seen.creating or name in seen.being_deleted or name in seen.locked:
            return None
        return Action(kind=ActionKind.DELETE, name=name, why=f"its delete was requested ({stack.delete_reason})")
    if not stack.accepted:
        if name in seen.creating:
            return None
        return Action(kind=ActionKind.UNDO, name=name, why="its create was never completed")
    if stack.ttl_expires_at <= seen.now and seen.clock_trusted and not stack.unassigned:
        sudden = stack.ttl_expires_at <= seen.sudden_until
        return Action(kind=ActionKind.EXPIRE, name=name, why="its time is up", sudden=sudden)
    if stack.ended:
        return _ended(seen, stack)
    if stack.desired is Desired.STOPPED or stack.pod_uid is None:
        return _unfinished(seen, stack)
    return _living(seen, stack)


def _ended(seen: PlanInput, stack: Stack) -> Action | None:
    if stack.ports_held or stack.service_name in seen.services:
        if stack.stack_id in seen.removals:
            return None
        return Action(kind=ActionKind.RELEASE, name=stack.stack_id, why="its pod has ended for good")
    pod = seen.pods.get(stack.pod_name)
    if pod is None:
        return None
    orphan = Orphan(resource=PODS, name=pod.name, uid=pod.uid)
    if is_kept(orphan, stack) or orphan in seen.removals:
        return None
    return _remove(orphan, "its stack's own pod has ended before")


def _unfinished(seen: PlanInput, stack: Stack) -> Action | None:
    """What is left to be done of a stop or a start, unless somebody is doing it."""
    there = stack.pod_name in seen.pods or stack.service_name in seen.services
    if stack.at_rest and not there:
        return _at_rest(seen, stack)
    why = "it is to be stopped" if stack.desired is Desired.STOPPED else "its fresh pod is not there yet"
    return _repair(seen, ActionKind.RESUME, stack.stack_id, why)


def _at_rest(seen: PlanInput, stack: Stack) -> Action | None:
    """What the cluster's record of a stopped stack lacks."""
    record = seen.stopped.get(stack.stack_id)
    if record is None or record.going:
        return _repair(seen, ActionKind.RECORD, stack.stack_id, "the cluster has no record of this stopped stack")
    if record.expires_at != stack.ttl_expires_at:
        return _repair(seen, ActionKind.RECORD, stack.stack_id, "the expiry in its record in the cluster is outdated")
    return None


def _living(seen: PlanInput, stack: Stack) -> Action | None:
    name = stack.stack_id
    pod = own_pod(seen.pods, stack)
    if pod is None:
        return Action(kind=ActionKind.END, name=name, why="its pod is gone from the cluster")
    service = seen.services.get(stack.service_name)
    if trouble := service_trouble(stack, service):
        return _repair(seen, ActionKind.REPAIR, name, trouble)
    if wrong := wrongly_labelled(stack, pod, service):
        return _repair(seen, ActionKind.ANNOTATE, name, wrong)
    if pod.expires_at not in (None, stack.ttl_expires_at) and not stack.unassigned:
        return _repair(seen, ActionKind.ANNOTATE, name, "the expiry annotation on its pod is outdated")
    if not pod.recorded and pod.uid not in seen.unrecordable:
        return _repair(seen, ActionKind.ANNOTATE, name, "its pod lacks the record from which a lost file is rebuilt")
    if name in seen.stopped:
        return _repair(seen, ActionKind.RECORD, name, "it has a pod again, and needs no other record")
    return None


def _repair(seen: PlanInput, kind: ActionKind, name: str, why: str) -> Action | None:
    if name in seen.locked or Repair(kind=REPAIRS[kind], stack_id=name) in seen.repairs:
        return None
    return Action(kind=kind, name=name, why=why)


def _rowless(seen: PlanInput, known: Collection[str]) -> Iterator[Action | Unknown]:
    """What becomes of objects without a row. An object is removed only if the file has removed its stack."""
    for name in seen.pods.keys() - known:
        pod = seen.pods[name]
        orphan = Orphan(resource=PODS, name=name, uid=pod.uid)
        if _was_removed(seen, orphan):
            yield _remove(orphan)
        elif not pod.deleting and _is_due(seen, orphan, pod.created_at):
            yield _adopt(seen, orphan, "no row belongs to this pod, and none says that its stack was removed")
    for name in seen.stopped.keys() - known:
        record = seen.stopped[name]
        orphan = Orphan(resource=CONFIG_MAPS, name=name, uid=record.uid)
        if _was_removed(seen, orphan):
            yield _remove(orphan)
        elif not record.going and _is_due(seen, orphan, record.created_at) and not _has_adoptable_pod(seen, name):
            yield _adopt(seen, orphan, "no row belongs to this stopped stack, and none says that it was removed")
    for name in seen.services.keys() - {SERVICE_PREFIX + stack_id for stack_id in known}:
        service = seen.services[name]
        orphan = Orphan(resource=SERVICES, name=name, uid=service.uid)
        if _was_removed(seen, orphan):
            yield _remove(orphan)
        elif name.startswith(RANGE_PREFIX):
            if _is_old(seen, service.created_at) and not _is_handled(seen, orphan):
                yield _remove(orphan, "leftover Service of a node-port-range check")
        elif not service.deleting and _is_due(seen, orphan, service.created_at) and not _comes_along(seen, orphan):
            yield Unknown(object=orphan, why="it has no pod to adopt, and no row says that its stack was removed")


def _remove(orphan: Orphan, why: str = "its stack was removed") -> Action:
    return Action(kind=REMOVES[orphan.resource], name=orphan.name, why=why, orphan=orphan)


def _adopt(seen: PlanInput, orphan: Orphan, why: str) -> Action | Unknown:
    obstacle = seen.unadoptable.get(orphan.uid)
    if obstacle is not None:
        return Unknown(object=orphan, why=obstacle)
    return Action(kind=ActionKind.ADOPT, name=orphan.name, why=why)


def _was_removed(seen: PlanInput, orphan: Orphan) -> bool:
    return orphan.stack_id in seen.removed and not _is_handled(seen, orphan)


def _is_due(seen: PlanInput, orphan: Orphan, created_at: int) -> bool:
    if _is_handled(seen, orphan) or orphan.stack_id not in seen.looked_up:
        return False
    return seen.incomplete or _is_old(seen, created_at)


def _is_old(seen: PlanInput, created_at: int) -> bool:
    return seen.clock_trusted and seen.now - created_at >= seen.orphan_grace


def _is_handled(seen: PlanInput, orphan: Orphan) -> bool:
    return orphan.stack_id in seen.creating or orphan in seen.removals or orphan.stack_id in seen.removals


def _comes_along(seen: PlanInput, orphan: Orphan) -> bool:
    """Whether a pod or record of the Service's stack exists, with which the Service is adopted or removed."""
    if not orphan.name.startswith(SERVICE_PREFIX):
        return False
    found = (seen.pods.get(orphan.stack_id), seen.stopped.get(orphan.stack_id))
    return any(one is not None and one.uid not in seen.unadoptable for one in found)


def _has_adoptable_pod(seen: PlanInput, stack_id: str) -> bool:
    pod = seen.pods.get(stack_id)
    return pod is not None and not pod.deleting and pod.uid not in seen.unadoptable
