"""How many more stacks of a kind would fit, and what runs out first: nodes, quota, node ports or stackd's own limit.

Owns: the arithmetic, from the mirror, the rows and the quotas as last seen; and the background refresh of the quotas,
which runs only while somebody asks. It assumes that the nodes run nothing but stacks: other pods on them, and their
taints, are not known here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from stackd.errors import ClusterError, ClusterUnavailable
from stackd.lifecycle.context import Context
from stackd.lifecycle.needs import (
    CPU,
    EPHEMERAL,
    MEMORY,
    PODS,
    PORTS,
    Bound,
    StackResources,
    Storage,
    by_nodes,
    by_quotas,
    fits,
    free_of,
    storage_given,
)
from stackd.lifecycle.nodes import eligible
from stackd.model import Stack

log = logging.getLogger(__name__)

QUOTA, MAX_STACKS = "quota", "max_stacks"


@dataclass(slots=True, kw_only=True)
class Capacity:
    """How many fit in all and per node; ``quota`` is None while it is unknown, ``stacks`` if there is no limit.

    ``unassigned`` stacks wait in pools. They give way to creates, so what they take counts as free.
    """

    fits: int
    limited_by: str
    nodes: dict[str, int] = field(default_factory=dict)
    ports: int = 0
    quota: int | None = None
    quota_limited_by: str = ""
    stacks: int | None = None
    unassigned: int = 0


def storage(context: Context) -> Storage:
    """The disk that a container gets if it requests none, by the LimitRanges as last seen."""
    return storage_given(context.policy.max_ephemeral_storage, context.quotas.limit_ranges)


def capacity(context: Context, need: StackResources) -> Capacity:
    """How many more stacks with these needs fit. Makes no request; tells the quota cache that somebody asks."""
    context.quotas.wanted_at = context.clock.monotonic()
    pooled = [stack for stack in context.store.stacks.ordered() if stack.unassigned and stack.deleting_since is None]
    fitting = {name: fits(left, need) for name, left in free_on_nodes(context, apart_from=pooled)}
    per_node = {name: min(by_resource.values()) for name, by_resource in fitting.items()}
    nodes = by_nodes(fitting.values())
    bounds, ports = {nodes.why: nodes.stacks}, _free_ports(context, pooled) // max(1, need.ports)
    if need.ports:
        bounds[PORTS] = ports
    quota = _quota(context, need, pooled)
    if quota is not None:
        bounds[QUOTA] = quota.stacks
    limit = context.config.limits.max_stacks
    stacks = max(0, limit - len(context.store.assigned)) if limit else None
    if stacks is not None:
        bounds[MAX_STACKS] = stacks
    limited_by = min(bounds, key=lambda name: bounds[name])
    return Capacity(
        fits=bounds[limited_by],
        limited_by=limited_by,
        nodes=dict(sorted(per_node.items())),
        ports=ports,
        quota=None if quota is None else quota.stacks,
        quota_limited_by="" if quota is None else quota.why,
        stacks=stacks,
        unassigned=len(pooled),
    )


def free_on_nodes(context: Context, *, apart_from: Collection[Stack] = ()) -> Iterator[tuple[str, dict[str, int]]]:
    """The nodes that take stacks, with what is free on each if the stacks of ``apart_from`` were gone."""
    used: dict[str, list[Stack]] = {}
    ids = {stack.stack_id for stack in apart_from}
    for stack in context.store.stacks.ordered():
        if stack.node_id is not None and not stack.ended and not stack.at_rest and stack.stack_id not in ids:
            used.setdefault(stack.node_id, []).append(stack)
    for node in eligible(context.config, context.mirror.nodes.values()):
        left = free_of(node)
        for stack in used.get(node.name, ()):
            pod = context.mirror.pods.get(stack.pod_name)
            left[CPU] -= stack.requested_cpu_milli
            left[MEMORY] -= stack.requested_memory_bytes
            left[EPHEMERAL] -= pod.ephemeral_bytes if pod is not None else 0
            left[PODS] -= 1
        yield node.name, left


def _free_ports(context: Context, pooled: Collection[Stack]) -> int:
    return context.store.ports.free + sum(len(stack.node_ports) for stack in pooled if stack.ports_held)


def _quota(context: Context, need: StackResources, pooled: Collection[Stack]) -> Bound | None:
    """The tightest line of all quotas; None while quotas were never seen, or if none counts what stacks use."""
    if context.quotas.seen_at is None:
        return None
    bounds = by_quotas(context.quotas.objects, need, left=True, given_back=_given_back(context, pooled))
    return min(bounds, key=lambda bound: bound.stacks, default=None)


def _given_back(context: Context, pooled: Collection[Stack]) -> Counter[str]:
    """How much of each quota resource is free again once the pooled stacks are gone."""
    back: Counter[str] = Counter()
    disk = storage(context)
    for stack in pooled:
        if not stack.ended and not stack.at_rest:
            pod = context.mirror.pods.get(stack.pod_name)
            need = StackResources(
                cpu_milli=stack.requested_cpu_milli,
                memory_bytes=stack.requested_memory_bytes,
                ephemeral_bytes=pod.ephemeral_bytes if pod is not None else 0,
                ephemeral_limit_bytes=disk.limit_bytes,
                ports=len(stack.node_ports),
            )
            back.update(need.of_quota())
    return back


async def refresh_quotas(context: Context, *, asked: bool = False) -> None:
    """Read the quotas from the cluster if somebody asked lately, or asks now. An error is kept, not raised."""
    quotas, now = context.quotas, context.clock.monotonic()
    if not asked and not quotas.wanted(now):
        return
    try:
        context.gate.require_cluster()
        objects, limit_ranges = await context.cluster.resource_quotas(), await context.cluster.limit_ranges()
    except (ClusterUnavailable, ClusterError) as error:
        quotas.error = str(error)
        log.debug("quotas: %s", error)
    else:
        quotas.error = ""
        quotas.objects, quotas.limit_ranges = objects, limit_ranges
        quotas.seen_at = context.clock.now()
