"""The API's bodies as dataclasses: what each field means, and in which order fields are sent.

The server renders its answers with them, reads requests with them, and describes them in ``/openapi.json``. The client
returns them. Times are RFC 3339 in UTC on the wire and aware datetimes in Python, which keep six of nine digits of a
fraction. Imports no library: each program that uses ``stackd.client`` loads this.
"""

import dataclasses
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, TypeVar, dataclass_transform, get_args, get_origin

T = TypeVar("T")
EPOCH = datetime.fromtimestamp(0, UTC)
NOTHING: Mapping[str, Any] = MappingProxyType({})

StackStatus = Literal["creating", "running", "stopped", "failed", "node_deleted", "deleted"]
"""``deleted`` is not a status of the API: the client can wait for it, and then returns it."""

STATUSES = get_args(StackStatus)[:-1]
Scope = Literal["admin", "read", "metrics", "tenant"]
SCOPES = get_args(Scope)
JobStatus = Literal["queued", "running", "completed", "failed"]
JobAction = Literal["extend", "restart", "stop", "start", "delete"]
AuditAction = Literal["refused", "reload", "keys", "takeover"]
EventName = Literal["hello", "stack", "left", "deleted", "job", "reset", "dropped"]
AUDIT = get_args(AuditAction)
ACTIONS = ("create", *get_args(JobAction), *AUDIT)
ROUTES = ("http", "https", "tls")
PROTOCOLS = ("TCP", "UDP")
IF_EXISTS = ("error", "return")
LARGEST_PORT = 65535
MAX_TARGET_PORTS = 24
LONGEST_NAME = 253
LONGEST_ERROR = 4096

PORT = {"minimum": 1, "maximum": LARGEST_PORT}
CPU = "CPU that is reserved for it, in thousandths of a core."
MEMORY = "Memory that is reserved for it."
SENTENCE = "What is wrong, in a sentence."
YAML = {"contentMediaType": "application/yaml"}
DURATION = {
    "pattern": r"^(?:0|(?:[0-9]+(?:\.[0-9]+)?(?:d|h|m|s|ms))+)$",
    "format": "stackd-duration",
    "examples": ["30m"],
}
BARE_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
LABELS = {
    "propertyNames": {"pattern": f"^{BARE_KEY}$"},
    "additionalProperties": {"type": "string", "pattern": f"^(?:{BARE_KEY})?$"},
    "maxProperties": 16,
}
IDS = {
    "minItems": 1,
    "items": {
        "type": "string",
        "description": "An id; blanks around it are ignored.",
        "minLength": 1,
        "maxLength": LONGEST_NAME,
        "pattern": r"[^\s\x1c-\x1f\x85]",
    },
}


def nothing() -> Mapping[str, Any]:
    """An empty mapping that is never changed."""
    return NOTHING


def doc(about: str, keywords: Mapping[str, Any] = NOTHING, /, *, nullable: bool = False, **options: Any) -> Any:
    """A field of a body: its description, and the keywords of JSON Schema that its type does not say.

    A ``nullable`` field may be null, which the client reads as its default.
    """
    return dataclasses.field(metadata={"about": about, "keywords": keywords, "nullable": nullable}, **options)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(doc, dataclasses.field))
def body(cls: type[T]) -> type[T]:
    """A dataclass that is never changed. It has the methods of ``Body``: those of a dataclass make the import slow."""
    return dataclasses.dataclass(kw_only=True, init=False, eq=False, repr=False)(cls)


@body
class Body:  # noqa: PLW1641 - it may hold what has no hash
    """The base of all bodies. ``raw`` is the JSON that a client has read, with the fields that a later stackd adds."""

    raw: Mapping[str, Any] = dataclasses.field(default_factory=nothing)
    optional: ClassVar[tuple[str, ...] | None] = None
    """The fields that are left out while they have their default; None: all that have one."""

    def __init__(self, **values: Any) -> None:
        for each in dataclasses.fields(self):
            value = values.pop(each.name, dataclasses.MISSING)
            if value is dataclasses.MISSING and (value := default_of(each)) is dataclasses.MISSING:
                raise TypeError(f"{type(self).__name__} needs {each.name}")
            vars(self)[each.name] = value
        if values:
            raise TypeError(f"{type(self).__name__} has no {', '.join(values)}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name not in ("raw", "values"))
        return f"{type(self).__name__}({', '.join(shown)})"


def is_body(kind: Any) -> bool:
    """Whether a type is that of a body."""
    return isinstance(kind, type) and issubclass(kind, Body)


def fields_of(kind: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a body in JSON, in their order."""
    return [each for each in dataclasses.fields(kind) if "about" in each.metadata]


def default_of(each: dataclasses.Field[Any]) -> Any:
    """The default of a field; MISSING if it has none."""
    factory: Any = each.default_factory
    return each.default if factory is dataclasses.MISSING else factory()


def is_optional(kind: type[Body], each: dataclasses.Field[Any]) -> bool:
    """Whether an answer may lack the field."""
    if kind.optional is None:
        return default_of(each) is not dataclasses.MISSING
    return each.name in kind.optional


# ---- stacks


@body
class Port(Body):
    """A published port. One with a name has a ``url`` or a ``host`` (``name:port``, for TLS) instead of a node port."""

    container_port: int = doc("The container's port.", PORT)
    protocol: str = doc("Its protocol.", {"enum": PROTOCOLS}, default="TCP")
    node_port: int = doc("The port on the node's address that leads to it, if it has no name.", PORT, default=0)
    url: str = doc("Where it is reached, only if it has `route` http or https.", default="")
    host: str = doc("Name and port at which it is reached with TLS, only if it has `route` tls.", default="")
    route: str = ""
    """In a request of a client: by what the port is reached at a name of its own; one of ``ROUTES``."""

    optional = ("node_port", "url", "host")


@body
class Stack(Body):
    """A stack, its labels, and why its status is what it is. ``values`` are only in the answer to its create."""

    stack_id: str = doc("StackId", default="")
    pod_id: str = doc("The pod's name.", default="")
    namespace: str = doc("Where the pod is.", default="")
    node_id: str = doc("The node that the pod is on; null while there is none.", nullable=True, default="")
    node_public_ip: str = doc("The node's public address; null where none is known.", nullable=True, default="")
    pod_spec: str = doc("What runs: the request's pod spec, sanitized, as YAML.", YAML, default="")
    ports: tuple[Port, ...] = doc("Where it is reached: `node_public_ip:node_port`, or a name.", default=())
    service_name: str = doc("The service's name.", default="")
    status: StackStatus | Literal[""] = doc("StackStatus", default="")
    ttl_expires_at: datetime = doc("When stackd deletes the stack.", default=EPOCH)
    created_at: datetime = doc("When it was created.", default=EPOCH)
    updated_at: datetime = doc("When a visible part of it last changed.", default=EPOCH)
    requested_cpu_milli: int = doc(CPU, default=0)
    requested_memory_bytes: int = doc(MEMORY, default=0)
    status_reason: str = doc("Why the status is what it is, in one word; empty if there is nothing to say.", default="")
    status_message: str = doc("The same in a sentence. It may quote the pod, so it is the tenant's text.", default="")
    labels: Mapping[str, str] = doc("The labels from the create.", default_factory=nothing)
    ended: bool = doc("Whether the pod has ended for good. Its ports and service are released.", default=False)
    template: str = doc("The template that it was made from; left out where there is none.", default="")
    values: Mapping[str, str] = doc(
        "What was generated for this stack, by the names of variables; left out where nothing was. No other answer has "
        "it, except a repetition with the same Idempotency-Key.",
        default_factory=nothing,
    )

    optional = ("template", "values")

    @property
    def address(self) -> str:
        """Where its first port is reached, ``203.0.113.7:31001`` or a URL; empty if it has no address yet, or no longer."""
        return next(iter(self.addresses), "")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where each of its ports is reached, in the order of ``ports``."""
        named = all(port.url or port.host for port in self.ports)
        if self.ended or not (self.node_public_ip or named):
            return ()
        host = f"[{self.node_public_ip}]" if ":" in self.node_public_ip else self.node_public_ip
        return tuple(port.url or port.host or f"{host}:{port.node_port}" for port in self.ports)


STACK_FIELDS = tuple(each.name for each in fields_of(Stack) if each.name != "values")
"""The fields of a stack that can be read, in their order."""

LISTED = (
    *("stack_id", "pod_id", "namespace", "node_id", "node_public_ip", "pod_spec", "ports", "service_name", "status"),
    *("ttl_expires_at", "created_at", "updated_at", "requested_cpu_milli", "requested_memory_bytes"),
)
"""The fields of a stack in a list, unless a request chooses others."""


@body
class StackList(Body):
    """Stacks by `created_at`, then id."""

    stacks: tuple[Stack, ...] = doc(
        "With `fields`, only those of each.", {"items": {"$ref": "#/components/schemas/StackEntry"}}
    )
    next_cursor: str | None = doc("With `limit`: where the next page begins; null at the end.", default=None)


@body
class StackStatusAnswer(Body):
    """The short form of a stack."""

    stack_id: str = doc("StackId")
    status: StackStatus = doc("StackStatus")
    ttl: datetime = doc("When stackd deletes the stack.")
    ports: tuple[Port, ...] = doc("Where the stack is reached: `node_public_ip:node_port`, or a name.")
    node_public_ip: str = doc("The node's public address; null where none is known.", nullable=True)


@body
class Deleted(Body):
    """The stack is gone."""

    deleted: Literal[True] = doc("Always true.", default=True)
    stack_id: str = doc("The stack's id.")

    optional = ()


@body
class DryRun(Body):
    """What a create would run."""

    dry_run: Literal[True] = doc("Always true.", default=True)
    pod_spec: str = doc("What would run: the request's pod spec, sanitized, as YAML.", YAML)
    requested_cpu_milli: int = doc(CPU)
    requested_memory_bytes: int = doc(MEMORY)

    optional = ()


@body
class TimelineEvent(Body):
    """Something that happened to a stack, ``count`` times."""

    at: datetime = doc("When.")
    kind: str = doc("What.")
    reason: str = doc("In one word.", default="")
    message: str = doc("In a sentence. It may quote the pod: treat it as the tenant's text.", default="")
    by: str = doc("The name of the API key that asked for it, `stackd`, or `cluster`.", default="")
    count: int = doc("How often, if more than once.", {"minimum": 2}, default=1)

    optional = ("count",)


@body
class Timeline(Body):
    """What happened to a stack."""

    stack_id: str = doc("The stack's id.")
    events: tuple[TimelineEvent, ...] = doc("The oldest first.")


# ---- requests


@body
class TargetPort(Body):
    """A container port to publish."""

    container_port: int = doc("As a container of the pod declares it; written without a fraction.", PORT)
    protocol: str = doc("TCP or UDP, in any case of letters.", {"enum": PROTOCOLS})
    route: str = doc(
        "Reach it at a name of its own instead of a node port (TCP only): `http`, `https`, or `tls` for other protocols "
        "in TLS (`routes.domain`).",
        {"enum": ROUTES},
        default="",
    )


@body
class Create(Body):
    """A stack to create: a `pod_spec`, or a `template`."""

    target_port: tuple[TargetPort, ...] = doc(
        "The ports to publish, each once; each must be declared by a container. If left out: all TCP and UDP ports "
        "that the containers declare.",
        {"minItems": 1, "maxItems": MAX_TARGET_PORTS, "uniqueItems": True},
        default=(),
    )
    pod_spec: str = doc(
        "A Pod as YAML (or JSON): one document. What it may use is the operator's policy; everything else is refused "
        "with its path. The text may have as many bytes as `limits.pod_spec` says, as it comes and with its aliases "
        "written out.",
        {"format": "stackd-pod-spec", **YAML},
        default="",
    )
    template: str = doc(
        "A template's name (`GET /templates`), instead of `target_port` and `pod_spec`. It has a `ttl` and `labels` of "
        "its own, which those of the request replace.",
        {"format": "stackd-template", "minLength": 1},
        default="",
    )
    ttl: str = doc("How long the stack lives, at most `stacks.max_ttl`.", DURATION, default="")
    labels: Mapping[str, str] = doc(
        "Labels to find it by; put on the pod as `label.stackd.io/…` too. Some may have to be given "
        "(`limits.required_labels`), and some be counted (`limits.stacks_per_label`, `limits.creates_per_label`).",
        LABELS,
        default_factory=nothing,
    )
    if_exists: str = doc(
        "Where `limits.stacks_per_label` is reached: `error` is a 409 that names an existing stack, `return` is a 200 "
        "with the existing stack that has all labels of the request, or a 409 if there is none.",
        {"enum": IF_EXISTS},
        default="error",
    )


@body
class Extend(Body):
    """How much longer."""

    ttl: str = doc("Added to `ttl_expires_at`; the whole life may be `stacks.max_ttl` at most.", DURATION)


@body
class BatchDelete(Body):
    """Stacks to delete."""

    stack_ids: tuple[str, ...] = doc("Duplicates count once.", IDS)


@body
class Batch(Body):
    """What to do, and with which stacks: `stack_ids` or `labels`."""

    action: JobAction = doc("What to do with each stack.")
    ttl: str = doc("With `extend`: added to each `ttl_expires_at`, as for one stack.", DURATION, default="")
    stack_ids: tuple[str, ...] = doc("Duplicates count once.", IDS, default=())
    labels: Mapping[str, str] = doc(
        "Stacks with all of these labels.", {**LABELS, "minProperties": 1}, default_factory=nothing
    )


# ---- batch jobs


@body
class JobError(Body):
    """A failure."""

    stack_id: str = doc("The stack's id.")
    error: str = doc("Why.", {"maxLength": 512})
    code: str = doc("ErrorCode", default="")

    optional = ()


FAILURES = {"minItems": 1, "maxItems": 100}


@body
class JobAccepted(Body):
    """The job is accepted."""

    job_id: str = doc("Ask for its progress with this.")


@body
class JobOfMany(Body):
    """The job is accepted."""

    job_id: str = doc("Ask for its progress with this.")
    total: int = doc("How many stacks it has.")


@body
class JobDryRun(Body):
    """What a job would do: nothing has changed, and no job was started."""

    dry_run: Literal[True] = doc("Always true.", default=True)
    action: JobAction = doc("What it would do with each stack.")
    ttl: str = doc("By how much it would extend, if it would.", DURATION, default="")
    total: int = doc("How many ids it would have.")
    not_found: int = doc("How many of them belong to no stack.")
    stack_ids: tuple[str, ...] = doc("The stacks that it would change, as they are now.")

    optional = ("ttl",)


@body
class Job(Body):
    """A batch-delete job. At its end `total` = `deleted` + `not_found` + `failed`."""

    job_id: str = doc("The job's id.")
    status: JobStatus = doc("JobStatus")
    total: int = doc("How many ids it has.")
    deleted: int = doc("Stacks that it deleted.")
    not_found: int = doc("Ids that belong to no stack.")
    failed: int = doc("Deletes that failed.")
    errors: tuple[JobError, ...] = doc("The first 100 failures.", FAILURES, default=())
    created_at: datetime = doc("When it was accepted.")
    updated_at: datetime = doc("When it last made progress.")


@body
class BatchJob(Body):
    """A batch job. At its end `total` = `done` + `not_found` + `failed`."""

    job_id: str = doc("The job's id.")
    action: JobAction = doc("What it does with each stack.")
    ttl: str = doc("By how much it extends, if it does.", DURATION, default="")
    status: JobStatus = doc("JobStatus")
    total: int = doc("How many ids it has.")
    done: int = doc("Stacks that are as the action wants them.")
    not_found: int = doc("Ids that belong to no stack.")
    failed: int = doc("Stacks that the action failed for. stackd keeps trying where the error says so.")
    errors: tuple[JobError, ...] = doc("The first 100 failures.", FAILURES, default=())
    created_at: datetime = doc("When it was accepted.")
    updated_at: datetime = doc("When it last made progress.")


@body
class Activity(Body):
    """What an API key has asked for: a request about one stack (`stack_id`), or a batch job (`job_id`). Or what concerns
    the operator: refused requests, reloads, changed keys and takeovers, which have neither.
    """

    at: datetime = doc("When it was accepted.")
    by: str = doc("The name of the API key.")
    action: str = doc("What was asked for.", {"enum": ACTIONS})
    ttl: str = doc("By how much a job extends.", DURATION, default="")
    stack_id: str = doc("The stack's id; there is this, or `job_id`, or neither.", default="")
    job_id: str = doc("The job's id.", default="")
    labels: Mapping[str, str] = doc(
        "The stack's labels, or those by which a job chose its stacks.", default_factory=nothing
    )
    message: str = doc("More about it, such as `until 2026-02-10T04:02:26Z`.", default="")
    count: int = doc("How often, if that is more than once: of refused requests.", default=1)
    status: JobStatus = doc("JobStatus")
    total: int = doc("How many stacks it is about.")
    done: int = doc("For how many it is done.")
    not_found: int = doc("How many ids belong to no stack.")
    failed: int = doc("For how many it failed.")
    errors: tuple[JobError, ...] = doc("The first 100 failures.", FAILURES, default=())
    created_at: datetime = doc("Of a job: when it was accepted.", default=EPOCH)
    updated_at: datetime = doc("Of a job: when it last made progress.", default=EPOCH)

    optional = ("ttl", "stack_id", "job_id", "count", "errors", "created_at", "updated_at")


@body
class ActivityPage(Body):
    """What API keys have asked for."""

    activity: tuple[Activity, ...] = doc("The latest first.")
    next_cursor: str | None = doc("Where the next page begins; null at the end.")


@body
class StreamEvent(Body):
    """One event of a stream, by its lines."""

    id: str = doc("What `Last-Event-ID` takes.", default="")
    event: EventName = doc("What it is about.")
    data: str = doc("JSON, as the route says.", {"contentMediaType": "application/json"})


# ---- counts, capacity, templates


@body
class Stats(Body):
    """Counts over all stacks."""

    total_stacks: int = doc("All stacks.")
    active_stacks: int = doc("Those that are creating or running.")
    node_distribution: Mapping[str, int] = doc("Stacks by node.")
    used_node_ports: int = doc("Node ports that are held.")
    reserved_cpu_milli: int = doc("CPU of the stacks that still hold resources, in thousandths of a core.")
    reserved_memory_bytes: int = doc("Memory of the stacks that still hold resources.")


@body
class Capacity(Body):
    """How many more of one kind of stack fit, if the nodes run nothing but stacks, and what runs out first."""

    fits: int = doc("How many more.")
    limited_by: str = doc("What runs out first, such as `cpu`, `pods`, `nodes`, `ports`, `quota` or `max_stacks`.")
    nodes: Mapping[str, int] = doc("How many more, by node.")
    quota: int | None = doc("How many more the namespace's quotas allow; null while they are not known.")
    quota_limited_by: str = doc("The resource of the quotas that runs out first; empty if none.")
    quota_seen_at: datetime | None = doc("When the quotas were read.")
    ports: int = doc("How many more the node ports allow.")
    free_node_ports: int = doc("Node ports that nobody holds; stacks that wait in pools hold theirs.")
    stacks: int | None = doc("How many more `limits.max_stacks` allows; null if there is no limit.")
    unassigned: int = doc("Stacks that wait in pools. They give way to creates: what they take counts as free here.")
    requested_cpu_milli: int = doc("CPU of one, in thousandths of a core.", {"minimum": 1})
    requested_memory_bytes: int = doc("Memory of one.", {"minimum": 1})
    requested_ephemeral_storage_bytes: int = doc("Disk of one, as the scheduler counts it.")
    requested_ports: int = doc("Ports of one.", {"minimum": 1, "maximum": MAX_TARGET_PORTS})
    assumes: str = doc("What the answer assumes.")


@body
class Prepull(Body):
    """How far a template's images are on a node: that of the image that is least far."""

    state: str = doc("`waiting`, `pulling`, `pulled` or `failing`.")
    reason: str = doc("Why it fails; empty where it does not.")


@body
class Template(Body):
    """A template that a create can name; ``ready`` stacks of its pool can be assigned at once."""

    name: str = doc("Its name.")
    target_port: tuple[TargetPort, ...] = doc("The ports that its stacks publish.")
    ttl: str = doc("How long its stacks live unless the create says otherwise.")
    labels: Mapping[str, str] = doc("Labels that its stacks get.")
    images: tuple[str, ...] = doc("The images of its containers.")
    generates: tuple[str, ...] = doc("The names of the variables that are generated for each stack.")
    requested_cpu_milli: int = doc("CPU of one, in thousandths of a core.")
    requested_memory_bytes: int = doc("Memory of one.")
    stacks: Mapping[str, int] = doc("Its stacks by status, without those of the pool.")
    median_seconds_to_running: float | None = doc("From create to running, in the last hour; null if none was started.")
    pool: int = doc("How many stacks are kept running and unassigned.")
    ready: int = doc("Unassigned stacks of its pool that can be given away now.")
    starting: int = doc("Unassigned stacks of its pool that are being started.")
    failing: int = doc("Unassigned stacks of its pool that do not come up, or are not ready any more.")
    held: int = doc("Always 0; older versions of stackd kept stacks back.")
    hits: int = doc("Creates that got a stack from the pool, since the daemon started.")
    misses: int = doc("Creates that found the pool empty, since the daemon started.")
    reason: str = doc("Why the pool is not filled; empty while it is, or is being filled.")
    prepull: Mapping[str, Prepull] | None = doc("How far its images are on each node; null unless they are pulled.")


@body
class Templates(Body):
    """What there is to ask for by name."""

    templates: tuple[Template, ...] = doc("Those that the key may use.")


# ---- health, the operator's routes, errors


@body
class Healthy(Body):
    """The process answers."""

    status: Literal["ok"] = doc("Always `ok`.", default="ok")

    optional = ()


@body
class Ready(Body):
    """Everything works."""

    status: Literal["ready"] = doc("Always `ready`.", default="ready")

    optional = ()


@body
class NotReady(Body):
    """Something does not work; reads still do."""

    error: str = doc(SENTENCE, {"maxLength": LONGEST_ERROR})
    code: Literal["not_ready"] = doc("Always `not_ready`.", default="not_ready")
    status: Literal["not ready"] = doc("Always `not ready`.", default="not ready")
    reasons: tuple[str, ...] = doc("A sentence for each thing that is wrong.", {"minItems": 1})
    held: tuple[str, ...] = doc("The ids of the stacks that a brake holds back.", default=())

    optional = ("held",)


@body
class Key(Body):
    """The key of the request."""

    name: str = doc("Its name, as timelines and the log have it.")
    scope: Scope = doc("What it may do.")
    labels: Mapping[str, str] = doc("What its creates get, and what it sees; empty: everything.")
    pod_specs: bool = doc("Whether its creates may have a pod spec; otherwise they name a template.")


@body
class Owner(Body):
    """Who owns the stacks."""

    role: str = doc("What this stackd is: `owner`, `lapsed`, `standby`, `lost` or `released`.")
    host: str = doc("Its machine.", default="")
    may_change: bool = doc("Whether it may change anything now.")
    trouble: str = doc("Why the Lease could not be read or renewed; empty when it could.", default="")
    owner: str = doc("The owner's machine; empty when nobody owns the stacks.", default="")
    lease: str = doc("The Lease's name, in the namespace of the stacks.", default="")
    holder: str = doc("Who holds it: machine and file.", default="")
    lease_duration_seconds: int = doc("For how long a renewal is good.", default=0)
    acquired_at: datetime | None = doc("Since when, by the owner's clock; null where there is no owner.", default=None)
    renewed_at: datetime | None = doc("When it was renewed last, by the owner's clock.", default=None)
    transitions: int = doc("How often the Lease went from one holder to another.", default=0)
    asked_for_by: str = doc("Which machine's stackd wants to take over; empty when none does.", default="")

    optional = ()


@body
class Takeover(Body):
    """Who was asked to hand over."""

    asked: str = doc("The owner's machine.")


@body
class PlannedAction(Body):
    """One step."""

    action: str = doc("What.")
    name: str = doc("Which object or stack.")
    why: str = doc("Why.")


@body
class UnknownObject(Body):
    """An object with stackd's labels that belongs to no known stack. stackd leaves it alone."""

    kind: str = doc("`pods` or `services`.")
    name: str = doc("Which object.")
    why: str = doc("Why no stack can be made of it.")


@body
class Plan(Body):
    """What a pass of reconciliation would do now."""

    blocked: str = doc("Why it can do nothing now; empty when it can.")
    held: tuple[str, ...] = doc("The ids of the stacks that a brake holds back.")
    actions: tuple[PlannedAction, ...] = doc("What it would do.")
    unknown: tuple[UnknownObject, ...] = doc("What it would leave alone.")
    reasons: tuple[str, ...] = doc("Why stackd is not ready, as in `/readyz`; empty when it is.")


@body
class Released(Body):
    """What a brake no longer holds."""

    released: int = doc("How many stacks.")
    held: tuple[str, ...] = doc("The ids that it holds and did not hold when you released it.", default=())
    removed: tuple[str, ...] = doc("Kind and name of each unknown object that is removed now.", default=())


@body
class Reason(Body):
    """One thing that is wrong."""

    path: str = doc("The field, such as `spec.hostNetwork`; `(root)` is the pod spec itself, and empty is no field.")
    line: int | None = doc("The line in the pod spec's text, from 1, or null.", {"minimum": 1})
    text: str = doc("What is wrong.")


@body
class Error(Body):
    """Every error, with more fields where they help."""

    error: str = doc(SENTENCE, {"maxLength": LONGEST_ERROR})
    code: str = doc("ErrorCode")
    reasons: tuple[Reason, ...] = doc(
        "Of a 400 for a pod spec, ports, labels or time to live: each thing that is wrong, in the order of the lines.",
        {"minItems": 1},
        default=(),
    )
    stack_id: str = doc("Of a 409 for a label's limit: the existing stack.", default="")
    detail: str = doc("What Kubernetes said: for whoever runs stackd.", {"maxLength": LONGEST_ERROR}, default="")
    player_message: str = doc("What a player may read; left out where nothing that a player does helps.", default="")


# ---- reading answers

_ABSENT: Final[Mapping[Any, Any]] = {
    str: "",
    int: 0,
    float: 0.0,
    bool: False,
    datetime: EPOCH,
    tuple: (),
    Mapping: NOTHING,
}
"""What a client sees of a field that an answer lacks (only some were requested, or stackd is older)."""


def decode(kind: type[T], raw: Mapping[str, Any]) -> T:
    """The body in JSON that was read. Fields that it lacks have their defaults."""
    readers: Any = _readers
    values = {name: absent if (value := raw.get(name)) is None else read(value) for name, read, absent in readers(kind)}
    return kind(**values | {"raw": raw})


@cache
def _readers(kind: Any) -> list[tuple[str, Callable[[Any], Any], Any]]:
    """Of each field: its name, how its JSON is read, and what it is if it is absent."""
    plan = []
    for each in fields_of(kind):
        absent = default_of(each)
        if absent is dataclasses.MISSING:
            absent = _ABSENT.get(get_origin(each.type) or each.type)
        plan.append((each.name, _reader(each.type), absent))
    return plan


def _reader(kind: Any) -> Callable[[Any], Any]:
    inner = get_args(kind)
    if kind is datetime:
        return datetime.fromisoformat
    if is_body(kind):
        return lambda value: decode(kind, value)
    if get_origin(kind) is tuple:
        item = _reader(inner[0])
        return lambda value: tuple(map(item, value))
    if get_origin(kind) is Mapping:
        item = _reader(inner[1])
        return lambda value: MappingProxyType({name: item(each) for name, each in value.items()})
    return _reader(inner[0]) if type(None) in inner else lambda value: value
