"""The nouns of stackd, as frozen records.

Owns: what a stack, a port, a batch job and their statuses are. Does not know HTTP, SQL or Kubernetes.

Times are integer nanoseconds since the Unix epoch (UTC); CPU is in thousandths of a core, memory in bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

T = TypeVar("T")

NO_LABELS: Mapping[str, str] = MappingProxyType({})
NO_VALUES: Mapping[str, str] = MappingProxyType({})
NO_LIMITS: Mapping[str, int] = MappingProxyType({})
NO_MEMBERS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
NOT_READY = "NotReady"  # the status_reason of a stack that runs and is not ready
CHECK_FAILED = "CheckFailed"  # the status_reason of a stack that runs, and does not pass its check
SERVICE_PREFIX = "svc-"
RANGE_PREFIX = "range-"
"""The name prefix of a Service that only asks for the cluster's range of node ports."""
NODE_PORTS_REMEDY = (
    "choose stacks.node_port_min and node_port_max within it, or change the API server's --service-node-port-range"
)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def struct(cls: type[T]) -> type[T]:
    """A dataclass with slots and keyword-only fields that is never changed: mypy refuses that, the interpreter does not.

    For small classes of which many are made for each request. The ``__init__`` of a dataclass that the interpreter keeps
    frozen takes three times as long (it calls a function for each field), and a create makes about a hundred of these.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


@struct
class Principal:
    """Who asks for something. Rights, budgets and claims go by the ``id``; the ``name`` is for people, and others may have it.

    An id has no blanks: ``key:`` and the start of a key's hash, ``person:`` and a hash of issuer and subject, a link's id with
    the visitor of an open one, or the name of what is nobody's: ``anonymous``, ``stackd``, ``cluster``.
    """

    id: str
    name: str

    def __str__(self) -> str:
        """The form in which it is kept: the id, then the name if that is another text."""
        return self.id if self.id == self.name else f"{self.id} {self.name}"

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Read what ``str`` has written."""
        who, _, name = text.partition(" ")
        return cls(id=who, name=name or who)


STACKD = Principal(id="stackd", name="stackd")
CLUSTER = Principal(id="cluster", name="cluster")


class StackStatus(enum.StrEnum):
    """The contract's stack statuses."""

    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    NODE_DELETED = "node_deleted"


ACTIVE_STATUSES = frozenset({StackStatus.CREATING, StackStatus.RUNNING})


class Desired(enum.StrEnum):
    """What the stack's user wants: a pod, or no pod until the stack is started again."""

    RUNNING = "running"
    STOPPED = "stopped"


class JobStatus(enum.StrEnum):
    """The contract's job statuses."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class JobAction(enum.StrEnum):
    """What a batch job does with each of its stacks."""

    EXTEND = "extend"
    RESTART = "restart"
    STOP = "stop"
    START = "start"
    DELETE = "delete"
    CREATE = "create"
    RENEW = "renew"


class DeleteReason(enum.StrEnum):
    """Why a stack is being deleted; stored with the intent, and logged."""

    REQUEST = "request"
    BATCH = "batch"
    EXPIRED = "expired"
    UNDO = "undo"
    POOL = "pool"


class EventKind(enum.StrEnum):
    """The kinds of lines in a stack's timeline."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    PULLING = "pulling"
    STARTED = "started"
    READY = "ready"
    NOT_READY = "not_ready"
    UNHEALTHY = "unhealthy"
    HEALTHY = "healthy"
    RESTARTED = "restarted"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"
    NODE_DELETED = "node_deleted"
    EXTENDED = "extended"
    LABELLED = "labelled"
    STOP_REQUESTED = "stop_requested"
    START_REQUESTED = "start_requested"
    RESTART_REQUESTED = "restart_requested"
    DELETE_REQUESTED = "delete_requested"
    DELETED = "deleted"
    WARNING = "warning"


class Outcome(enum.StrEnum):
    """The outcome of one id of a batch job. Each id has exactly one (invariant 7)."""

    DONE = "done"
    NOT_FOUND = "not_found"
    FAILED = "failed"


class Route(enum.StrEnum):
    """By what a published port is reached at a name through the Gateway, instead of at a node port."""

    HTTP = "http"
    HTTPS = "https"
    TLS = "tls"


@struct
class TargetPort:
    """A container port that a stack publishes."""

    container_port: int
    protocol: str


@struct
class RoutedTarget(TargetPort):
    """A container port that a stack publishes at a name of its own."""

    route: Route


@struct
class PortMapping:
    """A published container port and the node port that leads to it; 0 before one is reserved."""

    container_port: int
    protocol: str
    node_port: int


@struct
class RoutedPort(PortMapping):
    """A published container port that is reached at a name; ``node_port`` is 0, because it has none.

    ``host`` is the name, with ``:port`` unless that is the default of the URL's scheme; of ``tls``, always.
    """

    node_port: int = 0
    route: Route
    host: str

    @property
    def hostname(self) -> str:
        return self.host.partition(":")[0]

    @property
    def url(self) -> str:
        """Where a browser finds it; empty for ``tls``."""
        return "" if self.route is Route.TLS else f"{self.route}://{self.host}"


@dataclass(frozen=True, slots=True)
class PortRange:
    """Node ports from ``first`` to ``last``, both included."""

    first: int
    last: int

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __len__(self) -> int:
        return max(0, self.last - self.first + 1)

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def common(self, other: PortRange) -> PortRange:
        """The ports in both ranges; of length 0 if there are none."""
        return PortRange(max(self.first, other.first), min(self.last, other.last))

    def mismatch(self, cluster: PortRange) -> str:
        """Which of these configured ports the cluster's own range excludes; empty if none. ``NODE_PORTS_REMEDY`` helps."""
        usable = self.common(cluster)
        if not usable:
            return f"{self} (stacks.node_port_min to node_port_max) is outside of the cluster's own range, {cluster}"
        if usable != self:
            return f"only {usable} of the node ports {self} are used: the cluster's own range is {cluster}"
        return ""


@struct
class SanitizedSpec:
    """The result of the pod-spec policy for a tenant's text.

    ``text`` is the canonical YAML that the API returns; ``manifest`` is the same Pod as JSON-ready data
    (apiVersion, kind, metadata, spec), without names, labels or anything else that the operator adds.
    ``members`` are those of the other pods, by the names under which they are reached; text and requests are those of all.
    """

    text: str = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)
    requested_cpu_milli: int
    requested_memory_bytes: int
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: NO_MEMBERS, repr=False)


@struct
class Offer:
    """What a template offers players of its stacks: a ``title``, the names of the values that they may see (``show``), that they
    may extend a stack so many ``times`` ``by`` so many seconds, and what a stack costs (``limits.cost_per_label``)."""

    title: str = ""
    show: tuple[str, ...] = ()
    by: float = 0.0
    times: int = 0
    cost: int = 1


NO_OFFER = Offer()


@struct
class Member:
    """A pod beside a stack's first one. The others reach its ``ports`` (number, protocol) under its ``name``.

    ``generation``, ``pod_uid`` and ``node_id`` as of the stack. ``address``: that of its Service, which the pods that there are
    know; empty before that is known.
    """

    name: str
    ports: tuple[tuple[int, str], ...] = ()
    generation: int = 0
    pod_uid: str | None = None
    node_id: str | None = None
    address: str = ""


@struct
class Stack:
    """One row: what stackd intends and what it last observed.

    ``pod_spec``        the pod spec's text; None in memory if it is long (``Stacks.with_pod_spec`` reads it from the file)
    ``accepted``        the create is completed; before that, no client has been told that the stack exists
    ``ended``           the pod has ended for good: Service and ports are released, the row stays until its TTL
    ``deleting_since``  when a delete was requested that the cluster has not confirmed yet; the stack is still listed,
                        unless its create was undone
    ``pod_uid``         the pod that was created for it; None without a pod, or before it is known to exist;
                        ``service_uid`` likewise
    ``desired``         what its user wants; ``stopped`` keeps the ports
    ``generation``      how many pods it had before the current one; pods of earlier generations are deleted
    ``template``        the name of its template; ``digest`` identifies the template's content at the time
    ``offer``           what players see of it and may do with it, as its template said then; None without a template
    ``extensions``      how many times players have extended it, each time by as much as the offer says
    ``relabelled``      how many times its labels were changed: by this, the row and the record tell whose are newer
    ``values``          the values generated for it, by environment variable; secrets that only its creator is told
    ``env``             the variables that its create has set, which its template names; no secrets
    ``unassigned``      it waits in a pool until a client asks for a stack; until then it does not exist for any client
    ``spare``           nothing but a Service that a later create takes, with its id and node port; ``unassigned``, too
    ``serving``         of a shared stack: the generation of the pod that its Service selects; None: it is not shared
    ``members``         its pods beside the first one; their specs follow that of the first in ``pod_spec``
    """

    stack_id: str
    namespace: str
    pod_spec: str | None = field(repr=False)
    ports: tuple[PortMapping, ...]
    status: StackStatus
    created_at: int
    updated_at: int
    ttl_expires_at: int
    requested_cpu_milli: int
    requested_memory_bytes: int
    node_id: str | None = None
    node_public_ip: str | None = None
    status_reason: str = ""
    status_message: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    accepted: bool = False
    ended: bool = False
    ports_held: bool = True
    deleting_since: int | None = None
    delete_reason: DeleteReason | None = None
    pod_uid: str | None = None
    service_uid: str | None = None
    desired: Desired = Desired.RUNNING
    generation: int = 0
    template: str | None = None
    values: Mapping[str, str] = field(default_factory=lambda: NO_VALUES, repr=False)
    unassigned: bool = False
    spare: bool = False
    digest: str | None = None
    serving: int | None = None
    env: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    extensions: int = 0
    relabelled: int = 0
    offer: Offer | None = None
    members: tuple[Member, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether it is its template's one stack for everybody: stackd makes it, and keeps it without an end."""
        return self.serving is not None

    @property
    def cost(self) -> int:
        """What it counts for ``limits.cost_per_label``."""
        return (self.offer or NO_OFFER).cost

    @property
    def of_clients(self) -> bool:
        """Whether it exists for clients: it is assigned, and its create was not undone, whose client was told of no stack."""
        return not self.unassigned and self.delete_reason is not DeleteReason.UNDO

    FROM_CREATE: ClassVar[tuple[str, ...]] = ("labels", "created_at", "updated_at", "ttl_expires_at", "offer")
    """What a create says of a stack that waited in a pool until then."""

    @property
    def is_to_run(self) -> bool:
        """Whether it has to have a pod: it is accepted, and neither stopped nor ended nor being deleted."""
        wanted = self.desired is Desired.RUNNING and self.deleting_since is None
        return self.accepted and wanted and not self.ended

    @property
    def at_rest(self) -> bool:
        """Whether its user has stopped it and it has no pod; its ports are kept."""
        return self.desired is Desired.STOPPED and self.status is StackStatus.STOPPED

    @property
    def routed(self) -> tuple[RoutedPort, ...]:
        """The ports that are reached at a name."""
        return tuple(port for port in self.ports if isinstance(port, RoutedPort))

    @property
    def node_ports(self) -> tuple[int, ...]:
        """The node ports that it holds, or held before it ended."""
        return tuple(port.node_port for port in self.ports if port.node_port)

    @property
    def held_ports(self) -> tuple[int, ...]:
        return self.node_ports if self.ports_held else ()

    @property
    def pod_name(self) -> str:
        """The pod's name, which is the stack's id (API contract: ``pod_id``). Each later pod of a shared stack has a name
        of its own, since it comes to run before the one before is deleted."""
        return f"{self.stack_id}-{self.generation}" if self.shared and self.generation else self.stack_id

    @property
    def service_name(self) -> str:
        """The Service's name (API contract: ``service_name``)."""
        return service_name(self.stack_id)

    def member_name(self, name: str) -> str:
        """The name of the pod of this member, and of the Service that leads to it."""
        return f"{self.stack_id}-{name}"

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def pod_uids(self) -> tuple[str | None, ...]:
        """Those of its pods: the first, then those of its members."""
        return (self.pod_uid, *[one.pod_uid for one in self.members]) if self.members else (self.pod_uid,)

    def is_on(self, node: str) -> bool:
        return self.node_id == node or (bool(self.members) and any(one.node_id == node for one in self.members))

    @property
    def lacks_a_pod(self) -> bool:
        """Whether one of its pods is still to be created, or is not known to exist."""
        return self.pod_uid is None or (bool(self.members) and any(one.pod_uid is None for one in self.members))


def bare_stack(stack_id: str, namespace: str, container_port: int, now: int) -> Stack:
    """A stack of one TCP port, without a spec, a node port or a life (``now`` in nanoseconds)."""
    return Stack(
        stack_id=stack_id,
        namespace=namespace,
        pod_spec="",
        ports=(PortMapping(container_port=container_port, protocol="TCP", node_port=0),),
        status=StackStatus.CREATING,
        created_at=now,
        updated_at=now,
        ttl_expires_at=now,
        requested_cpu_milli=0,
        requested_memory_bytes=0,
    )


@struct
class TimelineEvent:
    """One line of a stack's timeline; ``at`` in nanoseconds; ``by`` may be stackd or the cluster.

    ``count`` is how often the cluster has reported the same event.
    """

    kind: EventKind
    at: int
    reason: str = ""
    message: str = ""
    by: Principal = STACKD
    count: int = 1


class AuditKind(enum.StrEnum):
    """What concerns the operator and no stack."""

    REFUSED = "refused"
    RELOAD = "reload"
    KEYS = "keys"
    TAKEOVER = "takeover"
    SIGN_IN = "sign_in"
    TEMPLATE = "template"
    LINK = "link"
    VALUES = "values"
    MESSAGE = "message"


@struct
class StoredTemplate:
    """A template that is not a file's: its text, and who has written it, ``at`` when. ``tenant``: it has the rights of a tenant,
    and no more.

    ``pool``: how many stacks its text asks for. ``source``: over the API, or in the cluster by somebody else.
    """

    name: str
    text: str = field(repr=False)
    by: Principal
    tenant: bool
    at: int
    pool: int = 0
    source: Literal["api", "cluster"] = "api"


@struct
class AuditEntry:
    """Something of that kind, ``count`` times; ``seq`` orders those of the same time."""

    kind: AuditKind
    at: int
    message: str
    by: Principal
    count: int = 1
    failed: bool = False
    seq: int = 0


@struct
class KeptLog:
    """The last log lines of a container before it ended; ``at`` is when they were kept, in nanoseconds."""

    container: str
    at: int
    text: str


@struct
class Observation:
    """The observed state of a stack, to be written if it differs from the row.

    ``generation`` is the stack's at the time of observation; ``events`` are written even if nothing else differs.
    ``requested_…`` is what the cluster reserves for the pod, which an admission policy may have raised; 0 if unknown.
    ``members``: with their pods, where a create or a start is completed.
    """

    stack_id: str
    status: StackStatus
    status_reason: str = ""
    status_message: str = ""
    node_id: str | None = None
    node_public_ip: str | None = None
    ended: bool = False
    generation: int = 0
    requested_cpu_milli: int = 0
    requested_memory_bytes: int = 0
    events: tuple[TimelineEvent, ...] = ()
    members: tuple[Member, ...] = ()


@struct
class JobError:
    """Why the job's action failed for one id; ``error`` has at most 512 characters (API contract).

    A stack that was not created has no id, but an ``index`` in the request, and the ``labels`` that it should have got.
    """

    stack_id: str
    error: str
    code: str
    index: int | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)


@struct
class WantedStack:
    """A stack that a job is to create, the ``index``-th of its request; ``ttl`` in seconds, None for the default; ``env``:
    the variables that it sets; ``template``: None in a job of an earlier stackd, which has one for all. ``once``: a stack of
    the template that has its labels will do."""

    index: int
    labels: Mapping[str, str]
    ttl: float | None = None
    env: Mapping[str, str] = field(default_factory=lambda: NO_VALUES)
    template: str | None = None
    once: bool = False


@struct
class JobRequest:
    """What a job is asked to do. ``ttl`` is by how much it extends, in nanoseconds.

    ``labels`` select the stacks when the job is accepted, of those that have the labels ``among``; empty if the
    request names the stacks. A job that creates has the stacks ``each`` of a ``template``, and ``labels`` of the key, which
    all of them get.
    """

    action: JobAction = JobAction.DELETE
    ttl: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    by: Principal = STACKD
    template: str | None = None
    each: tuple[WantedStack, ...] = ()


@struct
class OutcomeReason:
    """Why ``count`` of a job's stacks have this status; ``stack_ids`` are the first of them."""

    status: str
    reason: str
    count: int
    stack_ids: tuple[str, ...]


@struct
class JobOutcome:
    """How the stacks that a job has started do: their number by status, and the most frequent reasons. It is ``final``
    from the time ``until`` on."""

    until: int
    statuses: Mapping[str, int]
    reasons: tuple[OutcomeReason, ...]
    final: bool = False


@struct
class Job:
    """A batch job; ``errors`` holds the first 100 failures (API contract). From ``by`` on: see ``JobRequest``.

    ``template`` and ``common`` are the template and the labels that all of its stacks had when it was accepted; ``outcome``
    is what has come of them, once that is final.
    """

    job_id: str
    status: JobStatus
    total: int
    done: int
    not_found: int
    failed: int
    errors: tuple[JobError, ...]
    created_at: int
    updated_at: int
    by: Principal = STACKD
    action: JobAction = JobAction.DELETE
    ttl: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    template: str | None = None
    common: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    outcome: JobOutcome | None = None

    @property
    def finished(self) -> bool:
        """Whether every id has its outcome."""
        return self.status in (JobStatus.COMPLETED, JobStatus.FAILED)


@struct
class ItemResult:
    """The outcome of one id of a job; ``error`` and its ``code`` only with ``FAILED``.

    A stack that a job creates has its index for an id until then; ``created`` is the stack's.
    """

    stack_id: str
    outcome: Outcome
    error: str = ""
    code: str | None = None
    created: str | None = None


@struct
class JobItem:
    """One id of a job: its outcome, or ``pending`` or ``started``; ``wanted``: the stack that the job is to create for it."""

    index: int
    stack_id: str
    state: str
    error: str | None
    code: str | None
    wanted: WantedStack | None


def list_key(stack: Stack) -> tuple[int, str]:
    """The sort key of all lists of stacks: ``created_at``, then id."""
    return stack.created_at, stack.stack_id


def service_name(stack_id: str) -> str:
    return SERVICE_PREFIX + stack_id


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelQuota:
    """The most living stacks that have all of these labels, none of ``others``, and are of this template if it is given;
    ``shared`` with others who may not know of each other's."""

    labels: Mapping[str, str]
    most: int
    template: str | None = None
    shared: bool = False
    others: tuple[Mapping[str, str], ...] = ()
