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
from stackd.kube.objects import PodState
from stackd.kube.waiters import Waiters
from stackd.lifecycle.evidence_wanted import EvidenceWanted
from stackd.lifecycle.quota_cache import Quotas
from stackd.metrics import Metrics
from stackd.model import Stack
from stackd.podspec import Policy, Sanitizer
from stackd.store import Store
from stackd.tasks import Tasks

if TYPE_CHECKING:
    from stackd.lifecycle.brake import Brake
    from stackd.lifecycle.retire import Retirement

REMEMBER_DEPARTED = 10_000

AWAY_SECONDS = 2.0
IDENTITY_SECONDS = 10.0
"""How long a change waits for the cluster to say who it is; as long as one call may take."""

STALE_SECONDS = 120.0
"""A mirror that has heard nothing for longer is not acted upon, nor called ready."""

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
        self.sanitizer = Sanitizer(self.policy)


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

    def busy(self, stack_id: str) -> bool:
        """Whether somebody is at work on the stack."""
        lock = self._locks.get(stack_id)
        return lock is not None and lock.locked()


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
    """One daemon's room; ``creating`` holds the creates under way, ``waiting_for`` why the cluster is not at hand
    (``refused``: it is, and does not accept stackd), ``file_trouble`` why the file could not be written when that was last tried.

    ``rows`` are those who wait for a change of some row, ``evidence`` the stacks whose events and logs are to be kept.
    """

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
    evidence: EvidenceWanted = field(default_factory=EvidenceWanted)
    rows: Waiters[Stack] = field(default_factory=Waiters)
    quotas: Quotas = field(default_factory=Quotas)
    creating: dict[str, Abandon] = field(default_factory=dict)
    create_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATES_AT_ONCE))
    metrics: Metrics = field(default_factory=Metrics)
    waiting_for: str = ""
    refused: bool = False
    file_trouble: str = ""
    closing: bool = False

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.settings.current

    @property
    def policy(self) -> Policy:
        """The pod policy in force."""
        return self.settings.policy

    @property
    def sanitizer(self) -> Sanitizer:
        """What checks pod specs under that policy."""
        return self.settings.sanitizer

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

    async def right_cluster(self) -> None:
        """Return once the cluster has said that it is the file's own: on another one nothing is to be found, which is no
        proof that it is gone. Raises ClusterUnavailable, without waiting where the cluster does not accept stackd.
        """
        if self.refused:
            raise ClusterUnavailable(self.waiting_for)
        try:
            await self.brake.identity_known(IDENTITY_SECONDS)
        except TimeoutError:
            why = f": {self.waiting_for}" if self.waiting_for else ""
            raise ClusterUnavailable(f"the cluster has not said who it is{why}") from None
        self.require_cluster()

    def abandon_create(self, stack_id: str) -> None:
        """Have the stack's create undo itself, if it is still under way."""
        if (abandon := self.creating.get(stack_id)) is not None:
            abandon.set()

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """A row changed (a subscriber of the store): tell those who wait for it."""
        changed = after or before
        if changed is not None:
            self.rows.wake(changed.stack_id, after)

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


def current_pod(room: Room, stack: Stack) -> PodState | None:
    """The stack's pod as the mirror has it; one of an earlier generation, which is on its way out, does not count."""
    pod = room.mirror.pods.get(stack.pod_name)
    return None if pod is None or pod.generation < stack.generation else pod


def new_id(prefix: str) -> str:
    """A new random id: the prefix, a dash and 16 hex digits."""
    return f"{prefix}-{secrets.token_hex(8)}"
