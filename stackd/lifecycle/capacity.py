"""How many more stacks of a kind would fit, and what ends first: nodes, quota, node ports or stackd's own limit.

Owns: the arithmetic, from the mirror and the rows alone. It assumes that the nodes run nothing but stacks, as what else
runs on them is not known here, nor are their taints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stackd.kube.objects import NodeState
from stackd.lifecycle.room import Room
from stackd.model import Stack
from stackd.podspec.quantity import parse

CPU, MEMORY, PODS, QUOTA, PORTS, MAX_STACKS, NODES = "cpu", "memory", "pods", "quota", "ports", "max_stacks", "nodes"
ENOUGH = 10**9
_NEEDS_OF = {
    "cpu": CPU, "requests.cpu": CPU, "limits.cpu": CPU,
    "memory": MEMORY, "requests.memory": MEMORY, "limits.memory": MEMORY,
    "pods": PODS, "count/pods": PODS, "services": PODS, "count/services": PODS,
    "services.nodeports": PORTS,
}  # fmt: skip
_OTHER_SCOPES = frozenset({"Terminating", "BestEffort", "PriorityClass", "CrossNamespacePodAffinity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one more stack takes."""

    cpu_milli: int
    memory_bytes: int
    ports: int = 1


@dataclass(slots=True, kw_only=True)
class Capacity:
    """How many fit in all and per node; ``quota`` is None while it is not known, ``stacks`` where there is no limit."""

    fits: int
    limited_by: str
    nodes: dict[str, int] = field(default_factory=dict)
    ports: int = 0
    quota: int | None = None
    quota_limited_by: str = ""
    stacks: int | None = None


def capacity(room: Room, need: Need) -> Capacity:
    """The room that is left for stacks with this need. Makes no request; says to the quota cache that somebody asks."""
    room.quotas.wanted_at = room.clock.monotonic()
    free = {node.name: left for node, left in _nodes(room)}
    per_node = {name: max(0, min(_fit(left, need).values())) for name, left in free.items()}
    bounds = {_tightest(free, need): sum(per_node.values()), PORTS: room.store.ports.free // max(1, need.ports)}
    quota, quota_limited_by = _quota(room, need)
    if quota is not None:
        bounds[QUOTA] = quota
    limit = room.config.limits.max_stacks
    stacks = max(0, limit - len(room.store.stacks)) if limit else None
    if stacks is not None:
        bounds[MAX_STACKS] = stacks
    limited_by = min(bounds, key=lambda name: bounds[name])
    return Capacity(
        fits=bounds[limited_by],
        limited_by=limited_by,
        nodes=dict(sorted(per_node.items())),
        ports=bounds[PORTS],
        quota=quota,
        quota_limited_by=quota_limited_by,
        stacks=stacks,
    )


def _nodes(room: Room) -> Iterator[tuple[NodeState, dict[str, int]]]:
    """The nodes that take stacks, with what is left on each."""
    used: dict[str, list[Stack]] = {}
    for stack in room.store.stacks.ordered():
        if stack.node_id is not None and not stack.ended and not stack.at_rest:
            used.setdefault(stack.node_id, []).append(stack)
    selector = room.config.stacks.node_selector
    for node in room.mirror.nodes.values():
        if not node.ready or node.unschedulable or not selector.items() <= node.labels.items():
            continue
        there = used.get(node.name, [])
        yield (
            node,
            {
                CPU: node.cpu_milli - sum(stack.requested_cpu_milli for stack in there),
                MEMORY: node.memory_bytes - sum(stack.requested_memory_bytes for stack in there),
                PODS: node.pods - len(there),
            },
        )


def _fit(left: Mapping[str, int], need: Need) -> dict[str, int]:
    takes = {CPU: need.cpu_milli, MEMORY: need.memory_bytes, PODS: 1}
    return {name: left[name] // takes[name] if takes[name] else ENOUGH for name in takes}


def _tightest(free: Mapping[str, Mapping[str, int]], need: Need) -> str:
    """Which of a node's resources ends first, over all nodes; ``nodes`` where there is none to take a stack."""
    if not free:
        return NODES
    fits = [_fit(left, need) for left in free.values()]
    return min((CPU, MEMORY, PODS), key=lambda name: sum(max(0, fit[name]) for fit in fits))


def _quota(room: Room, need: Need) -> tuple[int | None, str]:
    if room.quotas.seen_at is None:
        return None, ""
    takes = {CPU: need.cpu_milli * 10**6, MEMORY: need.memory_bytes * 10**9, PODS: 10**9, PORTS: need.ports * 10**9}
    bounds = {
        f"{quota['metadata']['name']}: {name}": left // takes[_NEEDS_OF[name]]
        for quota in room.quotas.objects
        if not _is_for_others(quota)
        for name, left in _left(quota)
        if takes[_NEEDS_OF[name]]
    }
    if not bounds:
        return None, ""
    name = min(bounds, key=lambda one: bounds[one])
    return max(0, bounds[name]), name


def _left(quota: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """What is left of each resource that a stack takes, in 10⁻⁹."""
    status = quota.get("status") or {}
    used = status.get("used") or {}
    for name, hard in (status.get("hard") or quota["spec"].get("hard") or {}).items():
        if name in _NEEDS_OF:
            yield name, parse(hard).nanos - parse(used.get(name, "0")).nanos


def _is_for_others(quota: Mapping[str, Any]) -> bool:
    """Whether the quota's scopes leave the pods of stacks out; they have requests and no deadline."""
    spec = quota["spec"]
    selected = [term.get("scopeName") for term in (spec.get("scopeSelector") or {}).get("matchExpressions") or ()]
    return bool(_OTHER_SCOPES.intersection([*(spec.get("scopes") or ()), *selected]))
