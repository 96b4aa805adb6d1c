"""Create a stack: commit its row, have the loop reconcile it, and wait until the row says that a node has it; if that fails,
all of it is undone.

Owns: the waiting, the undo, and the ports of a new stack. A client that leaves only makes it undo itself, so the outcome of
every call is known before the undo begins.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from stackd.crashpoints import crash_point
from stackd.errors import (
    ClusterError,
    ClusterUnavailable,
    LabelLimitReached,
    NoNodePort,
    NoRoom,
    NotYet,
    QuotaExceeded,
    StackdError,
    StackNotFound,
)
from stackd.kube.objects import PODS
from stackd.kube.rights import on_stacks
from stackd.kube.routes import resource_of
from stackd.kube.wire import NETWORK_POLICIES
from stackd.lifecycle.apply import pod_request
from stackd.lifecycle.assign import assign, preempt
from stackd.lifecycle.context import Context, CreateRequest, Creation, new_id
from stackd.lifecycle.decide import NO_NODE, POD_DELETED
from stackd.lifecycle.loop import Priority, is_gone
from stackd.lifecycle.transitions import intend_undo
from stackd.logs import stack_log
from stackd.model import PortMapping, Route, RoutedPort, RoutedTarget, Stack, TargetPort
from stackd.names import DEFAULT_PREFIX, new_hostname
from stackd.templates.hiding import hide_in
from stackd.timing import (
    EQUAL_CREATE_SECONDS,
    INTENT_SECONDS,
    LAST_ASK_SECONDS,
    ROUTES_LISTED_SECONDS,
    SUSPECT_SECONDS,
    UNDO_SECONDS,
)
from stackd.units import format_duration

log = logging.getLogger(__name__)

ONCE_TRIES = 5
# How many times one create may delete stacks of pools: for a node port, for the quota, for a node's room.
PREEMPTIONS = 3
QUIET_SECONDS = 1.0  # no spare Service is made within this time after a create, so that none is slower because of it


async def create(context: Context, request: CreateRequest) -> Stack:
    """Create a stack, or take one from a pool, and return it as soon as a node has it. The returned stack survives
    ``kill -9``. If there is no room for it, stacks of pools are deleted.

    If the caller is cancelled, the stack is undone, except under an Idempotency-Key: then the client will ask again.
    Raises NoNodePort, QuotaExceeded, NoRoom, LimitRangeViolation, InvalidPodSpec, ClusterUnavailable, StoreUnavailable,
    LabelLimitReached, Held and ShuttingDown. In each of these cases the row says that the stack is undone, or there is none;
    what Kubernetes has not deleted by then, the loop deletes afterwards.
    """
    caller = Caller()
    try:
        return await context.tasks.run("create", _create(context, request, caller))
    except asyncio.CancelledError:
        if request.claim is None:
            caller.has_left = True
            if caller.stack_id:
                context.abandon_create(caller.stack_id)
            if caller.got:
                context.tasks.background(f"undo {caller.stack_id}", _undo(context, caller.stack_id))
        raise


@dataclass(slots=True, kw_only=True)
class Caller:
    """Who waits for a create; ``stack_id`` is what is made for it, ``got``: it was completed."""

    stack_id: str = ""
    got: bool = False
    has_left: bool = False

    def check(self) -> None:
        """Raise ClusterUnavailable if the caller has left."""
        if self.has_left:
            raise ClusterUnavailable("the create was abandoned")


async def create_for_template(context: Context, request: CreateRequest) -> Stack:
    """Make a stack for a pool, or a shared one. Raises as ``create`` does, and undoes it then."""
    return await _made(context, request, Caller())


async def _create(context: Context, request: CreateRequest, caller: Caller) -> Stack:
    try:
        await context.gate.admitted()
        template, now = request.template, context.wall_clock.now()
        if template is not None and (closed := template.hours.why_closed(template.name, now)):
            raise closed
        stack = await _assigned_or_made(context, request, caller)
        stack = await context.store.stacks.with_pod_spec(stack)
        caller.stack_id = stack.stack_id
        if caller.has_left:
            await _undone(context, stack.stack_id)
        caller.check()
        caller.got = True
    except BaseException as error:
        context.metrics.create_ended(error)
        raise
    context.metrics.create_ended(None)
    return stack


async def _assigned_or_made(context: Context, request: CreateRequest, caller: Caller) -> Stack:
    if (pooled := await assign(context, request)) is not None:
        return pooled
    for preemptions in range(PREEMPTIONS + 1):
        try:
            return await _made(context, request, caller)
        except (NoNodePort, NoRoom, QuotaExceeded) as error:
            if caller.has_left or preemptions == PREEMPTIONS or not await preempt(context, request, error):
                raise
        log.info("deleted pooled stacks to free capacity; retrying the create")
    raise AssertionError("unreachable")


async def _made(context: Context, request: CreateRequest, caller: Caller) -> Stack:
    """Commit the row, and wait until it says that a node has the stack."""
    spare = None if request.for_template else context.spares.take(request.target_ports, context.mirror)
    stack_id = caller.stack_id = new_id("stack") if spare is None else spare.stack_id
    creation = context.creates[stack_id] = Creation(request=request, timer=context.metrics.phase_timer())
    try:
        if not await _reserve(context, stack_id, creation, spare=spare is not None):
            return await _made(context, request, caller)  # the spare is gone
        stack = await _accepted(context, stack_id, creation)
        context.fence.require()  # otherwise nobody is told of it
        return stack
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
        context.creates.pop(stack_id, None)
        context.spares.pause(context.clock.monotonic() + QUIET_SECONDS)
        context.spares.put_back(spare and context.store.stacks.get(stack_id))


async def _reserve(context: Context, stack_id: str, creation: Creation, *, spare: bool) -> bool:
    """Commit the row; False if the spare of this id is gone."""
    request = creation.request
    await require_served(context, request)
    creation.check()
    crash_point("create.before_reserve")
    stack = request.stack(context, stack_id, named(context, request))
    reserve = context.store.stacks.take_spare if spare else context.store.stacks.reserve
    if await reserve(stack, claim=request.claim, limits=request.limits(context.config.limits)) is None:
        return False
    creation.timer.end("reserve")
    crash_point("create.reserved")
    creation.check()
    return True


async def _accepted(context: Context, stack_id: str, creation: Creation) -> Stack:
    """The row once a node has the stack. Raises NoRoom if no node takes it.

    The time for that begins when its objects are made: until then it waits for a slot, or for the answers to its requests,
    which have deadlines of their own. Reopens the watch of pods if it stays silent: its connection may be dead.
    """
    health, stacks, now = context.mirror.health_by_kind[PODS.resource], context.config.stacks, context.clock.monotonic
    pause, longest = SUSPECT_SECONDS, max(stacks.scheduling_timeout, stacks.unschedulable_grace)

    def accepted(row: Stack | None) -> Stack | None:
        creation.check()
        if row is None or row.deleting_since is not None:
            raise StackNotFound(stack_id)
        return row if row.accepted else None

    priority, still = Priority.POOL if creation.request.unassigned else Priority.WAITED, False
    while creation.made_at is None or now() < creation.made_at + longest:
        left = longest if creation.made_at is None else creation.made_at + longest - now()
        try:
            return await context.loop.reconcile_until(stack_id, accepted, min(pause, left), priority, still=still)
        except NotYet:
            still = True
        if creation.made_at is not None and health.staleness() >= SUSPECT_SECONDS:
            log.debug("the watch of pods has not reported %s; it is opened again", stack_id)
            health.reconnect()
            pause *= 2
    await _ask_for(context, stack_id)
    return await context.loop.reconcile_until(stack_id, accepted, LAST_ASK_SECONDS)


async def _ask_for(context: Context, stack_id: str) -> None:
    """Ask Kubernetes itself for the pod after the watch has shown no node in time: perhaps only the watch is slow.
    Raises NoRoom if the scheduler has found no node, and ClusterUnavailable if it has not decided yet."""
    pod = await context.cluster.get(PODS, stack_id, timeout=LAST_ASK_SECONDS)
    if pod is None:
        raise ClusterUnavailable(POD_DELETED)
    if pod.scheduled is False:
        raise NoRoom(NO_NODE, detail=pod.unschedulable_message)
    if not (pod.scheduled and pod.node_name):
        within = format_duration(context.config.stacks.scheduling_timeout)
        raise ClusterUnavailable(f"no node has taken the stack within {within}: the scheduler has not decided")
    log.warning("%s: the watch has not reported that it is on %s", stack_id, pod.node_name)
    context.mirror.missed(pod)
    context.mirror.keep(pod)


async def _undone(context: Context, stack_id: str) -> None:
    """Undo the create and wait a moment for that. The row keeps the intent, so nobody has to wait longer while
    Kubernetes does not answer or stackd stops. A spare that was not taken stays."""
    row = context.store.stacks.get(stack_id)
    if row is None or row.spare:
        return
    contact = context.cluster.connection.contact
    waits = not (contact.lost or contact.failures or context.gate.closing)
    undo = context.tasks.spawn(f"undo {stack_id}", _undo(context, stack_id))
    try:
        await asyncio.wait({undo}, timeout=UNDO_SECONDS if waits else INTENT_SECONDS)
    finally:
        context.tasks.let_go(undo)


async def _undo(context: Context, stack_id: str) -> None:
    """Delete what was created; if that fails now, the row stays `deleting` and the delete is retried."""
    try:
        await take_back(context, stack_id)
    except StackdError as error:
        stack_log(log, stack_id).warning("the undo goes on in the background: %s", error)


async def take_back(context: Context, stack_id: str) -> None:
    """Undo a create that the end of the process interrupted, before it is made again. Raises as ``Loop.reconcile_until``."""
    await intend_undo(context, stack_id)
    await context.loop.reconcile_until(stack_id, is_gone, context.longest_call)


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
            result = await context.loop.until(error.same, decided, EQUAL_CREATE_SECONDS)
            if result is None:
                raise
            if (existing := result[0]) is not None:
                if request.quotas and existing.template != (request.template and request.template.name):
                    raise  # a player asks for a stack of this template, not for any
                return existing, False
    return await create(context, request), True


async def dry_run(context: Context, request: CreateRequest) -> None:
    """Let the cluster check the pod (Pod Security, LimitRange, ResourceQuota); check stackd's own limits and free ports.

    Returns if a create would pass these checks now; raises what it would raise. Does not check whether a node has room.
    """
    await context.gate.admitted()
    limits = request.limits(context.config.limits)
    await context.store.stacks.check(request.labels, ports=request.node_ports, cost=request.cost, limits=limits)
    stack = request.stack(context, new_id("stack"), named(context, request))
    try:
        for member in (None, *stack.members):
            await context.cluster.create(PODS, pod_request(context, stack, request.spec, member), dry_run=True)
    except StackdError as error:
        hide_in(error, stack.values)
        if isinstance(error, ClusterError):
            raise ClusterUnavailable("the cluster cannot check the pod now", detail=str(error)) from error
        raise


# ---- the ports of a new stack


def named(context: Context, request: CreateRequest) -> tuple[PortMapping, ...]:
    """The ports of a new stack; each routed one has its name, the others have no node port yet."""
    config = context.config.routes
    template = request.template
    prefix = template.route_prefix if template is not None else DEFAULT_PREFIX
    node_ports, names = (template.node_ports, template.hostnames) if template and request.shared else ({}, {})

    def with_name(port: TargetPort) -> PortMapping:
        if not isinstance(port, RoutedTarget):
            fixed = node_ports.get(port.container_port, 0)
            return PortMapping(container_port=port.container_port, protocol=port.protocol, node_port=fixed)
        number = {Route.HTTP: config.http_port, Route.HTTPS: config.port, Route.TLS: config.tls_port}[port.route]
        default = {Route.HTTP: 80, Route.HTTPS: 443}.get(port.route)
        fixed_name = names.get(port.container_port)
        hostname = f"{fixed_name}.{config.domain}" if fixed_name else new_hostname(prefix, config.domain)
        host = hostname if number == default else f"{hostname}:{number}"
        return RoutedPort(container_port=port.container_port, protocol=port.protocol, route=port.route, host=host)

    return tuple(map(with_name, request.target_ports))


async def require_served(context: Context, request: CreateRequest) -> None:
    """Raise ClusterUnavailable if the cluster does not serve the kinds of routes and policies that the create needs."""
    for kind in {resource_of(port.route) for port in request.target_ports if isinstance(port, RoutedTarget)}:
        health = context.mirror.extra_health[kind]
        if not await context.mirror.until_known(kind, 0.0 if health.last_error else ROUTES_LISTED_SECONDS):
            why = health.last_error or f"the {kind} of the cluster were not listed yet"
            raise ClusterUnavailable("no port can get a name now", detail=why)
    if request.spec.members:
        await _require_policies(context)


async def _require_policies(context: Context) -> None:
    """Raise ClusterUnavailable if stackd may not write the NetworkPolicies of a stack with members: what is begun could not be
    undone either."""
    needs, facts = on_stacks(context.config.stacks.namespace, (NETWORK_POLICIES,)), context.facts
    if not facts.may_write_policies:
        facts.may_write_policies = not await context.cluster.refused(
            [one for one in needs if one.resource == NETWORK_POLICIES]
        )
    if facts.may_write_policies:
        context.mirror.also_follow(NETWORK_POLICIES)
        if await context.mirror.until_known(NETWORK_POLICIES, ROUTES_LISTED_SECONDS):
            return
    raise ClusterUnavailable(
        "a stack with members has NetworkPolicies of its own, which stackd cannot write now",
        detail="its rights are those that `stackd manifests --members 2` prints: "
        + (context.mirror.extra_health[NETWORK_POLICIES].last_error or "it lacks them"),
    )
