"""How many stacks fit: by the nodes, by the quota, by the node ports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stackd.kube.objects import NodeState
from stackd.podspec import quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one stack takes."""

    cpu_milli: int = 100
    memory_bytes: int = 128 << 20

    def __str__(self) -> str:
        return f"{self.cpu_milli}m CPU and {self.memory_bytes >> 20}Mi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """That no more than so many fit, and because of what."""

    stacks: int
    why: str


def by_nodes(nodes: Iterable[NodeState], size: Size) -> Bound:
    """By what the nodes have, whoever uses it now."""
    fits = [
        min(node.cpu_milli // size.cpu_milli, node.memory_bytes // size.memory_bytes, node.pods or 0) for node in nodes
    ]
    return Bound(stacks=sum(fits), why="nodes")


def by_quotas(quotas: Iterable[Mapping[str, Any]], size: Size) -> Iterator[Bound]:
    """By each line of each quota that counts what stacks use."""
    milli = {
        **dict.fromkeys(("pods", "count/pods", "services", "count/services", "services.nodeports"), 1000),
        **dict.fromkeys(("cpu", "requests.cpu", "limits.cpu"), size.cpu_milli),
        **dict.fromkeys(("memory", "requests.memory", "limits.memory"), size.memory_bytes * 1000),
    }
    for quota in quotas:
        for name, amount in ((quota.get("spec") or {}).get("hard") or {}).items():
            if name in milli:
                yield Bound(
                    stacks=quantity.parse(amount).milli // milli[name], why=f"quota {quota['metadata']['name']}, {name}"
                )
