"""How many more stacks would fit, from the mirror, the rows and the quotas as last seen; and their background refresh, which runs
only while somebody asks. The arithmetic is in ``nodes``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import aclosing
from typing import Any

from stackd import contract
from stackd.clock import from_nanoseconds
from stackd.errors import ClusterError, ClusterUnavailable
from stackd.lifecycle.context import Context, CreateRequest
from stackd.lifecycle.nodes import (
    ASSUMES,
    PORTS,
    SERVICE_QUOTAS,
    Bound,
    StackResources,
    Storage,
    by_nodes,
    by_quotas,
    default_storage,
    eligible,
    fits,
    free_of,
    of_pod,
)
from stackd.lifecycle.view import member_pods, own_pods
from stackd.model import Stack
from stackd.quantity import NANO
from stackd.timing import INTEREST_SECONDS, PORTS_LIMIT_SECONDS, PORTS_SECONDS

log = logging.getLogger(__name__)

QUOTA, MAX_STACKS = "quota", "max_stacks"


def storage(context: Context) -> Storage:
    """The disk that a container gets if it requests none, by the LimitRanges as last seen."""
    return default_storage(context.settings.policy.max_ephemeral_storage, context.facts.quotas.limit_ranges)


def needs_of(context: Context, request: CreateRequest) -> StackResources:
    spec = request.spec
    need = StackResources(
        cpu_milli=spec.requested_cpu_milli,
        memory_bytes=spec.requested_memory_bytes,
        ports=request.node_ports,
        pods=1 + len(spec.members),
    )
    for manifest in (spec.manifest, *spec.members.values()):
        need = need.with_storage(manifest, storage(context))
    return need


def capacity(context: Context, need: StackResources) -> contract.Capacity:
    """How many more stacks with these needs fit. Makes no request; tells the quota cache that somebody asks. What pooled
    stacks take counts as free."""
    quotas, store = context.facts.quotas, context.store
    quotas.wanted_at = context.clock.monotonic()
    pooled = [stack for stack in store.stacks.ordered() if stack.unassigned and stack.deleting_since is None]
    fitting = {name: fits(free, need) for name, free in free_on_nodes(context, apart_from=pooled)}
    nodes, quota = by_nodes(fitting.values()), _quota(context, need, pooled)
    held = sum(len(stack.node_ports) for stack in pooled if stack.ports_held and not stack.spare)
    ports = (store.ports.free + held) // max(1, need.ports)
    limit = context.config.limits.max_stacks
    kept = sum(stack.unassigned or (stack.shared and stack.deleting_since is None) for stack in store.stacks.ordered())
    stacks = max(0, limit - len(store.stacks) + kept) if limit else None
    seen_at: Any = None if quotas.seen_at is None else from_nanoseconds(quotas.seen_at)  # as the answer is written
    bounds = {nodes.why: nodes.stacks}
    bounds |= {PORTS: ports} if need.ports else {}
    bounds |= {QUOTA: quota.stacks} if quota is not None else {}
    bounds |= {MAX_STACKS: stacks} if stacks is not None else {}
    limited_by = min(bounds, key=lambda name: bounds[name])
    return contract.Capacity(
        fits=bounds[limited_by],
        limited_by=limited_by,
        nodes={name: min(fitting[name].values()) for name in sorted(fitting)} if context.cluster.reads_nodes else {},
        quota=None if quota is None else quota.stacks,
        quota_limited_by="" if quota is None else quota.why,
        quota_seen_at=seen_at,
        ports=ports,
        free_node_ports=store.ports.free,
        spare_services=context.spares.ready(context.mirror),
        stacks=stacks,
        unassigned=sum(not stack.spare for stack in pooled),
        requested_cpu_milli=need.cpu_milli,
        requested_memory_bytes=need.memory_bytes,
        requested_ephemeral_storage_bytes=need.ephemeral_bytes,
        requested_ports=need.ports,
        assumes=ASSUMES,
    )


def free_on_nodes(context: Context, *, apart_from: Collection[Stack] = ()) -> Iterator[tuple[str, dict[str, int]]]:
    """The nodes that take stacks, with what is free on each if the stacks of ``apart_from`` were gone."""
    used: dict[str, Counter[str]] = {}
    ids = {stack.stack_id for stack in apart_from}
    for stack in context.store.stacks.ordered():
        if stack.stack_id in ids or not _takes_room(stack):
            continue
        if stack.members:
            for pod in filter(None, own_pods(context, stack)):
                used.setdefault(pod.node_name or "", Counter()).update(of_pod(pod).of_node())
        elif stack.node_id is not None:
            used.setdefault(stack.node_id, Counter()).update(_taken(context, stack).of_node())
    for node in eligible(context.config, context.mirror.nodes.values()):
        takes = used.get(node.name, Counter())
        yield node.name, {name: free - takes[name] for name, free in free_of(node).items()}


def _takes_room(stack: Stack) -> bool:
    return not stack.ended and not stack.at_rest


def _taken(context: Context, stack: Stack, disk_limit: int = 0) -> StackResources:
    """What the stack takes; ``disk_limit`` in bytes."""
    pods = context.mirror.pods.get(stack.pod_name), *member_pods(context, stack)
    disk = sum(pod.ephemeral_bytes for pod in pods if pod is not None)
    return StackResources(
        cpu_milli=stack.requested_cpu_milli,
        memory_bytes=stack.requested_memory_bytes,
        ephemeral_bytes=disk,
        ephemeral_limit_bytes=disk_limit,
        ports=len(stack.node_ports),
        pods=1 + len(stack.members),
    )


def _quota(context: Context, need: StackResources, pooled: Collection[Stack]) -> Bound | None:
    """The tightest line of all quotas, if the pooled stacks were gone; None while quotas were never seen, or if none
    counts what stacks use."""
    if context.facts.quotas.seen_at is None:
        return None
    back, disk = Counter[str](), storage(context).limit_bytes
    for stack in filter(_takes_room, pooled):
        back.update(_taken(context, stack, disk).of_quota())
    back.update(dict.fromkeys(SERVICE_QUOTAS, len(context.spares.rows) * NANO))
    bounds = by_quotas(context.facts.quotas.objects, need, unused=True, released=back)
    return min(bounds, key=lambda bound: bound.stacks, default=None)


async def refresh_ports(context: Context) -> None:
    """Set aside the free node ports that others' Services hold, unless that was done within ``PORTS_SECONDS``; what is not
    found out within ``PORTS_LIMIT_SECONDS`` counts as free. An error is logged, not raised.
    """
    quotas, now = context.facts.quotas, context.clock.monotonic()
    if quotas.ports_asked_at is not None and now - quotas.ports_asked_at < PORTS_SECONDS:
        return
    quotas.ports_asked_at = now
    taken: list[int] = []
    try:
        context.gate.require_cluster()
        async with asyncio.timeout(PORTS_LIMIT_SECONDS):
            async with aclosing(context.cluster.taken_node_ports(context.store.ports.candidates)) as found:
                async for port in found:
                    taken.append(port)  # noqa: PERF401 - also what was found before the time is over
    except TimeoutError:
        log.info("not all node ports were compared with others' Services in %g s", PORTS_LIMIT_SECONDS)
    except (ClusterUnavailable, ClusterError) as error:
        log.debug("node ports of others: %s", error)
    if taken:
        await context.store.ports.set_aside_all(taken)


async def refresh_quotas(context: Context, *, asked: bool = False) -> None:
    """Read the quotas from the cluster if somebody asked lately, or asks now. An error is kept, not raised."""
    quotas, now = context.facts.quotas, context.clock.monotonic()
    if not asked and (quotas.wanted_at is None or now - quotas.wanted_at >= INTEREST_SECONDS):
        return
    try:
        context.gate.require_cluster()
        objects = await context.cluster.list_namespaced("resourcequotas")
        limit_ranges = await context.cluster.list_namespaced("limitranges")
    except (ClusterUnavailable, ClusterError) as error:
        quotas.error = str(error)
        log.debug("quotas: %s", error)
    else:
        quotas.error, quotas.seen_at = "", context.clock.now()
        quotas.objects, quotas.limit_ranges = objects, limit_ranges
