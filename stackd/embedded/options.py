"""What an embedded cluster can be told: nodes, delays, identities, its file. Knows no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stackd.embedded.rbac import User
from stackd.embedded.timing import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node that the cluster starts with, kubelet included. Quantities as Kubernetes writes them."""

    name: str
    labels: Mapping[str, str] = field(default_factory=lambda: {"role": "stack"})
    cpu: str = "1000"
    memory: str = "1000Gi"
    ephemeral_storage: str = "10000Gi"
    pods: str = "5000"
    external_ip: str | None = "127.0.0.1"
    internal_ip: str = "10.200.0.1"
    unschedulable: bool = False


DEFAULT_NODES = (
    NodeSpec(name="embedded-worker", internal_ip="10.200.0.1"),
    NodeSpec(name="embedded-worker2", internal_ip="10.200.0.2"),
)


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
    clock: Clock | None = None
