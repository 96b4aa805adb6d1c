"""The context that every verb gets: store, cluster, mirror, clock, settings in force, and the worker; and what a create is
asked for.

Owns: what is seen of a stack. Whether anything may be done is asked at the ``gate``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from stackd.clock import NANOSECONDS, Clock, WallClock
from stackd.config import Config, LimitsSection, policy_of
from stackd.errors import ClusterUnavailable
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.mirror import Mirror
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.routes import names_of, wanted_routes
from stackd.lifecycle import nodes
from stackd.lifecycle.audit import Audit
from stackd.lifecycle.gate import AWAY_SECONDS, Brake, Gate
from stackd.lifecycle.next_step import SeenRoute, Step, next_step, own_pod
from stackd.lifecycle.nodes import Quotas
from stackd.lifecycle.ownership import Ownership
from stackd.lifecycle.pools import Pools
from stackd.lifecycle.worker import Worker
from stackd.metrics import Metrics
from stackd.model import NO_LABELS, PortRange, RoutedTarget, SanitizedSpec, Stack, TargetPort
from stackd.podspec import Policy, Sanitizer
from stackd.store import Claim, CreateLimits, Store
from stackd.tasks import Tasks, Waiters
from stackd.templates import NO_TEMPLATES, Template, TemplateSet
from stackd.workqueue import WorkQueue

T = TypeVar("T")

SETTLE_EXTRA_SECONDS = 1.0
"""So much longer than one call a change is waited for: then the error of the call itself is the answer."""

CREATES_AT_ONCE = 32
"""At most this many creates talk to the cluster at a time. The others wait, so that a burst neither runs into deadlines
nor delays everything else."""

FEW_CREATES_AT_ONCE = 8
"""At most this many while the worker is late: otherwise creates would take all of what the cluster can do from expiries,
whose ports and room they need."""

LOG_READS_AT_ONCE = 8
"""At most this many clients read logs from the cluster at a time, so that neither creates nor captures wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What is requested, and by whom; ``ttl`` in seconds, None for the configured default.

    ``template`` is the source of ``spec`` and ``target_ports``, None if the client sent them.
    ``claim`` is the client's Idempotency-Key, if it sent one. ``among``: limits of labels count only the stacks with these
    labels. ``may_use``: which templates' pools may serve it. ``unassigned``: the stack is for the pool of its template, and
    belongs to nobody yet.
    """

    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    may_use: Callable[[str], bool] = lambda _: True
    by: str = "stackd"
    claim: Claim | None = None
    template: Template | None = None
    unassigned: bool = False

    @property
    def node_ports(self) -> int:
        """How many node ports the stack will hold."""
        return sum(not isinstance(port, RoutedTarget) for port in self.target_ports)

    def limits(self, config: LimitsSection) -> CreateLimits:
        """What the reservation of the stack checks; a stack for a pool does not count against the limit of all."""
        most = None if self.unassigned else config.max_stacks or None
        return CreateLimits(max_stacks=most, labels=config.stacks_per_label, among=self.among)


class Abandon(asyncio.Event):
    """Set once whoever asked for a create has left: it undoes itself at its next step. ``wake`` ends its wait."""

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None

    def set(self) -> None:
        """Abandon the create."""
        super().set()
        self.wake()

    def check(self) -> None:
        """Raise ClusterUnavailable if the create was abandoned."""
        if self.is_set():
            raise ClusterUnavailable("the create was abandoned")


class Settings:
    """The configuration in force, the pod policy that follows from it, and the templates; a reload replaces all."""

    def __init__(self, config: Config, templates: TemplateSet = NO_TEMPLATES) -> None:
        self.replace(config, templates)

    def replace(self, config: Config, templates: TemplateSet | None = None) -> None:
        """Put another configuration in force; the templates stay if none are given."""
        self.current = config
        if templates is not None:
            self.templates = templates
        self.policy = policy_of(config)
        self.sanitizer = Sanitizer(self.policy)


@dataclass(slots=True, kw_only=True)
class Context:
    """What one daemon's verbs share.

    ``creating``       the creates under way
    ``worker``         makes stacks be as their rows say; ``diagnostics``: stacks whose events and logs are to be kept
    ``removable``      the uids of objects without a row that a pass or the operator wants removed
    ``log_captures``   tasks that keep the last log lines of stacks that are being deleted
    ``long_specs``     who may check a long pod spec: each takes many milliseconds
    ``rows``           those who wait for a change of some row
    ``pools``          the stacks that wait to be assigned, by template
    ``node_ports``     the cluster's node port range, if known
    ``families``       the address families of the Services that were seen last
    """

    store: Store
    cluster: Cluster
    ownership: Ownership
    clock: Clock
    wall_clock: WallClock
    settings: Settings
    tasks: Tasks
    metrics: Metrics
    mirror: Mirror = field(init=False)
    brake: Brake = field(init=False)
    gate: Gate = field(init=False)
    audit: Audit = field(init=False)
    worker: Worker = field(init=False, repr=False)
    diagnostics: WorkQueue[str] = field(init=False)
    removable: set[str] = field(default_factory=set)
    log_captures: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    rows: Waiters[Stack] = field(default_factory=Waiters)
    quotas: Quotas = field(default_factory=Quotas)
    creating: dict[str, Abandon] = field(default_factory=dict)
    create_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATES_AT_ONCE))
    few_create_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FEW_CREATES_AT_ONCE))
    log_reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOG_READS_AT_ONCE))
    long_specs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    node_ports: PortRange | None = None
    families: tuple[str, ...] = ()
    pools: Pools = field(default_factory=Pools)

    def __post_init__(self) -> None:
        self.mirror, self.brake = Mirror(self.cluster, clock=self.clock), Brake(self.clock)
        self.gate = Gate(self)
        self.audit = Audit(self)

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.settings.current

    @property
    def sanitizer(self) -> Sanitizer:
        """Checks pod specs under the policy in force."""
        return self.settings.sanitizer

    @property
    def instance(self) -> str:
        """The name of this instance on its objects."""
        return self.config.cluster.instance

    @property
    def longest_life(self) -> int:
        """``stacks.max_ttl`` in nanoseconds."""
        return round(self.config.stacks.max_ttl * NANOSECONDS)

    @property
    def fence(self) -> Fence:
        """Says until when this process may change anything or acknowledge a change."""
        return self.gate.fence

    def policy_for(self, template: str | None) -> Policy:
        """The policy of a stack made from the template of this name; the one in force where there is no such template."""
        source = self.settings.templates.get(template) if template is not None else None
        return self.settings.policy if source is None else source.policy

    def current_pod(self, stack: Stack) -> PodState | None:
        """The stack's pod as the mirror has it; a pod of an earlier generation, which is being deleted, does not count."""
        return own_pod(self.mirror.pods.get(stack.pod_name), stack)

    def view_restored(self, away: float) -> None:
        """The watches are back after ``away`` seconds: perhaps those of another cluster. While they are away, the gate
        refuses all work."""
        if self.mirror.synced:
            self.gate.verify_again()
        if away > AWAY_SECONDS:
            self.worker.retry_all()

    def step(self, stack: Stack) -> Step | None:
        """What is to be done next about the stack, by what is seen of it."""
        pod = self.mirror.pods.get(stack.pod_name)
        if pod is not None and pod.instance != self.instance:
            pod = replace(pod, stack_id="")  # somebody has changed or removed our labels
        now = self.clock.now() if self.wall_clock.trusted else None
        return next_step(stack, pod, self.mirror.services.get(stack.service_name), now, self.routes_of(stack))

    def routes_of(self, stack: Stack) -> list[SeenRoute]:
        """What gives the stack names, as far as it is watched."""
        if not stack.routed:
            return []
        routes = wanted_routes(stack, self.config.routes, self.instance)
        wanted = {(one.resource, one.name): one for one in routes}
        return [
            SeenRoute(resource=kind, wanted=wanted.get((kind, name)), seen=self.mirror.routes[kind].get(name))
            for kind, name in (wanted if stack.ports_held else names_of(stack))
            if self.mirror.knows(kind)
        ]

    async def settle(self, stack_id: str) -> None:
        """Return when nothing is left to do about the stack. Raises what keeps it from that, soon after the time that
        one call to the cluster may take."""
        await self.worker.settle(stack_id, timeout=self.cluster.target.timeout + SETTLE_EXTRA_SECONDS)

    async def until(self, stack_id: str, predicate: Callable[[Stack | None], T | None], timeout: float) -> T | None:
        """What the predicate returns for the row at last; None after ``timeout`` seconds. Raises what it raises."""
        try:
            return await self.rows.until(stack_id, predicate, lambda: self.store.stacks.get(stack_id), timeout)
        except TimeoutError:
            return None

    def abandon_create(self, stack_id: str) -> None:
        """Abandon the stack's create, if it is still under way: it undoes itself."""
        if (abandon := self.creating.get(stack_id)) is not None:
            abandon.set()

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: wake those who wait for the row."""
        if (changed := after or before) is not None:
            self.rows.wake(changed.stack_id, after)

    def public_address(self, node_name: str | None, service: ServiceState | None = None) -> str | None:
        """The address at which a node's ports are reached: ``stacks.public_ips`` first, then the node's own address in
        the families of the stack's ``service``; without a ``service``, in the families that stacks' Services had last.
        """
        if service is not None and service.families:
            self.families = service.families
        if (node := self.mirror.nodes.get(node_name or "")) is None:
            return self.config.stacks.public_ips.get(node_name or "")
        return nodes.address(self.config, node, self.families)


def new_id(prefix: str) -> str:
    """A new random id: the prefix, a dash and 16 hex digits."""
    return f"{prefix}-{secrets.token_hex(8)}"
