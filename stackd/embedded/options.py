"""The settings of an embedded cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stackd.embedded.auth import User
from stackd.embedded.nodes import DEFAULT_NODES, NodeSpec
from stackd.embedded.store import LoopClock


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedOptions:
    """All settings; the defaults are those of the demo. Delays are in seconds."""

    host: str = "127.0.0.1"
    port: int = 0
    state_path: Path | None = None
    nodes: tuple[NodeSpec, ...] = DEFAULT_NODES
    start_delay: float = 0.15
    """From the binding to a node to Running."""
    run_time: float = 0.2
    """How long a container runs before it ends or loses its readiness, if its script says so."""
    stop_delay: float = 0.05
    """From a deletion with grace to the end of the containers."""
    backoff: float = 1.0
    """The first pause between pulls or restarts; for restarts it doubles each time, up to 32 times as long."""
    pull: float = 0.0
    """How long a node takes to pull a missing image, one after the other; 0: it has all images."""
    slow_pull: float = 60.0
    """How long the pull of `…/slowpull` takes."""
    pod_gc_delay: float = 60.0
    """From the deletion of a Node to that of its pods."""
    serve_node_ports: bool = True
    node_port_range: tuple[int, int] = (30000, 32767)
    port_release_delay: float = 0.0
    """From the deletion of a Service, of which watches tell at once, to its node ports being free."""
    gateway: str = ""
    """``namespace/name`` of a Gateway with the listeners ``http``, ``https`` and ``tls``; empty: the cluster does not
    have the Gateway API."""
    gateway_port: int | None = None
    """The port on which the Gateway answers plain HTTP for the names of routes; 0: any free one; None: it does not."""
    gateway_delay: float = 0.01
    """From the change of a route to its new status."""
    bookmark_interval: float = 60.0
    users: tuple[User, ...] = ()
    """If empty, every request is allowed. Otherwise each request needs a user's token, and rules that allow it."""
    clock: LoopClock | None = None
