"""Which nodes take stacks, at which address they are reached, and how much of what fits. Pure.

Owns: what is wrong if stacks could not work on the nodes; what one stack takes of a node, as the scheduler counts, and of a
ResourceQuota; which quota resources belong to each name of what can run out, and what a LimitRange gives to containers that
request no disk. It assumes that the nodes run nothing but stacks: other pods on them, and their taints, are not known here.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

from stackd.config import Config
from stackd.kube.objects import ANY, EPHEMERAL_STORAGE, NodeState, PodState, reserved
from stackd.model import PortRange
from stackd.printable import some_of
from stackd.quantity import NANO, reported

log = logging.getLogger(__name__)

_FAMILIES: Mapping[str, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}
NAMED = 5  # a sentence names this many nodes; of the others it gives the count


def selector(config: Config) -> str:
    """``stacks.node_selector`` as kubectl writes it."""
    return ",".join(f"{key}={value}" for key, value in config.stacks.node_selector.items())


def selected(config: Config, nodes: Iterable[NodeState]) -> list[NodeState]:
    wanted = config.stacks.node_selector.items()
    return [node for node in nodes if wanted <= node.labels.items()]


def cordoned(config: Config, nodes: Collection[NodeState]) -> frozenset[str]:
    """The names of those that take no new stacks; none if no other node does."""
    return frozenset(node.name for node in nodes if node.unschedulable) if eligible(config, nodes) else frozenset()


def eligible(config: Config, nodes: Iterable[NodeState]) -> list[NodeState]:
    """Those that take stacks now: selected, ready and not cordoned."""
    return [node for node in selected(config, nodes) if node.ready and not node.unschedulable]


def address(config: Config, node: NodeState, families: Sequence[str] = ()) -> str | None:
    """The address at which a stack on this node is reached: ``stacks.public_ips`` first, then one of the node's own.

    Of the node's addresses only those of the ``families`` of the stack's Service (``IPv4``, ``IPv6``) count, that of
    ``stacks.address_family`` first; while the families are unknown, that one alone, or all. A host name counts for each.
    """
    stacks = config.stacks
    if configured := stacks.public_ips.get(node.name) or stacks.public_ips.get(ANY):
        return configured
    preferred = _FAMILIES.get(stacks.address_family, "")
    wanted = sorted(families or (preferred,), key=lambda family: family != preferred)
    for kind in stacks.address_types:
        having = [text for of, text in node.addresses if of == kind]
        for family in wanted:
            for text in having:
                if family in ("", (of := _family(text))) or not of:
                    return text
    return None


@lru_cache(maxsize=1024)
def _family(text: str) -> str:
    """The family of an address; empty for a name."""
    try:
        return f"IPv{ip_address(text).version}"
    except ValueError:
        return ""


def none_eligible(config: Config, nodes: Sequence[NodeState]) -> str:
    """Why no node takes stacks; empty if one does."""
    if eligible(config, nodes):
        return ""
    if not nodes:
        return "the cluster has none"
    if (having := len(selected(config, nodes))) == 0:
        return f"none of {len(nodes)} has {selector(config)}"
    verb, labels = "has" if having == 1 else "have", selector(config) or "any label"
    return f"{having} of {len(nodes)} {verb} {labels}, and none is ready and takes pods"


def without_address(config: Config, nodes: Iterable[NodeState]) -> str:
    """The eligible nodes for which no address is known, by name; empty if there are none."""
    names = sorted(node.name for node in eligible(config, nodes) if address(config, node) is None)
    return some_of(names, NAMED)


def remarks(config: Config, nodes: Sequence[NodeState]) -> list[str]:
    """Why stacks could not work, or not be reached, on these nodes, with what to do."""
    if why := none_eligible(config, nodes):
        labels = config.stacks.node_selector if nodes else {}
        label = f"; kubectl label node NAME {selector(config).replace(',', ' ')}" if labels else ""
        return [f"no node takes stacks: {why}{label}"]
    if names := without_address(config, nodes):
        types = ", ".join(config.stacks.address_types)
        return [
            f"no public address ({types}) for {names}: their stacks have node_public_ip: null; "
            "name them in stacks.public_ips, or add a kind that they have to stacks.address_types"
        ]
    return []


# ---- how many more fit

CPU, MEMORY, EPHEMERAL, PODS, PORTS, NODES = "cpu", "memory", "ephemeral_storage", "pods", "ports", "nodes"
OF_NODE = (CPU, MEMORY, EPHEMERAL, PODS)
ENOUGH = 10**9
ASSUMES = "nodes run nothing but stacks, and have no taints"

NOTHING: Mapping[str, int] = MappingProxyType({})
# Which name each quota resource belongs to, and its unit in 10⁻⁹; each other one is freed with a pod.
_KINDS = {"cpu": (CPU, NANO // 1000), "memory": (MEMORY, NANO)}
# What a Service of a stack takes of a quota.
SERVICE_QUOTAS = ("services", "count/services", "services.nodeports")
_KINDS |= dict.fromkeys(SERVICE_QUOTAS, (PORTS, NANO))

_OTHER_SCOPES = frozenset({"Terminating", "BestEffort", "PriorityClass", "CrossNamespacePodAffinity"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StackResources:
    """What one more stack takes, all of its ``pods`` together. Disk is both request and limit, which differ if a LimitRange
    gives both."""

    cpu_milli: int
    memory_bytes: int
    ephemeral_bytes: int = 0
    ephemeral_limit_bytes: int = 0
    ports: int = 1
    pods: int = 1

    def of_node(self) -> dict[str, int]:
        """What it takes of a node, if all of it is there."""
        return {CPU: self.cpu_milli, MEMORY: self.memory_bytes, EPHEMERAL: self.ephemeral_bytes, PODS: self.pods}

    def of_quota(self) -> dict[str, int]:
        """What it takes of each resource that a quota can count, in 10⁻⁹; what it does not take is left out."""
        cpu, memory = self.cpu_milli * 10**6, self.memory_bytes * NANO
        takes = {
            **dict.fromkeys(("cpu", "requests.cpu", "limits.cpu"), cpu),
            **dict.fromkeys(("memory", "requests.memory", "limits.memory"), memory),
            **dict.fromkeys((EPHEMERAL_STORAGE, f"requests.{EPHEMERAL_STORAGE}"), self.ephemeral_bytes * NANO),
            f"limits.{EPHEMERAL_STORAGE}": self.ephemeral_limit_bytes * NANO,
            **dict.fromkeys(("pods", "count/pods", "services", "count/services"), self.pods * NANO),
            "services.nodeports": self.ports * NANO,
        }
        return {name: amount for name, amount in takes.items() if amount}

    def with_storage(self, pod: Mapping[str, Any], default: Storage) -> StackResources:
        """The same with the disk of this pod added; a container that requests none gets what the LimitRange gives."""

        def disk(part: str, amount: str) -> int:
            completed = {
                kind: [_with_default(container, part, amount) for container in pod["spec"].get(kind) or ()]
                for kind in ("initContainers", "containers")
            }
            return reserved(completed, EPHEMERAL_STORAGE, part)

        requests, limits = disk("requests", default.request), disk("limits", default.limit)
        return dataclasses.replace(
            self,
            ephemeral_bytes=self.ephemeral_bytes + requests,
            ephemeral_limit_bytes=self.ephemeral_limit_bytes + limits,
        )


def of_pod(pod: PodState) -> StackResources:
    return StackResources(cpu_milli=pod.cpu_milli, memory_bytes=pod.memory_bytes, ephemeral_bytes=pod.ephemeral_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Disk of a container, as quantities, and the LimitRange that sets them ("" if the policy does)."""

    request: str = "0"
    limit: str = "0"
    limit_range: str = ""

    @property
    def request_bytes(self) -> int:
        """What the scheduler counts."""
        return reported(self.request).value

    @property
    def limit_bytes(self) -> int:
        """What a quota counts as limit."""
        return reported(self.limit).value


def _of_containers(limit_ranges: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The lines of these LimitRanges that are about containers, with the LimitRange's name."""
    for limit_range in limit_ranges:
        for item in (limit_range.get("spec") or {}).get("limits") or ():
            if item.get("type") == "Container":
                yield limit_range["metadata"]["name"], item


def most_storage(limit_ranges: Iterable[Mapping[str, Any]]) -> Storage:
    """The smallest of the disk maxima that these LimitRanges set for a container; "0" if none sets one."""
    limits = [
        Storage(limit=item["max"][EPHEMERAL_STORAGE], limit_range=name)
        for name, item in _of_containers(limit_ranges)
        if EPHEMERAL_STORAGE in (item.get("max") or {})
    ]
    return min(limits, key=lambda storage: storage.limit_bytes, default=Storage())


def default_storage(most: str, limit_ranges: Iterable[Mapping[str, Any]]) -> Storage:
    """What a container that requests no disk gets: ``policy.max_ephemeral_storage``, else what the LimitRanges give.

    The LimitRanges are as the API server keeps them, with all defaults filled in; the first that gives something
    counts.
    """
    if most:
        return Storage(request=most, limit=most)
    for name, item in _of_containers(limit_ranges):
        limit: str = (item.get("default") or {}).get(EPHEMERAL_STORAGE, "0")
        request: str = (item.get("defaultRequest") or {}).get(EPHEMERAL_STORAGE, limit)
        default = Storage(request=request, limit=limit, limit_range=name)
        if default.request_bytes or default.limit_bytes:
            return default
    return Storage()


def free_of(node: NodeState) -> dict[str, int]:
    return {CPU: node.cpu_milli, MEMORY: node.memory_bytes, EPHEMERAL: node.ephemeral_bytes, PODS: node.pods}


def fits(free: Mapping[str, int], need: StackResources) -> dict[str, int]:
    """How many more fit on a node, by each of its resources."""
    return {name: so_many(free[name], takes) for name, takes in need.of_node().items()}


def so_many(free: int, takes: int) -> int:
    """How often ``takes`` fits into what is free, up to ``ENOUGH``."""
    return min(ENOUGH, max(0, free // takes)) if takes else ENOUGH


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
    quotas: Iterable[Mapping[str, Any]], need: StackResources, *, unused: bool, released: Mapping[str, int] = NOTHING
) -> Iterator[Bound]:
    """One bound for each line of each quota that counts what stacks use: by the whole line, or, with ``unused``, by what
    is unused plus ``released`` (by resource name)."""
    takes = need.of_quota()
    for quota, name, hard, used in counted(quotas):
        if name in takes:
            free = hard - used + released.get(name, 0) if unused else hard
            yield Bound(stacks=so_many(free, takes[name]), why=f"{quota}: {name}")


def lacking(quotas: Iterable[Mapping[str, Any]], need: StackResources) -> dict[str, int]:
    """How much CPU (milli), memory (bytes), pods and node ports one more stack lacks by these quotas. Everything else that it
    lacks counts as pods: each stack that goes gives some of it back."""
    takes, short = need.of_quota(), dict[str, int]()
    for _, name, hard, used in counted(quotas):
        if (lacks := takes.get(name, 0) + used - hard) > 0 and name in takes:
            kind, unit = _KINDS.get(name.removeprefix("requests.").removeprefix("limits."), (PODS, takes[name]))
            short[kind] = max(short.get(kind, 0), -(-lacks // unit))
    return short


def counted(quotas: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, int, int]]:
    """(quota, resource, hard, used) in 10⁻⁹, for each line that counts the pods and Services of stacks: of quotas whose
    scopes do not exclude those pods, which have requests and no deadline."""
    for quota in quotas:
        spec, status = quota.get("spec") or {}, quota.get("status") or {}
        selected = [term.get("scopeName") for term in (spec.get("scopeSelector") or {}).get("matchExpressions") or ()]
        if _OTHER_SCOPES.isdisjoint([*(spec.get("scopes") or ()), *selected]):
            used = status.get("used") or {}
            for name, hard in (status.get("hard") or spec.get("hard") or {}).items():
                yield quota["metadata"]["name"], name, reported(hard).nanos, reported(used.get(name)).nanos


def _with_default(container: Mapping[str, Any], part: str, default: str) -> dict[str, Any]:
    resources = container.get("resources") or {}
    amounts = {EPHEMERAL_STORAGE: default} | dict(resources.get(part) or {})
    return {**container, "resources": {**resources, part: amounts}}


@dataclass(slots=True, kw_only=True)
class Quotas:
    """``seen_at`` in nanoseconds, None while they were never seen; ``wanted_at``, and when others' node ports were
    asked for, in monotonic seconds."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    limit_ranges: list[dict[str, Any]] = field(default_factory=list)
    seen_at: int | None = None
    wanted_at: float | None = None
    error: str = ""
    ports_asked_at: float | None = None


@dataclass(slots=True, kw_only=True)
class ClusterFacts:
    """What is known of the cluster beside its objects: its quotas as last seen; ``node_ports``, its range of node ports, if
    known; ``families``, the address families of the Services that were seen last; ``may_write_policies``: that it has said
    so."""

    quotas: Quotas = field(default_factory=Quotas)
    node_ports: PortRange | None = None
    families: tuple[str, ...] = ()
    may_write_policies: bool = False
