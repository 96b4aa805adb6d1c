"""Answer a create from a pool, and delete stacks of pools where a create finds no room.

Owns: which stack of a pool may be assigned (invariant 11): one whose pod, node and Service the mirror shows in order at
that moment, a running one before one that starts. One transaction gives the stack away. One patch of its Service then
makes it reachable and records whose it is, so that no answered create depends on the file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from time import perf_counter

from stackd.crashpoints import crash_point
from stackd.errors import ClusterUnavailable, NoNodePort, NotOwner, QuotaExceeded, StackdError
from stackd.kube.objects import NodeState, PodState, ServiceState
from stackd.lifecycle.capacity import free_on_nodes, needs_of, refresh_quotas
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.desired import WantedService, first_route_difference, has_pod, service_error
from stackd.lifecycle.loop import is_gone
from stackd.lifecycle.nodes import CPU, MEMORY, PODS, PORTS, lacking
from stackd.lifecycle.pools import has_failed, is_ready, is_starting
from stackd.lifecycle.transitions import intend_deletes
from stackd.lifecycle.view import current_pod, names, objects_of
from stackd.logs import stack_log
from stackd.model import DeleteReason, Stack
from stackd.store import Assignment
from stackd.templates import Template
from stackd.timing import AFTER_PREEMPTION_SECONDS, FIRST_PAUSE, PREEMPTION_SECONDS

log = logging.getLogger(__name__)

MOST_DELETED = 8  # at most this many stacks of pools are deleted each time a create preempts


def pool_for(context: Context, request: CreateRequest) -> Template | None:
    """The template whose pool can answer the create; None if there is no such pool, or what it sets differs."""
    if request.env:
        return None
    template = request.template or context.settings.templates.pooled_as(request.spec, request.target_ports)
    return template if template is not None and template.pool and request.may_use(template.name) else None


async def assign(context: Context, request: CreateRequest) -> Stack | None:
    """Give a stack of a pool to this create and return it; None if there is none to give.

    A returned stack survives ``kill -9``
    and the loss of the file. Raises ClusterUnavailable, NotOwner; and LabelLimitReached, Unavailable, Conflict and
    StoreUnavailable as the reservation of a new stack would: then no stack is assigned.
    """
    template = pool_for(context, request)
    if template is None:
        return None
    began = perf_counter()
    await context.gate.right_cluster()
    pool, stack = context.pools.of(template.name), await _assign_first(context, template, request)
    if stack is None:
        pool.misses += 1
        return None
    pool.hits += 1
    context.metrics.assigned(perf_counter() - began, stack.template)
    stack_log(log, stack.stack_id).debug("assigned from the pool of %s", template.name)
    return stack


async def _assign_first(context: Context, template: Template, request: CreateRequest) -> Stack | None:
    taken: list[str] = []
    try:
        while (pooled := context.pools.pick(template.digest)) is not None:
            taken.append(pooled.stack_id)
            if not _in_order(context, pooled):
                continue
            crash_point("assign.picked")
            context.fence.require()
            new = replace(request, template=template).stack(
                context, pooled.stack_id
            )  # a pod spec may be the template's
            wanted = Assignment(stack=new, by=request.by, limits=request.limits(context.config.limits))
            stack = await context.store.stacks.assign(wanted, claim=request.claim)
            if stack is not None:
                crash_point("assign.assigned")
                if await _make_reachable(context, stack):
                    return stack
        return None
    finally:
        context.pools.release(taken)


async def until_reachable(context: Context, stack_id: str) -> None:
    """Return once a stack that was assigned from a pool is reachable, and the cluster has the record of that. Raises as
    ``Loop.reconcile_until``: after ``Context.longest_turn``, because the undo deletes a running stack, and slow is not broken."""

    def is_reachable(row: Stack | None) -> bool | None:
        if row is None or not has_pod(row):
            return True
        service = context.mirror.services.get(row.service_name)
        return True if service is not None and not (service.once_assigned or service.pool) else None

    await context.loop.reconcile_until(stack_id, is_reachable, context.longest_turn)


async def _make_reachable(context: Context, stack: Stack) -> bool:
    """Make the stack reachable, and have the cluster record whose it is; only then may the create be answered.
    Otherwise the stack is undone: False if its pod is gone, else ClusterUnavailable or NotOwner is raised."""
    try:
        async with context.pools.patching:
            await until_reachable(context, stack.stack_id)
        context.fence.require()
        crash_point("assign.opened")
    except StackdError as error:
        stack_log(log, stack.stack_id).warning("assigned from a pool, and undone: %s", error)
        await intend_deletes(context, [stack.stack_id], DeleteReason.UNDO)
        if current_pod(context, stack) is None:
            return False
        if isinstance(error, ClusterUnavailable | NotOwner):
            raise
        raise ClusterUnavailable(f"{stack.stack_id} cannot be assigned now", detail=str(error)) from error
    return True


def _in_order(context: Context, stack: Stack) -> bool:
    pod = current_pod(context, stack)
    node = context.mirror.nodes.get(pod.node_name) if pod is not None and pod.node_name else None
    objects = objects_of(context, stack)
    if objects.service is None or context.loop.queue.at_work(stack.stack_id):
        return False
    if first_route_difference(objects.named, names(context, objects)) is not None:
        return False
    return may_be_assigned(stack, pod, context.mirror.services.get(stack.service_name), node, objects.service)


def may_be_assigned(
    stack: Stack, pod: PodState | None, service: ServiceState | None, node: NodeState | None, wanted: WantedService
) -> bool:
    """Whether everything known about the stack says that it runs, or will, and can be reached once assigned. Pure."""
    return (
        has_pod(stack)
        and pod is not None
        and pod.uid == stack.pod_uid
        and pod.stack_id == stack.stack_id
        and (is_starting(stack) or (is_ready(stack) and pod.phase == "Running" and pod.ready))
        and not pod.deleting
        and bool(pod.pool)
        and not pod.assigned
        and node is not None
        and node.ready
        and not node.unschedulable
        and service is not None
        and not service.deleting
        and pod.instance == service.instance  # else the watch does not report the pod
        and service.once_assigned
        and service_error(wanted, service) is None
    )


async def preempt(context: Context, request: CreateRequest, error: StackdError) -> bool:
    """Delete unassigned stacks of other templates if that makes room for this create; True if it is worth another try.

    ``error`` is what the create has met: NoNodePort, NoRoom or QuotaExceeded. Waits until the stacks are gone, for at
    most ``PREEMPTION_SECONDS``.
    """
    if isinstance(error, QuotaExceeded):
        await refresh_quotas(context, asked=True)
    async with context.pools.preempting:
        victims = _victims(context, request, error)
        if not victims:
            return False
        now = context.clock.monotonic()
        context.spares.pause(now + AFTER_PREEMPTION_SECONDS)
        for name, pool in context.pools.by_name.items():  # no pool may take the room that is freed for a client
            pool.pause(now + FIRST_PAUSE)
            if any(stack.template == name for stack in victims):
                pool.pause(now + AFTER_PREEMPTION_SECONDS, "paused: stacks were deleted to free capacity for creates")
        marked = await context.store.stacks.mark_deleting([stack.stack_id for stack in victims], DeleteReason.POOL)
    crash_point("pool.preempted")

    async def delete(stack_id: str) -> None:
        try:
            await context.loop.reconcile_until(stack_id, is_gone, PREEMPTION_SECONDS)
        except StackdError as error:
            stack_log(log, stack_id).info("delete retried in the background: %s", error)

    for stack in marked:
        extra, where = (
            {"same": "preempted"},
            f"the pool of {stack.template}" if stack.template else "the spare Services",
        )
        log.info("%s: deleted from %s: %s", stack.stack_id, where, error, extra=extra)
    deletes = {context.tasks.spawn(f"preempt {stack.stack_id}", delete(stack.stack_id)) for stack in marked}
    if deletes:
        await asyncio.wait(deletes, timeout=PREEMPTION_SECONDS)
    for task in deletes:
        context.tasks.let_go(task)
    return bool(marked)


def _victims(context: Context, request: CreateRequest, error: StackdError) -> list[Stack]:
    """The stacks to delete to make room; empty if even all candidates would not be enough."""
    own = pool_for(context, request)
    others = [pool for name, pool in context.pools.by_name.items() if own is None or name != own.name]
    pooled = [row for pool in others for row in pool.waits.values() if row.accepted and row.deleting_since is None]
    pooled.sort(key=lambda row: (not has_failed(row), is_ready(row), -row.created_at))
    spares = [*context.spares.rows.values(), *pooled]  # which hold nothing but a node port
    if isinstance(error, NoNodePort):
        ports = context.store.ports
        return _enough_of(spares, ports=request.node_ports - (ports.free - len(ports.spare)))
    cpu, memory = request.spec.requested_cpu_milli, request.spec.requested_memory_bytes
    if isinstance(error, QuotaExceeded):
        lacks = lacking(context.facts.quotas.objects, needs_of(context, request))
        return _enough_of(spares if lacks.keys() <= {PORTS} else pooled, **lacks)
    victims = []
    for node, free in free_on_nodes(context):
        there = [stack for stack in pooled if stack.node_id == node]
        missing = {CPU: cpu - free[CPU], MEMORY: memory - free[MEMORY], PODS: 1 - free[PODS]}
        victims.append(_enough_of(there, **missing))
    return min(filter(None, victims), key=len, default=[])


def _enough_of(stacks: Iterable[Stack], *, ports: int = 0, cpu: int = 0, memory: int = 0, pods: int = 0) -> list[Stack]:
    """The first of ``stacks`` that free this much, at least one; none if that takes too many or is not possible."""
    chosen: list[Stack] = []
    for stack in stacks:
        chosen.append(stack)
        ports, pods = ports - (len(stack.node_ports) if stack.ports_held else 0), pods - 1
        if not stack.ended:
            cpu, memory = cpu - stack.requested_cpu_milli, memory - stack.requested_memory_bytes
        if max(ports, cpu, memory, pods) <= 0:
            return chosen
        if len(chosen) == MOST_DELETED:
            return []
    return []
