"""The nouns of stackd, as frozen records.

Owns: what a stack, a port, a batch-delete job and their statuses are. Knows nothing of HTTP, SQL or Kubernetes.

Times are integer nanoseconds since the Unix epoch (UTC); CPU is in thousandths of a core, memory in bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NO_LABELS: Mapping[str, str] = MappingProxyType({})
NO_VALUES: Mapping[str, str] = MappingProxyType({})
NO_LIMITS: Mapping[str, int] = MappingProxyType({})
SERVICE_PREFIX = "svc-"
RANGE_PREFIX = "range-"
"""Of a Service that only asks which node ports the cluster has."""


class StackStatus(enum.StrEnum):
    """The contract's stack statuses."""

    CREATING = "creating"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    NODE_DELETED = "node_deleted"


ACTIVE_STATUSES = frozenset({StackStatus.CREATING, StackStatus.RUNNING})


class Desired(enum.StrEnum):
    """What the stack's user wants of its pod: that it is there, or that it is not until it is started again."""

    RUNNING = "running"
    STOPPED = "stopped"


class JobStatus(enum.StrEnum):
    """The contract's batch-delete job statuses."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class DeleteReason(enum.StrEnum):
    """Why a stack is being deleted; kept with the intent, and said in the log."""

    REQUEST = "request"
    BATCH = "batch"
    EXPIRED = "expired"
    UNDO = "undo"
    POOL = "pool"


class EventKind(enum.StrEnum):
    """What a line of a stack's timeline is about."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    PULLING = "pulling"
    STARTED = "started"
    READY = "ready"
    NOT_READY = "not_ready"
    RESTARTED = "restarted"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"
    NODE_DELETED = "node_deleted"
    EXTENDED = "extended"
    STOP_REQUESTED = "stop_requested"
    START_REQUESTED = "start_requested"
    RESTART_REQUESTED = "restart_requested"
    DELETE_REQUESTED = "delete_requested"
    DELETED = "deleted"
    WARNING = "warning"


class DeleteOutcome(enum.StrEnum):
    """What became of one id of a batch-delete job. Each id has exactly one (invariant 7)."""

    DELETED = "deleted"
    NOT_FOUND = "not_found"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPort:
    """A container port that a stack publishes."""

    container_port: int
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """A published container port and the node port that leads to it."""

    container_port: int
    protocol: str
    node_port: int


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
        """What both have; it is of length 0 where that is nothing."""
        return PortRange(max(self.first, other.first), min(self.last, other.last))

    def mismatch(self, cluster: PortRange) -> str:
        """What is wrong with this configured range where the cluster's own one has nothing of it."""
        return f"{self} (stacks.node_port_min to node_port_max) is outside of the cluster's own range, {cluster}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SanitizedSpec:
    """What the pod-spec policy made of a tenant's text.

    ``text`` is the canonical YAML that the API returns; ``manifest`` the same Pod as JSON-ready data
    (apiVersion, kind, metadata, spec), without names, labels or anything else that is the operator's.
    """

    text: str
    manifest: Mapping[str, object]
    requested_cpu_milli: int
    requested_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStack:
    """A stack that is about to be reserved: everything but its node ports."""

    stack_id: str
    namespace: str
    pod_spec: str
    target_ports: tuple[TargetPort, ...]
    created_at: int
    ttl_expires_at: int
    requested_cpu_milli: int
    requested_memory_bytes: int
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    template: str | None = None
    values: Mapping[str, str] = field(default_factory=lambda: NO_VALUES, repr=False)
    unassigned: bool = False
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """One row: what stackd intends and what it last saw of it.

    ``pod_spec``        its text; None in memory where that is long (``Stacks.whole`` reads it from the file)
    ``accepted``        the create was completed; before that, nobody has been told that the stack exists
    ``ended``           the pod has ended for good: Service and ports are given back, the record stays until its TTL
    ``deleting_since``  a delete was asked for and is not yet confirmed by the cluster; the stack is still listed
    ``pod_uid``         the pod that was made for it; None while there is to be one and it is not yet known to be there;
                        ``service_uid`` likewise
    ``desired``         what its user wants; ``stopped`` keeps the ports
    ``generation``      how many pods it has had before this one; a pod of an earlier generation has to go
    ``template``        the name of the template that it was made from, and ``digest`` what that was at the time
    ``values``          what was generated for it, by the names of environment variables; secrets, only its creator is told
    ``unassigned``      it waits in a pool for somebody to ask for a stack; until then it is no stack to any client
    """

    stack_id: str
    namespace: str
    pod_spec: str | None
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
    digest: str | None = None

    @property
    def at_rest(self) -> bool:
        """Whether it was stopped by its user and has no pod; its ports are kept."""
        return self.desired is Desired.STOPPED and self.status is StackStatus.STOPPED

    @property
    def pod_name(self) -> str:
        """The pod's name, which is the stack's id (API contract: ``pod_id``)."""
        return self.stack_id

    @property
    def service_name(self) -> str:
        """The Service's name (API contract: ``service_name``)."""
        return service_name(self.stack_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """One line of a stack's timeline; ``at`` in nanoseconds, ``by`` is a key's name, ``stackd`` or ``cluster``.

    ``count`` is how often the cluster said the same.
    """

    kind: EventKind
    at: int
    reason: str = ""
    message: str = ""
    by: str = "stackd"
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLog:
    """The last that a container has written before it ended; ``at`` is when it was kept, in nanoseconds."""

    container: str
    at: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was seen of a stack, to be written where it differs from the row.

    ``generation`` is the stack's when it was looked at; ``events`` are written even where nothing else differs.
    ``requested_…`` is what the cluster reserves for the pod, which an admission policy may have raised; 0 if not known.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why one id of a job could not be deleted; ``error`` holds 512 characters at most (API contract)."""

    stack_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch-delete job; ``errors`` holds the first 100 failures (API contract)."""

    job_id: str
    status: JobStatus
    total: int
    deleted: int
    not_found: int
    failed: int
    errors: tuple[JobError, ...]
    created_at: int
    updated_at: int

    @property
    def finished(self) -> bool:
        """Whether every id has its outcome."""
        return self.status in (JobStatus.COMPLETED, JobStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """The outcome of one id of a job; ``error`` only with ``FAILED``."""

    stack_id: str
    outcome: DeleteOutcome
    error: str = ""


def service_name(stack_id: str) -> str:
    """The name of a stack's Service."""
    return SERVICE_PREFIX + stack_id
