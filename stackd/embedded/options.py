"""What an embedded cluster can be told: nodes, delays, identities, its file. Knows no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from stackd.embedded.auth import User
from stackd.embedded.timing import DelayingClock


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node that the cluster starts with. The quantities are what it has for pods (``allocatable``).

    With a ``kubelet`` it reports as a machine does: memory in ``Ki`` and disk in bytes, never round numbers, and more
    capacity than pods may use. Without one it is a Node made by hand, which has exactly these amounts.
    Disk that is "" is not reported at all, as by a kubelet that does not isolate it.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=lambda: {"role": "stack"})
    cpu: str = "999930m"
    memory: str = "1048370124Ki"
    ephemeral_storage: str = "9663676416113"
    pods: str = "5000"
    external_ip: str | None = "127.0.0.1"
    internal_ip: str = "10.200.0.1"
    unschedulable: bool = False
    kubelet: bool = True
    pod_cidr: str = ""


WORKER = NodeSpec(name="embedded-worker")


def node_specs(count: int, like: NodeSpec = WORKER) -> tuple[NodeSpec, ...]:
    """So many nodes like this one, each with a name and addresses of its own."""
    return tuple(
        replace(
            like,
            name=f"{like.name}{number if number > 1 else ''}",
            internal_ip=f"10.200.{number >> 8}.{number & 255}",
            pod_cidr=f"10.{244 + (number - 1 >> 8)}.{number - 1 & 255}.0/24",
        )
        for number in range(1, count + 1)
    )


DEFAULT_NODES = node_specs(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """Everything that can be set; the defaults are those of the demo. Delays are in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    state_path: Path | None = None
    nodes: tuple[NodeSpec, ...] = DEFAULT_NODES
    start_delay: float = 0.15
    """From binding to Running."""
    run_time: float = 0.2
    """How long a container that is meant to end (or to lose its readiness) runs before it does."""
    stop_delay: float = 0.05
    """From a deletion with grace to the end of the containers."""
    backoff: float = 1.0
    """First wait between pulls or restarts; doubles each time, up to 32 times as long."""
    pull: float = 0.0
    """How long a node takes to pull an image that it does not have, one after the other; 0: it has all images."""
    slow_pull: float = 60.0
    """How long `…/slowpull` takes."""
    gc_delay: float = 0.2
    """From an owner's end to its dependents'."""
    pod_gc_delay: float = 60.0
    """From a Node's end to that of the pods on it."""
    serve_node_ports: bool = True
    node_port_range: tuple[int, int] = (30000, 32767)
    watch_cache_size: int = 4096
    """Changes per resource that a watch can be resumed over."""
    event_limit: int = 5_000
    """Event objects kept; the oldest go first."""
    bookmark_interval: float = 60.0
    users: tuple[User, ...] = ()
    """Empty: every request may do everything. Otherwise each request needs one of their tokens and its rules."""
    clock: DelayingClock | None = None
