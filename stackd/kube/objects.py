"""What stackd keeps of a Pod, Service, Node and Event: small, frozen views of the raw JSON. Pure.

Strings that many objects share are interned and messages are cut, so that thousands of pods cost little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from sys import intern
from typing import Any, ClassVar, Generic, TypeVar

from stackd.clock import to_nanoseconds
from stackd.errors import UnexpectedAnswer
from stackd.kube import labels
from stackd.kube.wire import JsonObject
from stackd.model import struct
from stackd.quantity import NANO, reported, stored

MESSAGE_LIMIT = 1024
ANY = "*"  # the name of what stands for all nodes, here and in stacks.public_ips
EPHEMERAL_STORAGE = "ephemeral-storage"

_NONE: Mapping[str, Any] = {}
T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


def readable(name: str, read: Callable[[JsonObject], T], raw: JsonObject) -> T:
    """The object, converted by ``read``. Raises UnexpectedAnswer if it lacks what each object of its kind has."""
    try:
        return read(raw)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise UnexpectedAnswer(f"one of {name} cannot be read", f"{type(exc).__name__}: {exc}") from exc


@struct
class ObjectKind(Generic[S_co]):
    """One resource, and what stackd keeps of its objects."""

    resource: str
    read: Callable[[JsonObject], S_co]

    def state(self, raw: JsonObject) -> S_co:
        """The view of an object's JSON. Raises UnexpectedAnswer if it lacks what each object of its kind has."""
        return readable(self.resource, self.read, raw)


@struct
class ContainerState:
    """One container as the kubelet last reported it; ``state`` is waiting, running, terminated or empty."""

    name: str
    init: bool
    image: str
    state: str
    reason: str
    message: str
    exit_code: int | None
    restart_count: int
    ready: bool
    last_reason: str
    last_exit_code: int | None


@struct
class PodState:
    """A pod. ``scheduled`` is the PodScheduled condition, None while there is none; times in nanoseconds.

    ``generation`` is stackd's annotation: which pod of its stack it is; ``annotated``: it has that annotation. ``pool``
    is its label: the template in whose pool it waits, or empty; ``assigned``: it has a label that no pod should have.
    ``part``: by its labels, the member whose pod it is, or that it is the first of a stack with members; else empty.
    ``cpu_milli``, ``memory_bytes`` and ``ephemeral_bytes`` are what the scheduler reserves for it.
    """

    resource: ClassVar[str] = "pods"
    name: str
    uid: str
    resource_version: str
    instance: str
    stack_id: str
    node_name: str | None
    phase: str
    reason: str
    message: str
    ready: bool
    scheduled: bool | None
    unschedulable_message: str
    deleting: bool
    disruption: str
    created_at: int
    containers: tuple[ContainerState, ...]
    generation: int = 0
    annotated: bool = False
    cpu_milli: int = 0
    memory_bytes: int = 0
    ephemeral_bytes: int = 0
    pool: str = ""
    assigned: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    part: str = ""


@struct
class TemplatePod:
    """A pod that a template owns, and no stack: by its ``role``, it pulls an image or checks a stack. Without a role, it is
    somebody else's."""

    resource: ClassVar[str] = "pods"
    role: str
    instance: str
    pod: PodState

    @property
    def name(self) -> str:
        return self.pod.name

    @property
    def uid(self) -> str:
        return self.pod.uid

    @property
    def resource_version(self) -> str:
        return self.pod.resource_version


@struct
class ServiceState:
    """A service. ``selects`` is the stack that its selector names; while ``once_assigned``, it selects no pod, because
    the stack waits in a pool. ``serving`` is the only pod of the stack that it selects; None: it selects any.

    ``families`` are ``IPv4`` and ``IPv6``, the primary one first. ``expires_at`` (nanoseconds), ``generation`` and
    ``desired`` are stackd's annotations; ``recorded``: it carries a record. ``pool`` as of a pod. ``spare``: its label says that
    it belongs to no stack. ``published``: of several pods, it selects the first; ``members`` is the annotation about the
    others.
    """

    resource: ClassVar[str] = "services"
    name: str
    uid: str
    instance: str
    stack_id: str
    node_ports: tuple[int, ...]
    deleting: bool
    created_at: int
    type: str = "NodePort"
    selects: str = ""
    once_assigned: bool = False
    serving: int | None = None
    families: tuple[str, ...] = ()
    expires_at: int | None = None
    generation: int = 0
    desired: str = ""
    recorded: bool = True
    pool: str = ""
    spare: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    relabelled: int = 0
    resource_version: str = ""
    published: bool = False
    members: str = ""


@struct
class NodeState:
    """A node. CPU in thousandths, memory and disk in bytes, and the number of pods are the allocatable amounts.

    A node that reports no ephemeral storage has none: the scheduler puts no pod there that requests some.
    """

    resource: ClassVar[str] = "nodes"
    name: str
    uid: str
    labels: Mapping[str, str]
    addresses: tuple[tuple[str, str], ...]
    ready: bool
    unschedulable: bool
    cpu_milli: int
    memory_bytes: int
    pods: int
    ephemeral_bytes: int = 0
    pod_cidrs: tuple[str, ...] = ()


def any_node(labels: Mapping[str, str]) -> NodeState:
    """It stands for all nodes where stackd may not read them: it takes stacks, has room for any, and no address of its own."""
    most = 10**15
    return NodeState(
        name=ANY, uid="", labels=labels, addresses=(), ready=True, unschedulable=False,
        cpu_milli=most, memory_bytes=most, pods=most, ephemeral_bytes=most,
    )  # fmt: skip


@struct
class PodEvent:
    """A Kubernetes event about a pod; ``at`` is when it last happened, in nanoseconds."""

    type: str
    reason: str
    message: str
    count: int
    at: int


def pod_state(raw: Mapping[str, Any]) -> PodState:
    metadata, spec, status = raw["metadata"], raw.get("spec") or _NONE, raw.get("status") or _NONE
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", _NONE)
    disruption = conditions.get("DisruptionTarget", _NONE)
    ours = labels.marks_of(metadata)
    node_name = spec.get("nodeName")
    cpu, memory, ephemeral = _reserved_nanos(spec, ("cpu", "memory", EPHEMERAL_STORAGE))
    return PodState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        instance=ours.instance,
        stack_id=ours.stack_id,
        node_name=intern(node_name) if node_name else None,
        phase=intern(status.get("phase", "")),
        reason=intern(status.get("reason", "")),
        message=_cut(status.get("message")),
        ready=conditions.get("Ready", _NONE).get("status") == "True",
        scheduled=scheduled["status"] == "True" if scheduled else None,
        unschedulable_message=_cut(scheduled.get("message")) if scheduled.get("status") == "False" else "",
        deleting="deletionTimestamp" in metadata,
        disruption=intern(disruption.get("reason", "")) if disruption.get("status") == "True" else "",
        created_at=to_nanoseconds(metadata["creationTimestamp"]),
        containers=(
            *(_container(container, init=True) for container in status.get("initContainerStatuses") or ()),
            *(_container(container, init=False) for container in status.get("containerStatuses") or ()),
        ),
        generation=ours.generation,
        annotated=labels.GENERATION in ours.annotations,
        cpu_milli=-(-cpu // (NANO // 1000)),
        memory_bytes=-(-memory // NANO),
        ephemeral_bytes=-(-ephemeral // NANO),
        pool=ours.pool,
        assigned=labels.ASSIGNED in ours.labels,
        labels=ours.clients,
        part=intern(ours.labels[labels.MEMBER])
        if labels.MEMBER in ours.labels
        else labels.PUBLISHED
        if labels.PUBLISHED in ours.labels
        else "",
    )


def template_pod(raw: Mapping[str, Any]) -> TemplatePod:
    names = labels.labels_of(raw)
    role = labels.role_of(names)
    return TemplatePod(role=role, instance=names[labels.INSTANCE] if role else "", pod=pod_state(raw))


def service_state(raw: Mapping[str, Any]) -> ServiceState:
    metadata = raw["metadata"]
    ours = labels.marks_of(metadata)
    notes = ours.annotations
    spec = raw.get("spec") or _NONE
    ports, selector = spec.get("ports") or (), spec.get("selector") or _NONE
    once_assigned, serving = selector.get(labels.ASSIGNED) == "true", labels.serving_of(selector)
    published = labels.PUBLISHED in selector
    own = 1 + once_assigned + published + (serving is not None)
    return ServiceState(
        name=metadata["name"],
        uid=metadata["uid"],
        instance=ours.instance,
        stack_id=ours.stack_id,
        node_ports=tuple(port["nodePort"] for port in ports if port.get("nodePort")),
        deleting="deletionTimestamp" in metadata,
        created_at=to_nanoseconds(metadata["creationTimestamp"]),
        type=intern(spec.get("type") or "ClusterIP"),
        selects=selector.get(labels.STACK, "") if len(selector) == own else "",
        once_assigned=once_assigned,
        serving=serving,
        families=tuple(map(intern, spec.get("ipFamilies") or ())),
        expires_at=_time(notes.get(labels.EXPIRES)),
        generation=ours.generation,
        desired=intern(notes.get(labels.DESIRED, "")),
        recorded=bool(notes.get(labels.RECORD) and notes.get(labels.DESIRED)),
        pool=ours.pool,
        spare=labels.SPARE in ours.labels,
        labels=ours.clients,
        relabelled=labels.relabelled_of(notes),
        resource_version=metadata.get("resourceVersion", ""),
        published=published,
        members=notes.get(labels.MEMBERS, ""),
    )


def node_state(raw: Mapping[str, Any]) -> NodeState:
    metadata, spec, status = raw["metadata"], raw.get("spec") or _NONE, raw.get("status") or _NONE
    allocatable = status.get("allocatable") or status.get("capacity") or _NONE
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return NodeState(
        name=intern(metadata["name"]),
        uid=metadata["uid"],
        labels=dict(metadata.get("labels") or _NONE),
        addresses=tuple((entry["type"], entry["address"]) for entry in status.get("addresses") or ()),
        ready=conditions.get("Ready") == "True",
        unschedulable=bool(spec.get("unschedulable", False)),
        cpu_milli=reported(allocatable.get("cpu")).milli,
        memory_bytes=reported(allocatable.get("memory")).value,
        pods=reported(allocatable.get("pods")).value,
        ephemeral_bytes=reported(allocatable.get(EPHEMERAL_STORAGE)).value,
        pod_cidrs=tuple(spec.get("podCIDRs") or filter(None, (spec.get("podCIDR"),))),
    )


PODS: ObjectKind[PodState] = ObjectKind(resource="pods", read=pod_state)
TEMPLATE_PODS: ObjectKind[TemplatePod] = ObjectKind(resource="pods", read=template_pod)
SERVICES: ObjectKind[ServiceState] = ObjectKind(resource="services", read=service_state)
NODES: ObjectKind[NodeState] = ObjectKind(resource="nodes", read=node_state)


def pod_event(raw: Mapping[str, Any]) -> PodEvent:
    """The view of an Event's JSON, in its old form (count, lastTimestamp) or its new one (series, eventTime)."""
    series = raw.get("series") or _NONE
    at = series.get("lastObservedTime") or raw.get("lastTimestamp") or raw.get("eventTime")
    return PodEvent(
        type=raw.get("type") or "",
        reason=raw.get("reason") or "",
        message=_cut(raw.get("message")),
        count=series.get("count") or raw.get("count") or 1,
        at=to_nanoseconds(at or raw["metadata"]["creationTimestamp"]),
    )


def is_about(raw: Mapping[str, Any], pod: str, uid: str = "") -> bool:
    """Whether an Event's JSON is about the pod of this name, and of that uid, if given."""
    involved = raw.get("involvedObject") or _NONE
    return involved.get("name") == pod and (not uid or involved.get("uid") == uid)


def reserved(spec: Mapping[str, Any], resource: str, part: str = "requests") -> int:
    """The pod's effective request (or limit), rounded up to whole units."""
    (nanos,) = _reserved_nanos(spec, (resource,), part)
    return -(-nanos // NANO)


def _reserved_nanos(spec: Mapping[str, Any], resources: Sequence[str], part: str = "requests") -> list[int]:
    """As ``reserved``, in billionths. A sidecar runs beside all containers after it; other init containers one by one."""
    together, peaks = [0] * len(resources), [0] * len(resources)
    ends = len(spec.get("initContainers") or ())
    for position, container in enumerate((*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))):
        amounts = (container.get("resources") or _NONE).get(part) or _NONE
        stays = position >= ends or container.get("restartPolicy") == "Always"
        for number, resource in enumerate(resources):
            text = amounts.get(resource)
            amount = stored(text).nanos if isinstance(text, (str, int, float)) else 0
            peaks[number] = max(peaks[number], together[number] + amount)
            if stays:
                together[number] += amount
    return [max(pair) for pair in zip(together, peaks, strict=True)]


def _container(raw: Mapping[str, Any], *, init: bool) -> ContainerState:
    state, detail = _one_of(raw.get("state"))
    _, last = _one_of(raw.get("lastState"))
    return ContainerState(
        name=intern(raw["name"]),
        init=init,
        image=intern(raw.get("image", "")),
        state=state,
        reason=intern(detail.get("reason", "")),
        message=_cut(detail.get("message")),
        exit_code=detail.get("exitCode"),
        restart_count=raw.get("restartCount", 0),
        ready=raw.get("ready", False),
        last_reason=intern(last.get("reason", "")),
        last_exit_code=last.get("exitCode"),
    )


def _one_of(state: Mapping[str, Any] | None) -> tuple[str, Mapping[str, Any]]:
    for kind in ("waiting", "running", "terminated"):
        if state and state.get(kind) is not None:
            return kind, state[kind]
    return "", _NONE


def _time(text: str | None) -> int | None:
    """None if it is missing, or edited into no time."""
    try:
        return to_nanoseconds(text) if text else None
    except (ValueError, OverflowError):
        return None


def _cut(message: str | None) -> str:
    return message[:MESSAGE_LIMIT] if message else ""
