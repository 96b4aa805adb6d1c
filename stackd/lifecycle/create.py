"""Create a stack: row, pod, service and node, all in this request; if any step fails, all of it is undone.

Owns: the order (invariant 1: the row is committed before the cluster is asked for anything) and the undo. The body runs
in its own task and is never interrupted in the middle of a call. A client that leaves only makes the create undo itself
at its next step, so the outcome of every call is known before the undo begins.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from types import MappingProxyType

from stackd.clock import NANOSECONDS
from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    LabelLimitReached,
    NoNodePort,
    NoRoom,
    QuotaExceeded,
    StackdError,
    StackNotFound,
)
from stackd.kube.objects import PODS, PodState, ServiceState
from stackd.kube.routes import ROUTES, WantedRoute
from stackd.lifecycle.assign import assign, preempt
from stackd.lifecycle.context import Abandon, Context, CreateRequest, new_id
from stackd.lifecycle.objects import (
    expose,
    gather_all,
    named,
    pod_request,
    require_served,
    until_accepted,
    wanted,
)
from stackd.lifecycle.steps import first_observation, hiding
from stackd.logs import stack_log
from stackd.metrics import PhaseTimer
from stackd.model import NO_VALUES, DeleteReason, Stack, StackStatus, struct
from stackd.templates.hiding import hide_in
from stackd.units import format_duration

log = logging.getLogger(__name__)

ONCE_TRIES = 5
ONCE_SECONDS = 60.0  # how long ``create_once`` waits for an equal create that came first
ASK_SECONDS = 5.0  # the timeout of the last request for the pod, in seconds
SUSPECT_SECONDS = 2.0
"""While a new pod is awaited, a watch of pods that is silent for this long is reopened over another connection."""

PREEMPTIONS = 3
"""How many times one create may delete stacks of pools: for a node port, for the quota, for a node's room."""

UNDO_SECONDS, INTENT_SECONDS = 2.0, 0.1
"""How long a failed create waits for its undo, or, while Kubernetes does not answer, only for the intent to be written;
after that, the undo goes on in the background."""

NO_NODE = "no node has room for the stack"
DELETED = "the pod was deleted from the cluster while it was being created"


async def create(context: Context, request: CreateRequest) -> Stack:
    """Create a stack, or take one from a pool, and return it as soon as a node has it. The returned stack survives
    ``kill -9``. If there is no room for it, stacks of pools are deleted.

    If the caller is cancelled, the stack is undone, except under an Idempotency-Key: then the client will ask again.
    Raises NoNodePort, QuotaExceeded, NoRoom, LimitRangeViolation, InvalidPodSpec, ClusterUnavailable, StoreUnavailable,
    LabelLimitReached, Held and ShuttingDown; nothing is left in any of these cases.
    """
    stack_id, abandon = new_id("stack"), Abandon()
    try:
        return await context.tasks.run(f"create {stack_id}", _create(context, stack_id, request, abandon))
    except asyncio.CancelledError:
        if request.claim is None:
            abandon.set()
        raise


async def make_unassigned(context: Context, request: CreateRequest) -> Stack:
    """Make a stack for a pool. Raises as ``create`` does, and leaves nothing then."""
    return await _made(context, new_id("stack"), request, Abandon())


async def _create(context: Context, stack_id: str, request: CreateRequest, abandon: Abandon) -> Stack:
    try:
        await context.gate.admitted()
        abandon.check()
        made = await _assigned_or_made(context, stack_id, request, abandon)
        made = await context.store.stacks.with_pod_spec(made)
        stack = await _unless_abandoned(context, made, abandon)
    except BaseException as error:
        context.metrics.create_ended(error)
        raise
    context.metrics.create_ended(None)
    return stack


async def _assigned_or_made(context: Context, stack_id: str, request: CreateRequest, abandon: Abandon) -> Stack:
    if (pooled := await assign(context, request)) is not None:
        return pooled
    preemptions = PREEMPTIONS
    while True:
        try:
            return await _made(context, stack_id, request, abandon)
        except (NoNodePort, NoRoom, QuotaExceeded) as error:
            if abandon.is_set():
                raise
            if not preemptions or not await preempt(context, request, error):
                raise
        stack_log(log, stack_id).info("deleted pooled stacks to free capacity; retrying the create")
        stack_id = new_id("stack")
        preemptions -= 1


async def _unless_abandoned(context: Context, stack: Stack, abandon: Abandon) -> Stack:
    """The finished stack, undone if its client has left, or leaves before it gets the result."""
    if abandon.is_set():
        await _undone(context, stack.stack_id)
        abandon.check()
    abandon.wake = lambda: context.tasks.background(f"undo {stack.stack_id}", _undo(context, stack.stack_id))
    return stack


async def _made(context: Context, stack_id: str, request: CreateRequest, abandon: Abandon) -> Stack:
    context.creating[stack_id] = abandon
    waits = context.create_slots.locked() and not request.unassigned
    try:
        with context.worker.reserve(stack_id), hiding(context, stack_id):
            async with context.create_slots:
                if waits and (pooled := await assign(context, request, once_more=True)) is not None:
                    return pooled  # its pool has got one meanwhile
                async with context.few_create_slots if context.worker.is_late else nullcontext():
                    requested = await _requested(context, stack_id, request, abandon)
            return await _accepted(context, request, abandon, requested)
    except BaseException as error:
        reason = error if isinstance(error, StackdError) else type(error).__name__
        stack_log(log, stack_id).info("create undone: %s", reason)
        await _undone(context, stack_id)
        if isinstance(error, StackNotFound):
            raise ClusterUnavailable(f"{stack_id} was deleted or expired during its create; create it again") from error
        if isinstance(error, ClusterError):
            raise ClusterUnavailable(f"{stack_id} cannot be created now", detail=str(error)) from error
        raise
    finally:
        del context.creating[stack_id]


@struct
class Requested:
    """A stack whose objects the cluster has, and that no node has yet."""

    stack: Stack
    service: ServiceState
    phase_timer: PhaseTimer


async def _requested(context: Context, stack_id: str, request: CreateRequest, abandon: Abandon) -> Requested:
    """Reserve the stack, and create its objects: the part of a create that sends requests, and needs a slot for that."""
    phase_timer = context.metrics.phase_timer()
    await context.gate.right_cluster()
    await require_served(context, request)
    abandon.check()
    crash_point("create.before_reserve")
    stack = await context.store.stacks.reserve(
        _new_stack(context, stack_id, request),
        claim=request.claim,
        limits=request.limits(context.config.limits),
    )
    phase_timer.end("reserve")
    crash_point("create.reserved")
    abandon.check()
    stack, service = await _objects(context, stack, request, abandon, phase_timer)
    return Requested(stack=stack, service=service, phase_timer=phase_timer)


async def _accepted(context: Context, request: CreateRequest, abandon: Abandon, requested: Requested) -> Stack:
    """Wait until a node has the stack, however long that takes, and complete it."""
    stack, service, phase_timer = requested.stack, requested.service, requested.phase_timer
    abandon.check()
    pod = await _scheduled(context, stack, abandon)
    phase_timer.end("schedule")
    if stack.routed:
        await until_accepted(context, stack)
        phase_timer.restart()
    crash_point("create.scheduled")
    abandon.check()
    stack = await context.store.stacks.accept(
        first_observation(context, stack, pod, service, node_exists=True),
        pod_uid=pod.uid,
        service_uid=service.uid,
        claim=request.claim,
        by=request.by,
    )
    phase_timer.end("accept")
    crash_point("create.accepted")
    stack_log(log, stack.stack_id).info("created on %s", stack.node_id)
    return stack


async def _objects(
    context: Context, stack: Stack, request: CreateRequest, abandon: Abandon, phase_timer: PhaseTimer
) -> tuple[Stack, ServiceState]:
    """Create pod, Service and routes at the same time. All outcomes are known when this returns or raises."""

    async def create_pod() -> None:
        pod = await context.cluster.create(PODS, pod_request(context, stack, request.spec))
        phase_timer.lap("pod")
        crash_point("create.pod_created")
        context.mirror.saw(pod)

    async def create_service() -> tuple[Stack, ServiceState]:
        exposed = await expose(context, stack, fresh=True, abandon=abandon)
        phase_timer.lap("service")
        crash_point("create.service_created")
        return exposed

    async def create_route(wanted_route: WantedRoute) -> None:
        context.mirror.saw(await context.cluster.create(ROUTES[wanted_route.resource], wanted_route.manifest))
        crash_point("create.route_created")

    pod, exposed, routed = await asyncio.gather(
        create_pod(), create_service(), gather_all(map(create_route, wanted(context, stack))), return_exceptions=True
    )
    if isinstance(pod, BaseException):
        raise pod
    if isinstance(exposed, BaseException):
        raise exposed
    if isinstance(routed, BaseException):
        raise routed
    phase_timer.restart()
    return exposed


def _new_stack(context: Context, stack_id: str, request: CreateRequest) -> Stack:
    now, template = context.wall_clock.now(), request.template
    ttl = context.config.stacks.ttl if request.ttl is None else request.ttl
    return Stack(
        stack_id=stack_id,
        namespace=context.config.stacks.namespace,
        pod_spec=request.spec.text,
        ports=named(context, request),
        status=StackStatus.CREATING,
        created_at=now,
        updated_at=now,
        ttl_expires_at=now + round(ttl * NANOSECONDS),
        requested_cpu_milli=request.spec.requested_cpu_milli,
        requested_memory_bytes=request.spec.requested_memory_bytes,
        labels=MappingProxyType(dict(request.labels)),
        unassigned=request.unassigned,
        template=template.name if template is not None else None,
        values=template.generate() if template is not None else NO_VALUES,
        digest=template.digest if template is not None else None,
    )


async def _scheduled(context: Context, stack: Stack, abandon: Abandon) -> PodState:
    """The pod once a node has it. Raises NoRoom if, after the grace, the scheduler says that no node takes it.

    Reopens the watch of pods if it stays silent meanwhile: its connection may be dead.
    """
    stacks, health, now = context.config.stacks, context.mirror.health_by_kind["pods"], context.clock.monotonic
    after_grace, pause, seen = now() + stacks.unschedulable_grace, SUSPECT_SECONDS, False
    end = max(after_grace, now() + stacks.scheduling_timeout)

    def scheduled(pod: PodState | None) -> PodState | None:
        nonlocal seen
        abandon.check()
        if pod is None:
            if seen:
                raise _Absent
            return None
        seen = True
        if pod.scheduled and pod.node_name:
            return pod
        if pod.scheduled is False and now() >= after_grace:
            raise NoRoom(NO_NODE, detail=pod.unschedulable_message)
        return None

    abandon.wake = lambda: context.mirror.wake(stack.pod_name)
    while True:
        # Usual: it has one already, because creating the Service takes longer than scheduling.
        over, until = now() >= end, min(end, now() + pause, after_grace if now() < after_grace else end)
        try:
            return await context.mirror.until(stack.pod_name, scheduled, timeout=until - now())
        except _Absent:
            seen, pod = False, await _existing(context, stack)
            if pod.scheduled and pod.node_name:
                return pod
            context.mirror.saw(pod)
        except TimeoutError:
            if over:
                return await _asked_for(context, stack)
            if health.staleness() >= SUSPECT_SECONDS:
                log.debug("the watch of pods has not reported %s; it is opened again", stack.pod_name)
                health.reopen()
                pause *= 2


class _Absent(Exception):
    """The mirror has the pod no more. A list may be old, or somebody has removed our labels: that proves nothing."""


async def _existing(context: Context, stack: Stack) -> PodState:
    """The pod as Kubernetes has it. Raises ClusterUnavailable if there is none."""
    if (pod := await context.cluster.get(PODS, stack.pod_name, timeout=ASK_SECONDS)) is None:
        raise ClusterUnavailable(DELETED)
    return pod


async def _asked_for(context: Context, stack: Stack) -> PodState:
    """Ask Kubernetes itself for the pod after the watch has shown no node in time: perhaps only the watch is slow.
    Raises NoRoom if the scheduler has found no node, and ClusterUnavailable if it has not decided yet."""
    pod = await _existing(context, stack)
    if pod.scheduled is False:
        raise NoRoom(NO_NODE, detail=pod.unschedulable_message)
    if not (pod.scheduled and pod.node_name):
        within = format_duration(context.config.stacks.scheduling_timeout)
        raise ClusterUnavailable(f"no node has taken the stack within {within}: the scheduler has not decided")
    log.warning("%s: the watch has not reported that it is on %s", stack.stack_id, pod.node_name)
    context.mirror.missed(pod)
    return pod


async def _undone(context: Context, stack_id: str) -> None:
    """Undo the create and wait a moment for that. The row keeps the intent, so nobody has to wait longer while
    Kubernetes does not answer or stackd stops."""
    contact = context.cluster.connection.contact
    waits = not (contact.lost or contact.failures or context.gate.closing)
    undo = context.tasks.spawn(f"undo {stack_id}", _undo(context, stack_id))
    try:
        await asyncio.wait({undo}, timeout=UNDO_SECONDS if waits else INTENT_SECONDS)
    finally:
        context.tasks.let_go(undo)


async def _undo(context: Context, stack_id: str) -> None:
    """Delete what was created; if that fails now, the row stays `deleting` and the delete is retried."""
    if not await context.store.stacks.mark_deleting([stack_id], DeleteReason.UNDO):
        return
    crash_point("create.undo_marked")
    try:
        await context.settle(stack_id)
    except StackdError as error:
        stack_log(log, stack_id).warning("the undo goes on in the background: %s", error)


async def take_back(context: Context, stack_id: str) -> None:
    """Undo a create that the end of the process interrupted, before it is made again. Raises as ``Context.settle``."""
    await context.store.stacks.mark_deleting([stack_id], DeleteReason.UNDO)
    crash_point("replay.undo_marked")
    await context.settle(stack_id)
    crash_point("replay.undone")


async def create_once(context: Context, request: CreateRequest) -> tuple[Stack, bool]:
    """The new stack and True, or the existing one and False; waits for an equal create under way.

    The existing one has all labels of the request; if there is none, LabelLimitReached is raised. Of any number of
    concurrent requests, one makes the stack. Raises as ``create`` does.
    """

    def decided(stack: Stack | None) -> tuple[Stack | None] | None:
        if stack is None or stack.deleting_since is not None:
            return (None,)
        return (stack,) if stack.accepted else None

    for _ in range(ONCE_TRIES):
        try:
            return await create(context, request), True
        except LabelLimitReached as error:
            if not error.same:
                raise
            result = await context.until(error.same, decided, ONCE_SECONDS)
            if result is None:
                raise
            if (existing := result[0]) is not None:
                return existing, False
    return await create(context, request), True


async def dry_run(context: Context, request: CreateRequest) -> None:
    """Let the cluster check the pod (Pod Security, LimitRange, ResourceQuota); check stackd's own limits and free ports.

    Returns if a create would pass these checks now; raises what it would raise. Does not check whether a node has room.
    """
    await context.gate.admitted()
    limits = request.limits(context.config.limits)
    await context.store.stacks.check(request.labels, ports=request.node_ports, limits=limits)
    stack = _new_stack(context, new_id("stack"), request)
    try:
        await context.cluster.create(PODS, pod_request(context, stack, request.spec), dry_run=True)
    except StackdError as error:
        hide_in(error, stack.values)
        if isinstance(error, ClusterError):
            raise ClusterUnavailable("the cluster cannot check the pod now", detail=str(error)) from error
        raise
