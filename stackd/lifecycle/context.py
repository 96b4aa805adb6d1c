"""The context that every verb and step gets: store, cluster, mirror, clock, settings in force, and the loop; and the request
of a create.

Owns: what stackd remembers of a stack beside its row. ``gate`` says whether stackd may change anything.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar

from stackd.clock import NANOSECONDS, Clock, WallClock
from stackd.codes import HOST, Host
from stackd.config import Config, LimitsSection, policy_of
from stackd.errors import ClusterUnavailable, StoreUnavailable
from stackd.kube.client import Cluster
from stackd.kube.guards import Fence
from stackd.kube.mirror import Mirror
from stackd.lifecycle.audit import Audit
from stackd.lifecycle.gate import Gate
from stackd.lifecycle.health import Checks
from stackd.lifecycle.loop import Loop
from stackd.lifecycle.nodes import ClusterFacts
from stackd.lifecycle.pools import Pools
from stackd.lifecycle.spares import Spares
from stackd.lifecycle.status import Memory
from stackd.lifecycle.template_pods import TemplatePods
from stackd.metrics import Metrics, PhaseTimer
from stackd.model import (
    NO_LABELS,
    NO_VALUES,
    STACKD,
    LabelQuota,
    PortMapping,
    Principal,
    RoutedTarget,
    SanitizedSpec,
    Stack,
    StackStatus,
    TargetPort,
)
from stackd.podspec import Policy, Sanitizer
from stackd.podspec.members import members_of
from stackd.store import Claim, CreateLimits, Store
from stackd.tasks import Tasks
from stackd.templates import NO_TEMPLATES, Reader, Template, TemplateSet
from stackd.timing import CALL_EXTRA_SECONDS
from stackd.workqueue import WorkQueue

P = ParamSpec("P")
T = TypeVar("T")
LOG_READS_AT_ONCE = 8
"""At most this many clients read logs from the cluster at a time, so that neither creates nor captures wait for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """What is requested, and by whom; ``ttl`` in seconds, None for the configured default.

    ``template`` is the source of ``spec`` and ``target_ports``, None if the client sent them.
    ``env``: the variables that it sets, which no stack of a pool has.
    ``claim`` is the client's Idempotency-Key, if it sent one. ``among`` and ``others``: limits of labels count only the stacks
    with these labels, and with none of those; ``quotas`` are a player's. ``may_use``: which templates' pools may serve it.
    ``unassigned``: the stack is for the pool of its template, and belongs to nobody yet. ``shared``: it is its template's one
    stack for everybody.
    """

    spec: SanitizedSpec
    target_ports: tuple[TargetPort, ...]
    ttl: float | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    others: tuple[Mapping[str, str], ...] = ()
    quotas: tuple[LabelQuota, ...] = ()
    may_use: Callable[[str], bool] = lambda _: True
    by: Principal = STACKD
    claim: Claim | None = None
    template: Template | None = None
    env: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    unassigned: bool = False
    shared: bool = False

    @property
    def for_template(self) -> bool:
        """Whether no client has asked for it, but stackd itself."""
        return self.unassigned or self.shared

    @property
    def node_ports(self) -> int:
        return sum(not isinstance(port, RoutedTarget) for port in self.target_ports)

    def stack(self, context: Context, stack_id: str, ports: tuple[PortMapping, ...] = ()) -> Stack:
        """The stack that is requested, with a new life and generated values."""
        config, now, template = context.config.stacks, context.wall_clock.now(), self.template
        ends = now + round((config.ttl if self.ttl is None else self.ttl) * NANOSECONDS)
        closes = template.hours.closes if template is not None else 0
        return Stack(
            stack_id=stack_id,
            namespace=config.namespace,
            pod_spec=self.spec.text,
            ports=ports,
            status=StackStatus.CREATING,
            created_at=now,
            updated_at=now,
            ttl_expires_at=min(ends, closes) if closes else ends,
            requested_cpu_milli=self.spec.requested_cpu_milli,
            requested_memory_bytes=self.spec.requested_memory_bytes,
            labels=MappingProxyType(dict(self.labels)),
            unassigned=self.unassigned,
            template=template.name if template is not None else None,
            values=template.generate() if template is not None else NO_VALUES,
            digest=template.digest if template is not None else None,
            serving=0 if self.shared else None,
            env=self.env,
            offer=template.offer if template is not None else None,
            members=members_of(self.spec) if self.spec.members else (),
        )

    @property
    def cost(self) -> int:
        """What the stack counts for ``limits.cost_per_label``."""
        return self.template.cost if self.template is not None else 1

    def limits(self, config: LimitsSection) -> CreateLimits:
        """What the reservation of the stack checks; the limit of all is for those that clients ask for."""
        most = None if self.for_template else config.max_stacks or None
        limits = CreateLimits(max_stacks=most, among=self.among, others=self.others, quotas=self.quotas)
        return with_label_limits(limits, config)


def with_label_limits(limits: CreateLimits, config: LimitsSection) -> CreateLimits:
    """These limits, and the configured ones of labels."""
    return replace(limits, labels=config.stacks_per_label, costs=config.cost_per_label)


@dataclass(slots=True, kw_only=True, eq=False)
class Creation:
    """A create under way, for which somebody waits.

    ``made_at``: when all of its objects had been created (seconds on the monotonic clock); ``uids`` are those of its pods, by
    their names.
    ``abandoned``: whoever asked for it has left.
    """

    request: CreateRequest
    timer: PhaseTimer
    made_at: float | None = None
    uids: dict[str, str] = field(default_factory=dict)
    abandoned: bool = False

    def check(self) -> None:
        """Raise ClusterUnavailable if the create was abandoned."""
        if self.abandoned:
            raise ClusterUnavailable("the create was abandoned")


class Settings:
    """The configuration in force, the pod policy that follows from it, and the templates; a reload replaces all.

    ``long_specs``: who may check a long pod spec; each takes many milliseconds. ``changing``: held from the reading of
    templates until they are in force. ``removed``: the templates that somebody has removed, over the API or by a reload
    without their files. A template that is only not there (another machine's, of a lost file, not allowed) is missing: its
    pool and its shared stack stay. ``cluster_templates_known``: those in the cluster are in force as they are there, and
    ``template_news`` says that they may have changed; until then, the state file's may be outdated.
    """

    def __init__(self, config: Config, templates: TemplateSet = NO_TEMPLATES) -> None:
        self.long_specs = asyncio.Semaphore(1)
        self.changing = asyncio.Lock()
        self.template_news = asyncio.Event()
        self.cluster_templates_known = False
        self.reader = Reader(config)
        self.removed: set[str] = set()
        self.current, self.templates = config, NO_TEMPLATES
        self.replace(config, templates)

    def replace(self, config: Config, templates: TemplateSet | None = None) -> None:
        """Put another configuration in force; the templates stay if none are given."""
        before, self.current = self.current, config
        HOST.name = config.play.host_name or Host().name
        if templates is not None:
            if config.templates.directory == before.templates.directory:  # else nobody has removed anything from it
                gone = (
                    template.name
                    for template in self.templates.values()
                    if template.source == "file" and template.name not in templates
                )
                self.removed.update(gone)
            self.removed.difference_update(templates)
            self.templates = templates
        self.policy = policy_of(config)
        self.sanitizer = Sanitizer(self.policy)

    def may_be_outdated(self, name: str) -> bool:
        """Whether the cluster may have another text of the template than the one in force."""
        template = self.templates.get(name)
        return template is not None and template.source != "file" and not self.cluster_templates_known

    def policy_for(self, template: str | None) -> Policy:
        """The policy of a stack made from the template of this name; the one in force where there is no such template."""
        source = self.templates.get(template) if template is not None else None
        return self.policy if source is None else source.policy

    def is_missing(self, name: str) -> bool:
        """Whether there is no template of this name in force, although nobody has removed it."""
        return bool(name) and name not in self.templates and name not in self.removed


@dataclass(slots=True, kw_only=True)
class Diagnostics:
    """``queue``: the stacks whose events and logs are to be kept; ``captures``: tasks that keep the last log lines of stacks
    that are being deleted; ``reads``: who may read logs from the cluster."""

    queue: WorkQueue[str]
    captures: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOG_READS_AT_ONCE))


@dataclass(slots=True, kw_only=True)
class Context:
    """What one daemon's verbs share.

    ``loop``     reconciles stacks
    ``creates``  the creates under way, by the stack's id
    ``memory``   what is remembered of stacks between two looks
    ``pools``    the stacks that wait to be assigned, by template
    ``facts``    what is known of the cluster beside its objects
    ``checks``   what checks have said
    ``template_pods``  the pods that templates own; ``template_loop``: looks after all that they own, by their names
    ``spares``   the Services that belong to no stack yet
    """

    store: Store
    cluster: Cluster
    wall_clock: WallClock
    settings: Settings
    tasks: Tasks
    metrics: Metrics
    mirror: Mirror
    gate: Gate
    audit: Audit
    loop: Loop
    diagnostics: Diagnostics
    template_pods: TemplatePods
    template_loop: WorkQueue[str]
    creates: dict[str, Creation] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    pools: Pools = field(default_factory=Pools)
    facts: ClusterFacts = field(default_factory=ClusterFacts)
    checks: Checks = field(default_factory=Checks)
    spares: Spares = field(default_factory=Spares)

    @property
    def clock(self) -> Clock:
        return self.wall_clock.clock

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self.settings.current

    @property
    def longest_life(self) -> int:
        """``stacks.max_ttl`` in nanoseconds."""
        return round(self.config.stacks.max_ttl * NANOSECONDS)

    @property
    def fence(self) -> Fence:
        """Says until when this process may change anything or acknowledge a change."""
        return self.gate.fence

    @property
    def longest_call(self) -> float:
        """How long (seconds) somebody waits for a change: a little longer than one call may take, so that the error of the
        call itself is the answer."""
        return self.cluster.target.timeout + CALL_EXTRA_SECONDS

    @property
    def longest_turn(self) -> float:
        """As ``longest_call``, where an error takes back what is fine: the calls before it in a burst have as long, too."""
        return 2 * self.longest_call

    async def probe_file(self) -> None:
        """Note whether the state file can be written (``gate.file_error``)."""
        try:
            await self.store.probe()
            self.gate.file_error = ""
        except StoreUnavailable as error:
            self.gate.file_error = str(error)

    def observe_all(self) -> None:
        """Have all stacks looked at: their statuses may mean something else by now."""
        self.memory.seen.clear()
        self.loop.wake_all()

    def wake_templates(self, delay: float = 0.0) -> None:
        for name in ("", *self.settings.templates, *self.pools.by_name):
            self.template_loop.add(name, delay=delay)

    def abandon_create(self, stack_id: str) -> None:
        """Abandon the stack's create, if it is still under way: it undoes itself."""
        if (creation := self.creates.get(stack_id)) is not None:
            creation.abandoned = True
            self.loop.wake_waiters(stack_id)


def goes_on(
    verb: Callable[Concatenate[Context, str, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Context, str, P], Coroutine[Any, Any, T]]:
    """The verb about the object of an id or name, in a task that goes on when the caller leaves."""

    @wraps(verb)
    async def in_task(context: Context, of: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await context.tasks.run(f"{verb.__name__} {of}", verb(context, of, *args, **kwargs))

    return in_task


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(8)}"
