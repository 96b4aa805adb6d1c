"""The context that every verb gets: store, cluster, mirror, clock, settings in force, and the worker.

Owns: what is seen of a stack. Whether anything may be done is asked at the ``gate``.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field, replace

from stackd.clock import Clock
from stackd.config import Config, policy_of
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.mirror import Mirror
from stackd.kube.objects import PodState, ServiceState
from stackd.kube.records import wanted_pod
from stackd.kube.routes import names_of, wanted_routes
from stackd.lifecycle import nodes
from stackd.lifecycle.brake import Brake
from stackd.lifecycle.capacity import Quotas
from stackd.lifecycle.create_request import Abandon
from stackd.lifecycle.gate import AWAY_SECONDS, Gate
from stackd.lifecycle.next_step import SeenRoute, Step, next_step, own_pod
from stackd.lifecycle.ownership import Ownership
from stackd.lifecycle.pools import Pools
from stackd.lifecycle.wall_clock import WallClock
from stackd.lifecycle.worker import Worker
from stackd.metrics import Metrics
from stackd.model import PortRange, Stack
from stackd.podspec import Policy, Sanitizer
from stackd.store import Store
from stackd.structs import struct
from stackd.tasks import Tasks, Waiters
from stackd.templates import NO_TEMPLATES, TemplateSet
from stackd.workqueue import WorkQueue

SETTLE_EXTRA_SECONDS = 1.0
"""So much longer than one call a change is waited for: then the error of the call itself is the answer."""

CREATES_AT_ONCE = 32
"""At most this many creates talk to the cluster at a time. The others wait, so that a burst neither runs into deadlines
nor delays everything else."""

LOG_READS_AT_ONCE = 8
"""At most this many clients read logs from the cluster at a time, so that neither creates nor captures wait for them."""


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


@struct
class Unseen:
    """A pod that the watch does not report, as Kubernetes returned it; asked for again at ``ask_at`` (monotonic)."""

    pod: PodState
    ask_at: float


@dataclass(slots=True, kw_only=True)
class Context:
    """What one daemon's verbs share.

    ``creating``       the creates under way
    ``worker``         makes stacks be as their rows say; ``diagnostics``: stacks whose events and logs are to be kept
    ``unseen``         pods that exist although the watch does not report them, as Kubernetes has returned them
    ``removable``      the uids of objects without a row that a pass or the operator wants removed
    ``log_captures``   tasks that keep the last log lines of stacks that are being deleted
    ``long_specs``     who may check a long pod spec: each takes many milliseconds
    ``rows``           those who wait for a change of some row
    ``pools``          the stacks that wait to be given to somebody, by template
    ``unrecordable``   the uids of Services from which something in the cluster removes stackd's annotations
    ``node_ports``     the cluster's node port range, if known
    ``families``       the address families of the Services that were seen last
    """

    store: Store
    cluster: Cluster
    ownership: Ownership
    mirror: Mirror
    clock: Clock
    wall_clock: WallClock
    settings: Settings
    tasks: Tasks
    brake: Brake
    gate: Gate
    worker: Worker = field(init=False, repr=False)
    diagnostics: WorkQueue[str]
    unseen: dict[str, Unseen] = field(default_factory=dict)
    removable: set[str] = field(default_factory=set)
    log_captures: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    rows: Waiters[Stack] = field(default_factory=Waiters)
    quotas: Quotas = field(default_factory=Quotas)
    creating: dict[str, Abandon] = field(default_factory=dict)
    create_slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CREATES_AT_ONCE))
    log_reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOG_READS_AT_ONCE))
    long_specs: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    metrics: Metrics = field(default_factory=Metrics)
    unrecordable: set[str] = field(default_factory=set)
    node_ports: PortRange | None = None
    families: tuple[str, ...] = ()
    pools: Pools = field(default_factory=Pools)

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.settings.current

    @property
    def policy(self) -> Policy:
        """The pod policy in force."""
        return self.settings.policy

    def policy_for(self, template: str | None) -> Policy:
        """The policy of a stack made from the template of this name; the one in force where there is no such template."""
        known = self.settings.templates.get(template) if template is not None else None
        return self.settings.policy if known is None else known.policy

    @property
    def sanitizer(self) -> Sanitizer:
        """Checks pod specs under the policy in force."""
        return self.settings.sanitizer

    @property
    def fence(self) -> Fence:
        """Says until when this process may change anything or acknowledge a change."""
        return self.gate.fence

    def pod_of(self, stack: Stack) -> PodState | None:
        """The stack's pod as the mirror has it, or as Kubernetes has returned it on request."""
        if (pod := own_pod(self.mirror.pods.get(stack.pod_name), stack)) is not None:
            return pod
        unseen = self.unseen.get(stack.stack_id)
        return unseen.pod if unseen is not None and unseen.pod.uid == stack.pod_uid else None

    def view_restored(self, away: float) -> None:
        """The watches are back after ``away`` seconds: perhaps those of another cluster. While they are away, the gate
        refuses all work.
        """
        if self.mirror.synced:
            self.gate.doubt()
        if away > AWAY_SECONDS:
            self.retry_all()

    def retry_all(self) -> None:
        """The cluster answers again: make due now what was put off because it did not."""
        self.ownership.hurry()
        self.worker.retry_all()

    def step(self, stack: Stack) -> Step | None:
        """What is to be done next about the stack, by what is seen of it."""
        pod = self.pod_of(stack) or self.mirror.pods.get(stack.pod_name)
        if pod is not None and pod.instance != self.config.cluster.instance:
            pod = replace(pod, stack_id="")  # somebody has changed or removed our labels
        service = self.mirror.services.get(stack.service_name)
        if service is not None and service.uid in self.unrecordable:
            service = replace(
                service,
                recorded=True,
                generation=stack.generation,
                desired=wanted_pod(stack),
                expires_at=stack.ttl_expires_at,
            )
        now = self.clock.now() if self.wall_clock.trusted else None
        return next_step(stack, pod, service, now, self.routes_of(stack))

    def routes_of(self, stack: Stack) -> list[SeenRoute]:
        """What gives the stack names, as far as it is watched."""
        if not stack.routed:
            return []
        wanted = {
            (one.resource, one.name): one
            for one in wanted_routes(stack, self.config.routes, self.config.cluster.instance)
        }
        kept = wanted if stack.ports_held else dict.fromkeys(names_of(stack))
        return [
            SeenRoute(
                resource=resource, wanted=wanted.get((resource, name)), seen=self.mirror.routes[resource].get(name)
            )
            for resource, name in kept
            if self.mirror.knows(resource)
        ]

    async def settle(self, stack_id: str) -> None:
        """Return when nothing is left to do about the stack. Raises what keeps it from that, soon after the time that one
        call to the cluster may take.
        """
        await self.worker.settle(stack_id, timeout=self.cluster.target.timeout + SETTLE_EXTRA_SECONDS)

    def abandon_create(self, stack_id: str) -> None:
        """Abandon the stack's create, if it is still under way: it undoes itself."""
        if (abandon := self.creating.get(stack_id)) is not None:
            abandon.set()

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: wake those who wait for the row."""
        changed = after or before
        if changed is not None:
            self.rows.wake(changed.stack_id, after)

    def public_address(self, node_name: str | None, service: ServiceState | None = None) -> str | None:
        """The address at which a node's ports are reached: ``stacks.public_ips`` first, then the node's own address in
        the families of the stack's ``service``; without a ``service``, in the families that stacks' Services had last.
        """
        if service is not None and service.families:
            self.families = service.families
        if node_name is None:
            return None
        if node_name in self.config.stacks.public_ips:
            return self.config.stacks.public_ips[node_name]
        node = self.mirror.nodes.get(node_name)
        return None if node is None else nodes.address(self.config, node, self.families)


def current_pod(context: Context, stack: Stack) -> PodState | None:
    """The stack's pod as the mirror has it; a pod of an earlier generation, which is being deleted, does not count."""
    return own_pod(context.mirror.pods.get(stack.pod_name), stack)


def new_id(prefix: str) -> str:
    """A new random id: the prefix, a dash and 16 hex digits."""
    return f"{prefix}-{secrets.token_hex(8)}"
