"""What every verb is given: the two cupboards, the clock, the settings in force, and who is busy with which stack.

Owns: the wiring of one daemon's verbs, per-stack locks, and the memory of stacks that have just gone. Decides nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from stackd.clock import Clock
from stackd.config import Config, policy_of
from stackd.errors import ClusterUnavailable, ShuttingDown
from stackd.kube.client import Cluster
from stackd.kube.mirror import Mirror
from stackd.metrics import Metrics
from stackd.podspec import Policy
from stackd.store import Store
from stackd.tasks import Tasks

if TYPE_CHECKING:
    from stackd.lifecycle.brake import Brake
    from stackd.lifecycle.retire import Retirement

REMEMBER_DEPARTED = 10_000

AWAY_SECONDS = 2.0

CREATES_AT_ONCE = 32
"""Creates that talk to the cluster at a time; the others wait their turn, so that a burst neither runs into deadlines
nor keeps everything else from its turn."""

T = TypeVar("T")


class Settings:
    """The configuration in force, and the pod policy that follows from it; replaced as a whole by a reload."""

    def __init__(self, config: Config) -> None:
        self.replace(config)

    def replace(self, config: Config) -> None:
        """Put another configuration in force."""
        self.current = config
        self.policy = policy_of(config)


class Locks:
    """One asyncio lock per stack, there only while somebody holds or wants it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, stack_id: str) -> asyncio.Lock:
        """The lock of one stack."""
        lock = self._locks.get(stack_id)
        if lock is None:
            lock = self._locks[stack_id] = asyncio.Lock()
        return lock


class Abandon:
    """Whether somebody has given up on a create, and a way to end what it waits for."""

    __slots__ = ("_on_set", "given_up")

    def __init__(self) -> None:
        self.given_up = False
        self._on_set: Callable[[], object] | None = None

    def set(self) -> None:
        """Give up: the create undoes itself at its next step."""
        self.given_up = True
        if self._on_set is not None:
            self._on_set()

    async def unless_given_up(self, task: asyncio.Task[T]) -> T:
        """The result of ``task``; CancelledError as soon as somebody gives up."""
        self._on_set = task.cancel
        try:
            if self.given_up:
                task.cancel()
            return await task
        finally:
            self._on_set = None


class Departed:
    """The ids of stacks that have gone lately: objects of theirs that turn up late are known to be nobody's."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, stack_id: str) -> None:
        """Remember an id; the oldest is forgotten."""
        self._ids[stack_id] = None
        if len(self._ids) > REMEMBER_DEPARTED:
            self._ids.popitem(last=False)

    def __contains__(self, stack_id: str) -> bool:
        return stack_id in self._ids


@dataclass(slots=True, kw_only=True)
class Room:
    """One daemon's room; ``creating`` holds the creates under way, ``waiting_for`` why the cluster is not at hand."""

    store: Store
    cluster: Cluster
    mirror: Mirror
    clock: Clock
    settings: Settings
    tasks: Tasks
    brake: Brake
    retirement: Retirement
    locks: Locks = field(default_factory=Locks)
    departed: Departed = field(default_factory=Departed)
    creating: dict[str, Abandon] = field(default_factory=dict)
    create_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATES_AT_ONCE))
    metrics: Metrics = field(default_factory=Metrics)
    waiting_for: str = ""
    closing: bool = False

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.settings.current

    @property
    def policy(self) -> Policy:
        """The pod policy in force."""
        return self.settings.policy

    def admit(self) -> None:
        """Raise unless new work can be taken on: not while stopping, nor without a view of the right cluster."""
        if self.closing:
            raise ShuttingDown("stackd is shutting down")
        self.brake.admit_creates()
        if not self.mirror.synced:
            raise ClusterUnavailable("Kubernetes has not been reached yet; no stack can be created")
        self.require_cluster()

    def require_cluster(self) -> None:
        """Raise ClusterUnavailable on the wrong cluster, and at once where the watches have lost it for a while.

        Whoever waits for an answer gets one now instead of at some deadline, and a long batch job does not hang.
        """
        if self.brake.wrong_cluster is not None:
            raise ClusterUnavailable(str(self.brake.wrong_cluster))
        since = self.mirror.disconnected_since
        if self.mirror.synced and since is not None and self.clock.monotonic() - since > AWAY_SECONDS:
            raise ClusterUnavailable(f"Kubernetes is away: {self.mirror.last_error}")

    def public_address(self, node_name: str | None) -> str | None:
        """The address at which a node's ports are reached: the operator's word first, then the node's own."""
        if node_name is None:
            return None
        stacks = self.config.stacks
        if node_name in stacks.public_ips:
            return stacks.public_ips[node_name]
        node = self.mirror.nodes.get(node_name)
        if node is None:
            return None
        for wanted in stacks.address_types:
            for kind, address in node.addresses:
                if kind == wanted:
                    return address
        return None


def new_id(prefix: str) -> str:
    """A new random id: the prefix, a dash and 16 hex digits."""
    return f"{prefix}-{secrets.token_hex(8)}"
