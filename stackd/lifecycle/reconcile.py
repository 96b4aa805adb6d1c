"""Compare what we intend with what exists, say what is to be done about it, and do it unless a brake holds it back.

Owns: the plan, a pure comparison of rows and mirror without a single request, and its execution. Statuses are the
observer's, removals the retirement's; this finds what both may have missed.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from stackd.clock import NANOSECONDS
from stackd.errors import StackdError
from stackd.kube.objects import PodState, ServiceState
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.create import serve
from stackd.lifecycle.expire import end_overdue
from stackd.lifecycle.extend import annotate
from stackd.lifecycle.observe import Observer
from stackd.lifecycle.restart import resume
from stackd.lifecycle.room import STALE_SECONDS, Room, current_pod
from stackd.model import DeleteReason, Desired, Stack

log = logging.getLogger(__name__)

SERVICE_PREFIX = "svc-"
PARALLEL_REMOVALS = 16
FIRST_DELAY = 0.25
LONGEST_DELAY = 60.0


class Kind(enum.StrEnum):
    """What a pass can do."""

    UNDO = "undo"
    RETIRE = "retire"
    RELEASE = "release"
    EXPIRE = "expire"
    END = "end"
    REPAIR = "repair"
    RESUME = "resume"
    ANNOTATE = "annotate"
    REMOVE_POD = "remove-pod"
    REMOVE_SERVICE = "remove-service"


UNASKED = frozenset({Kind.END, Kind.REMOVE_POD, Kind.REMOVE_SERVICE})
"""What nobody asked for; only these are subject to the brake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing to do, and why. ``uid`` only for objects without a row."""

    kind: Kind
    name: str
    why: str
    uid: str = ""

    @property
    def stack_id(self) -> str:
        """The stack that it is about, by its name."""
        return self.name.removeprefix(SERVICE_PREFIX) if self.kind is Kind.REMOVE_SERVICE else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOff:
    """What has failed and is tried again, not before a time (monotonic seconds), after ever longer delays."""

    not_before: float
    delay: float

    def again(self, now: float) -> PutOff:
        """It has failed once more."""
        delay = min(LONGEST_DELAY, max(FIRST_DELAY, self.delay * 2))
        return PutOff(not_before=now + delay, delay=delay)


NEVER = PutOff(not_before=float("-inf"), delay=0.0)


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a pass would do; ``blocked`` says why it does nothing at all, ``held`` which stacks a brake keeps."""

    actions: list[Action] = field(default_factory=list)
    blocked: str = ""
    held: frozenset[str] = frozenset()


class Reconciler:
    """The passes of one daemon, and what one pass has to remember for the next."""

    def __init__(self, room: Room, observer: Observer) -> None:
        self._room = room
        self._observer = observer
        self._without_service: set[str] = set()
        self._resuming: dict[str, PutOff] = {}
        self._was_away = False
        self._outages = 0
        self._busy = asyncio.Lock()
        self.passes = 0
        self.actions: dict[Kind, int] = dict.fromkeys(Kind, 0)

    def plan(self) -> Plan:
        """What a pass would do now, and why. Makes no request and changes nothing."""
        room = self._room
        blocked = _blocked(room)
        if blocked:
            return Plan(blocked=blocked)
        actions = [*self._rows(), *_orphan_pods(room), *_orphan_services(room)]
        return Plan(actions=actions, held=frozenset(room.brake.held))

    async def reconcile(self) -> Plan:
        """Make one pass. What cannot be done now is found again by the next; one bad stack never holds up the others."""
        async with self._busy:
            self._notice_return()
            plan = self.plan()
            if plan.blocked:
                log.debug("reconciliation is waiting: %s", plan.blocked)
                return plan
            await self._apply(plan)
            self.passes += 1
            self._room.brake.pass_done()
            return plan

    def _notice_return(self) -> None:
        """When the cluster answers again, it has to say who it is, and what was put off meanwhile is due at once."""
        away = self._room.mirror.disconnected_since is not None
        if self._was_away and not away:
            self._room.retirement.hurry()
        self._was_away = away
        if self._outages != self._room.mirror.outages and not away:
            self._outages = self._room.mirror.outages
            self._observer.doubt()

    async def confirm(self) -> int:
        """The operator agrees with what is held back: make a pass that does it. Returns how many stacks that is."""
        count = self._room.brake.confirm()
        log.warning("brake released by the operator: %d stacks", count)
        self._observer.look_at_all()
        await self._observer.observe({s.stack_id for s in self._room.store.stacks.ordered()})
        await self.reconcile()
        return count

    def _rows(self) -> Iterator[Action]:
        room = self._room
        now = room.clock.now()
        without_service: set[str] = set()
        for stack in room.store.stacks.ordered():
            action = self._row(stack, now, without_service)
            if action is not None:
                yield action
        self._without_service = without_service
        self._resuming = {name: put_off for name, put_off in self._resuming.items() if name in room.store.stacks}

    def _row(self, stack: Stack, now: int, without_service: set[str]) -> Action | None:
        room, name = self._room, stack.stack_id
        if stack.deleting_since is not None:
            if name in room.retirement or name in room.creating:
                return None
            return Action(kind=Kind.RETIRE, name=name, why=f"a delete is intended ({stack.delete_reason})")
        if not stack.accepted:
            if name in room.creating:
                return None
            return Action(kind=Kind.UNDO, name=name, why="its create was never completed")
        if stack.ttl_expires_at <= now:
            return Action(kind=Kind.EXPIRE, name=name, why="its time is up")
        if stack.ended:
            if stack.ports_held or stack.service_name in room.mirror.services:
                return Action(kind=Kind.RELEASE, name=name, why="its pod has ended for good")
            return self._belated(stack)
        if stack.desired is Desired.STOPPED or stack.pod_uid is None:
            return self._unfinished(stack)
        return self._living(stack, without_service)

    def _living(self, stack: Stack, without_service: set[str]) -> Action | None:
        room, name = self._room, stack.stack_id
        pod = current_pod(room, stack)
        if pod is None:
            return Action(kind=Kind.END, name=name, why="its pod is gone from the cluster")
        if stack.service_name not in room.mirror.services:
            without_service.add(name)
            if name in self._without_service:
                return Action(kind=Kind.REPAIR, name=name, why="its Service is gone from the cluster")
        if pod.expires_at not in (None, stack.ttl_expires_at) and not room.locks.busy(name):
            return Action(kind=Kind.ANNOTATE, name=name, why="its pod does not tell its end")
        return None

    def _belated(self, stack: Stack) -> Action | None:
        """A pod that a create which was given up has made after all, when the stack's own one had ended."""
        pod = self._room.mirror.pods.get(stack.pod_name)
        if pod is None or stack.pod_uid in (None, pod.uid):
            return None
        return Action(kind=Kind.REMOVE_POD, name=pod.name, uid=pod.uid, why="its stack's own pod has ended before")

    def _unfinished(self, stack: Stack) -> Action | None:
        """What is left to be done of a stop or a start, unless somebody is doing it, or it has just failed."""
        room, name = self._room, stack.stack_id
        there = name in room.mirror.pods or stack.service_name in room.mirror.services
        if stack.at_rest and not there:
            self._resuming.pop(name, None)
            return None
        if room.locks.busy(name) or self._resuming.get(name, NEVER).not_before > room.clock.monotonic():
            return None
        why = "it is to be stopped" if stack.desired is Desired.STOPPED else "its fresh pod is not there yet"
        return Action(kind=Kind.RESUME, name=name, why=why)

    async def _apply(self, plan: Plan) -> None:
        room = self._room
        unasked = {a.stack_id: f"{a.kind}: {a.why}" for a in plan.actions if a.kind in UNASKED}
        removals = [a for a in plan.actions if a.kind in (Kind.REMOVE_POD, Kind.REMOVE_SERVICE)]
        orphans = {a.stack_id: f"{a.kind}: {a.why}" for a in removals}
        known = len(room.store.stacks.ordered()) + len(orphans)
        allowed = room.brake.allow(orphans, known, room.config.reconcile.max_delete_share)
        room.brake.forget(set(room.brake.held) - unasked.keys())
        await self._rows_apply([a for a in plan.actions if a not in removals])
        if allowed:
            await self._remove(removals)
        plan.held = frozenset(room.brake.held)

    async def _rows_apply(self, actions: list[Action]) -> None:
        room = self._room
        by_kind: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        for action in actions:
            by_kind[action.kind].append(action.name)
            self._count(action)
        if by_kind[Kind.UNDO]:
            await room.store.mark_deleting(by_kind[Kind.UNDO], DeleteReason.UNDO)
            reached("reconcile.undo_marked")
        for name in (*by_kind[Kind.UNDO], *by_kind[Kind.RETIRE], *by_kind[Kind.RELEASE]):
            room.retirement.add(name)
        if by_kind[Kind.EXPIRE]:
            await end_overdue(room, by_kind[Kind.EXPIRE])
        self._observer.look_at(by_kind[Kind.END])
        for name in by_kind[Kind.RESUME]:
            room.tasks.errand(f"resume {name}", self._resume(name))
        for name in by_kind[Kind.ANNOTATE]:
            room.tasks.errand(f"annotate {name}", annotate(room, name))
        for name in by_kind[Kind.REPAIR]:
            room.tasks.errand(f"repair {name}", _repair(room, name))

    async def _resume(self, name: str) -> None:
        try:
            await resume(self._room, name)
        except StackdError as error:
            put_off = self._resuming[name] = self._resuming.get(name, NEVER).again(self._room.clock.monotonic())
            said = {"stack_id": name, "same": "resume"}
            log.info("%s: next try in %.1f s: %s", name, put_off.delay, error, extra=said)
        else:
            self._resuming.pop(name, None)

    async def _remove(self, removals: list[Action]) -> None:
        for start in range(0, len(removals), PARALLEL_REMOVALS):
            chunk = removals[start : start + PARALLEL_REMOVALS]
            results = await asyncio.gather(*(self._remove_one(a) for a in chunk), return_exceptions=True)
            for action, result in zip(chunk, results, strict=True):
                if isinstance(result, StackdError):
                    said = {"stack_id": action.stack_id}
                    log.warning("%s: cannot be removed now: %s", action.name, result, extra=said)
                elif isinstance(result, BaseException):
                    raise result

    async def _remove_one(self, action: Action) -> None:
        delete = self._room.cluster.delete_pod if action.kind is Kind.REMOVE_POD else self._room.cluster.delete_service
        await delete(action.name, action.uid)
        reached("reconcile.removed")
        self._count(action)

    def _count(self, action: Action) -> None:
        self.actions[action.kind] += 1
        log.info("%s: %s: %s", action.stack_id, action.kind, action.why, extra={"stack_id": action.stack_id})


def _blocked(room: Room) -> str:
    if room.brake.wrong_cluster is not None:
        return str(room.brake.wrong_cluster)
    if room.brake.identity_in_doubt:
        return "the cluster was away, and it is being asked whether it is still the same"
    if not room.mirror.synced:
        return "the cluster has not been seen yet"
    stale = room.mirror.staleness()
    if stale > STALE_SECONDS:
        return f"nothing has been heard of the cluster for {stale:.0f} s"
    return ""


def _orphan_pods(room: Room) -> Iterator[Action]:
    pods = room.mirror.pods
    for name in pods.keys() - room.store.stacks.ids():
        if _is_orphan(room, name, pods[name]):
            yield Action(kind=Kind.REMOVE_POD, name=name, uid=pods[name].uid, why="no row knows this pod")


def _orphan_services(room: Room) -> Iterator[Action]:
    known = {SERVICE_PREFIX + stack_id for stack_id in room.store.stacks.ids()}
    services = room.mirror.services
    for name in services.keys() - known:
        if _is_orphan(room, name.removeprefix(SERVICE_PREFIX), services[name]):
            yield Action(kind=Kind.REMOVE_SERVICE, name=name, uid=services[name].uid, why="no row knows this Service")


def _is_orphan(room: Room, stack_id: str, seen: PodState | ServiceState) -> bool:
    if stack_id in room.creating or stack_id in room.retirement:
        return False
    if stack_id in room.departed:
        return True
    grace = round(room.config.reconcile.orphan_grace * NANOSECONDS)
    return room.clock.now() - seen.created_at >= grace


async def _repair(room: Room, stack_id: str) -> None:
    """Create the Service of a living stack again, with its own node ports where nobody has taken them meanwhile."""
    async with room.locks.of(stack_id):
        stack = room.store.stacks.get(stack_id)
        if stack is None or stack.ended or stack.deleting_since is not None:
            return
        pod = current_pod(room, stack)
        if pod is None or stack.pod_uid is None or stack.desired is Desired.STOPPED:
            return  # it has been stopped meanwhile, or is to get another pod
        try:
            await serve(room, stack, pod, replaced=lambda: reached("repair.port_replaced"))
        except StackdError as error:
            said = {"stack_id": stack_id}
            log.warning("%s: its Service cannot be created again now: %s", stack_id, error, extra=said)
            return
        reached("repair.service_created")
    log.info("%s: Service created again", stack_id, extra={"stack_id": stack_id})
