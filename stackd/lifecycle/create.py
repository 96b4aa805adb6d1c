"""Create a stack: row, pod, service, node, in this order, and undone in whole if any of it fails.

Owns: the order (invariant 1: the row is committed before the cluster is asked for anything) and the undo. The body runs
in a task of its own and is never cut short in the middle of a call: a client that leaves only makes it undo itself at
its next step, so that the outcome of every call is known before the undo begins.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stackd.clock import NANOSECONDS
from stackd.errors import ClusterError, ClusterUnavailable, NodePortTaken, NoRoom, StackdError, StackNotFound
from stackd.kube.manifests import PodRequest, ServiceRequest, pod_manifest, service_manifest
from stackd.kube.objects import PodState, ServiceState
from stackd.lifecycle.crashpoints import reached
from stackd.lifecycle.retire import retire
from stackd.lifecycle.room import Abandon, Room, new_id
from stackd.lifecycle.status import Sight, judge, observation
from stackd.model import NO_LABELS, DeleteReason, NewStack, Observation, SanitizedSpec, Stack, TargetPort
from stackd.podspec import harden
from stackd.store import Claim

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for, and by whom; ``ttl`` in seconds, the configured default if None.

    ``claim`` is the client's Idempotency-Key, if it sent one, and ``answer`` renders what is kept under it.
    """

    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    by: str = "stackd"
    claim: Claim | None = None
    answer: Callable[[Stack], bytes] | None = None

    def under(self, claim: Claim, answer: Callable[[Stack], bytes]) -> Order:
        """The same order under an Idempotency-Key."""
        return dataclasses.replace(self, claim=claim, answer=answer)


async def create(room: Room, order: Order) -> Stack:
    """Create a stack and return it as soon as a node has it; what is returned survives ``kill -9``.

    If the caller is cancelled the stack is undone, except under an Idempotency-Key: then the client will ask again.
    Raises NoNodePort, QuotaExceeded, NoRoom, LimitRangeViolation, InvalidPodSpec, ClusterUnavailable, StoreUnavailable,
    LabelLimitReached, Held and ShuttingDown; nothing is left in any of these cases.
    """
    try:
        room.admit()
    except StackdError as error:
        room.metrics.create_ended(error)
        raise
    stack_id = new_id("stack")
    abandon = Abandon()
    task = room.tasks.errand(f"create {stack_id}", _create(room, stack_id, order, abandon))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if order.claim is None:
            abandon.set()
        raise


async def _create(room: Room, stack_id: str, order: Order, abandon: Abandon) -> Stack:
    room.creating[stack_id] = abandon
    try:
        async with room.create_slots, room.locks.of(stack_id):
            stack = await _steps(room, stack_id, order, abandon)
        room.metrics.create_ended(None)
        return stack
    except BaseException as error:
        room.metrics.create_ended(error)
        reason = error if isinstance(error, StackdError) else type(error).__name__
        log.info("%s: create undone: %s", stack_id, reason, extra={"stack_id": stack_id})
        await asyncio.shield(room.tasks.errand(f"undo {stack_id}", _undo(room, stack_id)))
        if isinstance(error, ClusterError):
            raise ClusterUnavailable(f"{stack_id} cannot be created now: {error}") from error
        raise
    finally:
        del room.creating[stack_id]


async def _steps(room: Room, stack_id: str, order: Order, abandon: Abandon) -> Stack:
    laps = room.metrics.laps()
    await room.right_cluster()
    _check(abandon)
    reached("create.before_reserve")
    stack = await room.store.reserve(
        _new_stack(room, stack_id, order),
        claim=order.claim,
        max_stacks=room.config.limits.max_stacks or None,
        label_limits=room.config.limits.stacks_per_label,
    )
    laps.end("reserve")
    reached("create.reserved")
    _check(abandon)
    pod = await room.cluster.create_pod(pod_request(room, stack, order.spec))
    laps.end("pod")
    reached("create.pod_created")
    _check(abandon)
    stack, service = await serve(room, stack, pod)
    laps.end("service")
    reached("create.service_created")
    _check(abandon)
    pod = await _scheduled(room, stack, abandon)
    laps.end("schedule")
    reached("create.scheduled")
    _check(abandon)
    try:
        stack = await room.store.accept(
            stack_id,
            first_sight(room, stack, pod, node_exists=True),
            pod_uid=pod.uid,
            service_uid=service.uid,
            answer=order.answer,
            by=order.by,
        )
    except StackNotFound as exc:
        raise ClusterUnavailable(f"{stack_id} was deleted while it was being created") from exc
    laps.end("accept")
    reached("create.accepted")
    log.info("%s: created on %s", stack_id, stack.node_id, extra={"stack_id": stack_id})
    return stack


def _check(abandon: Abandon) -> None:
    if abandon.given_up:
        raise ClusterUnavailable("the create was abandoned")


def _new_stack(room: Room, stack_id: str, order: Order) -> NewStack:
    now = room.clock.now()
    ttl = room.config.stacks.ttl if order.ttl is None else order.ttl
    return NewStack(
        stack_id=stack_id,
        namespace=room.config.stacks.namespace,
        pod_spec=order.spec.text,
        target_ports=order.target_ports,
        created_at=now,
        ttl_expires_at=now + round(ttl * NANOSECONDS),
        requested_cpu_milli=order.spec.requested_cpu_milli,
        requested_memory_bytes=order.spec.requested_memory_bytes,
        labels=order.labels,
    )


def pod_request(room: Room, stack: Stack, spec: SanitizedSpec) -> dict[str, object]:
    """The manifest of a stack's pod, with the operator's additions."""
    return pod_manifest(
        PodRequest(
            stack=stack,
            manifest=harden(spec.manifest, room.policy),
            instance=room.config.cluster.instance,
            node_selector=room.config.stacks.node_selector,
        )
    )


def _replaced() -> None:
    reached("create.port_replaced")


async def serve(
    room: Room, stack: Stack, pod: PodState, *, replaced: Callable[[], None] = _replaced
) -> tuple[Stack, ServiceState]:
    """Create the Service; a node port that somebody else holds is replaced until one is free or none is left.

    ``replaced`` is called after each (the crash points of whoever asks).
    """
    while True:
        try:
            service = await room.cluster.create_service(_service_request(room, stack, pod.uid))
        except NodePortTaken as taken:
            said = {"stack_id": stack.stack_id}
            log.info("%s: node port %d: %s; trying another", stack.stack_id, taken.node_port, taken, extra=said)
            stack = await room.store.replace_port(stack.stack_id, taken.node_port)
            replaced()
        else:
            return stack, service


def _service_request(room: Room, stack: Stack, pod_uid: str) -> dict[str, object]:
    """The manifest of a stack's Service, owned by its pod so that the cluster collects it with the pod."""
    return service_manifest(ServiceRequest(stack=stack, instance=room.config.cluster.instance, pod_uid=pod_uid))


async def _scheduled(room: Room, stack: Stack, abandon: Abandon) -> PodState:
    """The pod once a node has it. Raises NoRoom as soon as the scheduler says that no node takes it (after the grace)."""
    stacks = room.config.stacks
    started = room.clock.monotonic()
    seen = False

    def scheduled(pod: PodState | None) -> PodState | None:
        nonlocal seen
        if pod is None:
            if seen:
                raise ClusterUnavailable("the pod was deleted from the cluster while it was being created")
            return None
        seen = True
        if pod.scheduled and pod.node_name:
            return pod
        if pod.scheduled is False and room.clock.monotonic() - started >= stacks.unschedulable_grace:
            raise NoRoom(f"no node has room for the stack: {pod.unschedulable_message}")
        return None

    if (known := scheduled(room.mirror.pods.get(stack.pod_name))) is not None:
        return known  # most often, for the Service took longer to make

    waiting = room.tasks.errand(f"schedule {stack.stack_id}", _until(room, stack, scheduled))
    try:
        return await abandon.unless_given_up(waiting)
    except TimeoutError as exc:
        raise _not_scheduled(room, stack) from exc
    except asyncio.CancelledError as exc:
        if abandon.given_up:
            raise ClusterUnavailable("the create was abandoned") from exc
        raise


async def _until(room: Room, stack: Stack, scheduled: Callable[[PodState | None], PodState | None]) -> PodState:
    """What ``scheduled`` says of the pod at last; it is asked again when the grace is over, for nothing may change then."""
    stacks = room.config.stacks
    grace = stacks.unschedulable_grace
    if grace:
        try:
            return await room.mirror.until(stack.pod_name, scheduled, timeout=grace)
        except TimeoutError:
            pass
    return await room.mirror.until(stack.pod_name, scheduled, timeout=max(0.0, stacks.scheduling_timeout - grace))


def _not_scheduled(room: Room, stack: Stack) -> NoRoom:
    pod = room.mirror.pods.get(stack.pod_name)
    why = f": {pod.unschedulable_message}" if pod is not None and pod.unschedulable_message else ""
    return NoRoom(f"no node has taken the stack within {room.config.stacks.scheduling_timeout:g} s{why}")


def first_sight(room: Room, stack: Stack, pod: PodState, *, node_exists: bool) -> Observation:
    """What is written of a stack together with its fresh pod."""
    sight = Sight(
        pod=pod,
        node_exists=node_exists,
        node_public_ip=room.public_address(pod.node_name),
        pull_failing_since=None,
        now=room.clock.now(),
    )
    return observation(stack, sight, judge(stack, sight, room.config.stacks.image_pull_grace))


async def _undo(room: Room, stack_id: str) -> None:
    """Take back what was done; what cannot be taken back now stays `deleting` and is retried."""
    try:
        if await room.store.mark_deleting([stack_id], DeleteReason.UNDO):
            reached("create.undo_marked")
            await retire(room, stack_id)
    except StackdError as error:
        log.warning("%s: the undo goes on in the background: %s", stack_id, error, extra={"stack_id": stack_id})
        room.retirement.add(stack_id)
