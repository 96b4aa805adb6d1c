"""Answer a create from a pool, and delete stacks of pools where a create finds no room.

Owns: which stack of a pool may be given (invariant 11): one whose pod, node and Service the mirror shows in order at
that moment. One transaction then gives the stack away, without a call to Kubernetes. ``annotations`` then writes on
its pod to whom, in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from time import perf_counter

from stackd.clock import NANOSECONDS
from stackd.errors import NoNodePort, NoRoom, NotOwner, StackdError
from stackd.kube.objects import NodeState, PodState, ServiceState
from stackd.lifecycle.annotations import ANNOTATE_AFTER_SECONDS
from stackd.lifecycle.capacity import free_on_nodes
from stackd.lifecycle.context import Context, current_pod
from stackd.lifecycle.crashpoints import crash_point
from stackd.lifecycle.create_request import Abandon, CreateRequest
from stackd.lifecycle.delete import finish_delete
from stackd.lifecycle.needs import CPU, MEMORY, PODS, PORTS, short_of
from stackd.lifecycle.plan import service_trouble, wants_service
from stackd.lifecycle.pools import AFTER_PREEMPTION_SECONDS, FIRST_PAUSE, Given, Pool, has_failed, is_held, is_ready
from stackd.logs import stack_log
from stackd.model import DeleteReason, Stack
from stackd.store import Assignment
from stackd.templates import Template
from stackd.waiters import set_within

log = logging.getLogger(__name__)

MOST_DELETED = 8
"""At most this many stacks of pools are deleted each time a create preempts."""

COMING_SECONDS = 0.05
"""How often a waiting create checks whether a stack of its pool is ready."""

NEXT_SECONDS = 1.0
"""A create waits at most this long for the next stack of its empty pool before it makes one itself."""

IN_VAIN_SECONDS = 30.0
"""After a create has waited for a pool's next stack and got none, no create waits for that pool for this long."""

PREEMPTION_SECONDS = 20.0
"""How long a create waits until preempted stacks are gone, or until a stack that its pool is making is ready."""


def pool_for(context: Context, request: CreateRequest) -> Template | None:
    """The template whose pool can answer the create; None if there is no such pool."""
    template = request.template or context.settings.templates.pooled_as(request.spec, request.target_ports)
    return template if template is not None and template.pool else None


async def assign(context: Context, request: CreateRequest, *, once_more: bool = False) -> Stack | None:
    """Give a stack of a pool to this create and return it; None if there is none to give.

    ``once_more``: the create has looked before, and its miss is counted already. Otherwise creates that wait for the
    next stack come first. A returned stack survives ``kill -9``. Raises ClusterUnavailable, NotOwner; and
    LabelLimitReached, Unavailable, Conflict and StoreUnavailable as the reservation of a new stack would: then no stack
    is given.
    """
    template = pool_for(context, request)
    if template is None:
        return None
    began, pace = perf_counter(), context.pools.pace
    if not once_more:  # repeated looks are not counted as a burst
        pace.begun(context.clock.monotonic())
    try:
        await context.right_cluster()
        pool, stack = context.pools.of(template.name), None
        if once_more or context.pools.free(template.digest) > context.pools.waiting(template.digest):
            stack = await _assign_first(context, template, request)
    finally:
        if not once_more:
            pace.done()
    if stack is None:
        pool.misses += not once_more
        return None
    now = context.clock.monotonic()
    context.given.add(Given(stack_id=stack.stack_id, at=now), at=now + ANNOTATE_AFTER_SECONDS)
    pool.hits += 1
    context.metrics.assigned(perf_counter() - began)
    stack_log(log, stack.stack_id).debug("given from the pool of %s", template.name)
    return stack


async def assign_next(context: Context, request: CreateRequest, abandon: Abandon) -> Stack | None:
    """The next stack of the create's own pool that becomes ready, if that is sooner than making a new one.

    None if it is better to make a stack for the create. Raises as ``assign``.
    """
    template = pool_for(context, request)
    if template is None:
        return None
    pool, began = context.pools.of(template.name), context.clock.monotonic()
    if not next_is_sooner(pool, template.digest, context.pools.waiting(template.digest), began):
        return None
    given, now = await _next_of(context, template, request, abandon, NEXT_SECONDS), context.clock.monotonic()
    if given is None and now - began >= NEXT_SECONDS:
        pool.in_vain_until = now + IN_VAIN_SECONDS
    return given


async def assign_when_made(context: Context, request: CreateRequest, abandon: Abandon) -> Stack | None:
    """A stack that is being made for the create's own pool, as soon as it is ready: the pool has taken the last room.

    None if no such stack is being made, or none becomes ready in time. Raises as ``assign``.
    """
    template = pool_for(context, request)
    if template is None:
        return None
    return await _next_of(context, template, request, abandon, PREEMPTION_SECONDS)


async def _next_of(
    context: Context, template: Template, request: CreateRequest, abandon: Abandon, seconds: float
) -> Stack | None:
    """The next stack of the template's pool for this create; waiting creates get stacks in the order of their arrival.

    None if the client has left, no stack is on its way into the pool, or the time is up.
    """
    pools, pool, digest = context.pools, context.pools.of(template.name), template.digest
    until = context.clock.monotonic() + seconds
    with pools.in_line(digest) as waiting:
        while not abandon.abandoned:
            coming = pool.coming(digest)  # before the try: a stack that arrives meanwhile is not coming any more
            waiting.taking = pools.has_turn(digest, waiting)
            if waiting.taking and (given := await assign(context, request, once_more=True)) is not None:
                return given
            waiting.taking = False
            left = until - context.clock.monotonic()
            if left <= 0 or not (coming or waiting.notified.is_set()):
                break
            # Polls as well: a change of the pod alone changes no row, so it does not set ``notified``.
            await set_within(waiting.notified, min(COMING_SECONDS, left))
            waiting.notified.clear()
    return None


def next_is_sooner(pool: Pool, digest: str, waiting: int, now: float) -> bool:
    """Whether the pool gives this create, behind ``waiting`` others, a stack sooner than a new one would be made. Pure.

    Stacks that are being made are half way on average, so half of them are ready before a new one.
    """
    return 2 * (waiting + 1) <= pool.coming(digest) and now >= pool.in_vain_until


async def _assign_first(context: Context, template: Template, request: CreateRequest) -> Stack | None:
    taken: list[str] = []
    try:
        while (pooled := context.pools.take(template.digest)) is not None:
            taken.append(pooled.stack_id)
            if not _in_order(context, pooled):
                continue
            crash_point("assign.picked")
            context.fence.require()
            wanted = _assignment(context, pooled.stack_id, template, request)
            stack = await context.store.stacks.assign(wanted, claim=request.claim, answer=request.answer)
            if stack is not None:
                crash_point("assign.assigned")
                await _require_ownership(context, stack, request)
                return stack
        return None
    finally:
        context.pools.put_back(taken)


async def _require_ownership(context: Context, stack: Stack, request: CreateRequest) -> None:
    """Raise NotOwner if another stackd may own the stack by now: then this stackd cannot promise it.

    Without an Idempotency-Key the stack is marked for deletion. With one it stays: the client asks again and gets it.
    """
    try:
        context.fence.require()
    except NotOwner:
        if request.claim is None:
            await context.store.stacks.mark_deleting([stack.stack_id], DeleteReason.UNDO)
            context.removals.add(stack.stack_id)
        raise


def _assignment(context: Context, stack_id: str, template: Template, request: CreateRequest) -> Assignment:
    now = context.wall_clock.now()
    ttl = context.config.stacks.ttl if request.ttl is None else request.ttl
    return Assignment(
        stack_id=stack_id,
        digest=template.digest,
        created_at=now,
        ttl_expires_at=now + round(ttl * NANOSECONDS),
        by=request.by,
        labels=request.labels,
        max_stacks=context.config.limits.max_stacks or None,
        label_limits=context.config.limits.stacks_per_label,
    )


def _in_order(context: Context, stack: Stack) -> bool:
    pod = current_pod(context, stack)
    node = context.mirror.nodes.get(pod.node_name) if pod is not None and pod.node_name else None
    seen = may_be_given(stack, pod, context.mirror.services.get(stack.service_name), node)
    return seen and not context.locks.busy(stack.stack_id)


def may_be_given(stack: Stack, pod: PodState | None, service: ServiceState | None, node: NodeState | None) -> bool:
    """Whether everything known about the stack says that it can be reached and used now. Pure."""
    return (
        is_ready(stack)
        and wants_service(stack)
        and pod is not None
        and pod.uid == stack.pod_uid
        and pod.phase == "Running"
        and pod.ready
        and not pod.deleting
        and node is not None
        and node.ready
        and service is not None
        and not service.deleting
        and not service_trouble(stack, service)
    )


async def preempt(context: Context, request: CreateRequest, error: StackdError) -> bool:
    """Delete unassigned stacks of other templates if that makes room for this create; True if it is worth another try.

    Held stacks of any template are candidates too, but last. A create for a pool may displace only held stacks.
    ``error`` is what the create has met: NoNodePort, NoRoom or QuotaExceeded. Waits until the stacks are gone, for at
    most ``PREEMPTION_SECONDS``.
    """
    victims = {stack.stack_id: stack for stack in _victims(context, request, error)}
    if not victims:
        return False
    now = context.clock.monotonic()
    for name in {stack.template or "" for stack in victims.values() if not is_held(stack)}:
        context.pools.of(name).preempted(now + AFTER_PREEMPTION_SECONDS)
    if not request.unassigned:
        for pool in context.pools.by_name.values():  # no pool may take the room that is freed for a client
            pool.put_off(now + FIRST_PAUSE)
    context.pools.preempting |= victims.keys()
    try:
        marked = await context.store.stacks.mark_deleting(victims, DeleteReason.POOL)
    finally:
        context.pools.preempting -= victims.keys()
    crash_point("pool.preempted")
    for stack in marked:
        log.info(
            "%s: deleted from the pool of %s: %s", stack.stack_id, stack.template, error, extra={"same": "preempted"}
        )
    deletes = {context.tasks.spawn(f"preempt {stack.stack_id}", _delete(context, stack.stack_id)) for stack in marked}
    if deletes:
        await asyncio.wait(deletes, timeout=PREEMPTION_SECONDS)
    for delete in deletes:
        context.tasks.let_go(delete)
    return bool(marked)


async def _delete(context: Context, stack_id: str) -> None:
    try:
        with context.deleting(stack_id):
            await finish_delete(context, stack_id)
    except StackdError as error:
        context.removals.retry(stack_id)
        stack_log(log, stack_id).info("delete retried in the background: %s", error)


def _victims(context: Context, request: CreateRequest, error: StackdError) -> list[Stack]:
    """The stacks to delete to make room; empty if even all candidates would not be enough."""
    own = pool_for(context, request)
    others = _spare(context, own.name if own is not None else "")
    spare = sorted((stack for stack in others if not request.unassigned or is_held(stack)), key=_least_wanted)
    if isinstance(error, NoNodePort):
        return _enough_of(spare, ports=len(request.target_ports))
    cpu, memory = request.spec.requested_cpu_milli, request.spec.requested_memory_bytes
    whole = {CPU: cpu, MEMORY: memory}
    if not isinstance(error, NoRoom):
        return _enough_of(spare, **(short_of(error.sentence) or {PORTS: len(request.target_ports), **whole}))
    found = []
    for node, free in free_on_nodes(context):
        there = [stack for stack in spare if stack.node_id == node]
        missing = {"cpu": cpu - free[CPU], "memory": memory - free[MEMORY], "pods": 1 - free[PODS]}
        if victims := _enough_of(there, **missing):
            found.append(victims)
    return min(found, key=len, default=[])


def _spare(context: Context, apart_from: str) -> Iterator[Stack]:
    preempting = context.pools.preempting
    for name, pool in context.pools.by_name.items():
        for row in pool.waits.values():
            usable = name == apart_from and not is_held(row)
            if row.accepted and row.deleting_since is None and row.stack_id not in preempting and not usable:
                yield row


def _least_wanted(stack: Stack) -> tuple[bool, bool, bool, int]:
    """The sort key of candidates; held stacks may belong to somebody, so they come last."""
    return is_held(stack), not has_failed(stack), is_ready(stack), -stack.created_at


def _enough_of(spare: Iterable[Stack], *, ports: int = 0, cpu: int = 0, memory: int = 0, pods: int = 0) -> list[Stack]:
    """The first of ``spare`` that free this much, at least one; none if that takes too many or is not possible."""
    chosen: list[Stack] = []
    for stack in spare:
        chosen.append(stack)
        ports, pods = ports - (len(stack.ports) if stack.ports_held else 0), pods - 1
        if not stack.ended:
            cpu, memory = cpu - stack.requested_cpu_milli, memory - stack.requested_memory_bytes
        if max(ports, cpu, memory, pods) <= 0:
            return chosen
        if len(chosen) == MOST_DELETED:
            return []
    return []
