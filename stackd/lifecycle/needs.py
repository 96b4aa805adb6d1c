"""What one stack takes: of a node, as the scheduler counts, and of a ResourceQuota; and the quotas as last seen. Pure.

Owns: the names of what can run out, which quota resources belong to each name, and what a LimitRange gives to
containers that request no disk.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stackd.kube.objects import EPHEMERAL_STORAGE, NodeState, reserved
from stackd.quantity import NANO, reported

CPU, MEMORY, EPHEMERAL, PODS, PORTS, NODES = "cpu", "memory", "ephemeral_storage", "pods", "ports", "nodes"
OF_NODE = (CPU, MEMORY, EPHEMERAL, PODS)
ENOUGH = 10**9
INTEREST_SECONDS = 300.0
"""For this long after the last question the quotas are refreshed."""

NOTHING: Mapping[str, int] = MappingProxyType({})
_KINDS = {"cpu": (CPU, NANO // 1000), "memory": (MEMORY, NANO), "services.nodeports": (PORTS, NANO)}
"""Which name each quota resource belongs to, and its unit in 10⁻⁹; each other one is freed with a pod."""

_OTHER_SCOPES = frozenset({"Terminating", "BestEffort", "PriorityClass", "CrossNamespacePodAffinity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StackResources:
    """What one more stack takes. Disk is both request and limit, which differ if a LimitRange gives both."""

    cpu_milli: int
    memory_bytes: int
    ephemeral_bytes: int = 0
    ephemeral_limit_bytes: int = 0
    ports: int = 1

    def of_node(self) -> dict[str, int]:
        """What its pod takes of a node."""
        return {CPU: self.cpu_milli, MEMORY: self.memory_bytes, EPHEMERAL: self.ephemeral_bytes, PODS: 1}

    def of_quota(self) -> dict[str, int]:
        """What it takes of each resource that a quota can count, in 10⁻⁹; what it does not take is left out."""
        cpu, memory = self.cpu_milli * 10**6, self.memory_bytes * NANO
        takes = {
            **dict.fromkeys(("cpu", "requests.cpu", "limits.cpu"), cpu),
            **dict.fromkeys(("memory", "requests.memory", "limits.memory"), memory),
            **dict.fromkeys((EPHEMERAL_STORAGE, f"requests.{EPHEMERAL_STORAGE}"), self.ephemeral_bytes * NANO),
            f"limits.{EPHEMERAL_STORAGE}": self.ephemeral_limit_bytes * NANO,
            **dict.fromkeys(("pods", "count/pods", "services", "count/services"), NANO),
            "services.nodeports": self.ports * NANO,
        }
        return {name: amount for name, amount in takes.items() if amount}

    def with_storage(self, pod: Mapping[str, Any], given: Storage) -> StackResources:
        """The same with the disk of this pod; a container that requests none gets what the LimitRange gives."""
        requests = _completed(pod["spec"], "requests", given.request)
        limits = _completed(pod["spec"], "limits", given.limit)
        return dataclasses.replace(
            self,
            ephemeral_bytes=reserved(requests, EPHEMERAL_STORAGE, "requests"),
            ephemeral_limit_bytes=reserved(limits, EPHEMERAL_STORAGE, "limits"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Disk of a container, as quantities, and the LimitRange that sets them ("" if the policy does)."""

    request: str = "0"
    limit: str = "0"
    limit_range: str = ""

    @property
    def request_bytes(self) -> int:
        """What the scheduler counts."""
        return reported(self.request).whole

    @property
    def limit_bytes(self) -> int:
        """What a quota counts as limit."""
        return reported(self.limit).whole


def most_storage(limit_ranges: Iterable[Mapping[str, Any]]) -> Storage:
    """The smallest of the disk maxima that these LimitRanges set for a container; "0" if none sets one."""
    limits = [
        Storage(limit=item["max"][EPHEMERAL_STORAGE], limit_range=limit_range["metadata"]["name"])
        for limit_range in limit_ranges
        for item in (limit_range.get("spec") or {}).get("limits") or ()
        if item.get("type") == "Container" and EPHEMERAL_STORAGE in (item.get("max") or {})
    ]
    return min(limits, key=lambda one: one.limit_bytes, default=Storage())


def storage_given(most: str, limit_ranges: Iterable[Mapping[str, Any]]) -> Storage:
    """What a container that requests no disk gets: ``policy.max_ephemeral_storage``, else what the LimitRanges give.

    The LimitRanges are as the API server keeps them, with all defaults filled in; the first that gives something
    counts.
    """
    if most:
        return Storage(request=most, limit=most)
    for limit_range in limit_ranges:
        for item in (limit_range.get("spec") or {}).get("limits") or ():
            limit: str = (item.get("default") or {}).get(EPHEMERAL_STORAGE, "0")
            request: str = (item.get("defaultRequest") or {}).get(EPHEMERAL_STORAGE, limit)
            given = Storage(request=request, limit=limit, limit_range=limit_range["metadata"]["name"])
            if item.get("type") == "Container" and (given.request_bytes or given.limit_bytes):
                return given
    return Storage()


def free_of(node: NodeState) -> dict[str, int]:
    """What a node has for pods."""
    return {CPU: node.cpu_milli, MEMORY: node.memory_bytes, EPHEMERAL: node.ephemeral_bytes, PODS: node.pods}


def fits(free: Mapping[str, int], need: StackResources) -> dict[str, int]:
    """How many more fit on a node, by each of its resources."""
    return {name: so_many(free[name], takes) if takes else ENOUGH for name, takes in need.of_node().items()}


def so_many(free: int, takes: int) -> int:
    """How often ``takes`` fits into what is free, up to ``ENOUGH``."""
    return min(ENOUGH, max(0, free // takes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How many fit at most, and which resource limits them."""

    stacks: int
    why: str


def by_nodes(fitting: Collection[Mapping[str, int]]) -> Bound:
    """The bound by the nodes, given how many fit on each by each resource; ``why`` is the resource that runs out first."""
    ends = min(OF_NODE, key=lambda name: sum(node[name] for node in fitting)) if fitting else NODES
    return Bound(stacks=sum(min(node.values()) for node in fitting), why=ends)


def by_quotas(
    quotas: Iterable[Mapping[str, Any]], need: StackResources, *, left: bool, given_back: Mapping[str, int] = NOTHING
) -> Iterator[Bound]:
    """One bound for each line of each quota that counts what stacks use: by the whole line, or, with ``left``, by what
    is unused plus ``given_back`` (by resource name)."""
    takes = need.of_quota()
    for quota, name, hard, used in counted(quotas):
        if name in takes:
            free = hard - used + given_back.get(name, 0) if left else hard
            yield Bound(stacks=so_many(free, takes[name]), why=f"{quota}: {name}")


def short_of(refusal: str) -> dict[str, int]:
    """How much CPU (milli), memory (bytes), pods and node ports a create lacks that a quota refused with this message.

    Empty if the message does not say so.
    """
    asked, used, limited = (_amounts(refusal, word) for word in ("requested", "used", "limited"))
    short: dict[str, int] = {}
    for name, amount in asked.items():
        lacks = amount + used.get(name, 0) - limited.get(name, 0)
        kind, unit = _KINDS.get(name.removeprefix("requests.").removeprefix("limits."), (PODS, NANO))
        short[kind] = max(short.get(kind, 0), -(-lacks // unit))
    return short


def _amounts(refusal: str, word: str) -> dict[str, int]:
    found = re.search(rf"\b{word}: ([^ ]+?)(?:, |$)", refusal)
    pairs = [pair.partition("=") for pair in found[1].split(",")] if found else []
    return {name: reported(amount).nanos for name, equals, amount in pairs if equals}


def counted(quotas: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int]]:
    """(quota, resource, hard, used) in 10⁻⁹, for each line that counts the pods and Services of stacks."""
    for quota in quotas:
        if _is_for_others(quota):
            continue
        status = quota.get("status") or {}
        used = status.get("used") or {}
        for name, hard in (status.get("hard") or (quota.get("spec") or {}).get("hard") or {}).items():
            yield quota["metadata"]["name"], name, reported(hard).nanos, reported(used.get(name)).nanos


def _is_for_others(quota: Mapping[str, Any]) -> bool:
    """Whether the quota's scopes exclude the pods of stacks, which have requests and no deadline."""
    spec = quota.get("spec") or {}
    selected = [term.get("scopeName") for term in (spec.get("scopeSelector") or {}).get("matchExpressions") or ()]
    return bool(_OTHER_SCOPES.intersection([*(spec.get("scopes") or ()), *selected]))


def _completed(pod_spec: Mapping[str, Any], part: str, default: str) -> dict[str, Any]:
    return {
        kind: [_with_default(container, part, default) for container in pod_spec.get(kind) or ()]
        for kind in ("initContainers", "containers")
    }


def _with_default(container: Mapping[str, Any], part: str, default: str) -> dict[str, Any]:
    resources = container.get("resources") or {}
    amounts = {EPHEMERAL_STORAGE: default} | dict(resources.get(part) or {})
    return {**container, "resources": {**resources, part: amounts}}


@dataclass(slots=True, kw_only=True)
class Quotas:
    """``seen_at`` in nanoseconds, None while they were never seen; ``wanted_at`` in monotonic seconds."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    limit_ranges: list[dict[str, Any]] = field(default_factory=list)
    seen_at: int | None = None
    wanted_at: float | None = None
    error: str = ""

    def wanted(self, now: float) -> bool:
        """Whether somebody has asked lately; ``now`` in monotonic seconds."""
        return self.wanted_at is not None and now - self.wanted_at < INTEREST_SECONDS
