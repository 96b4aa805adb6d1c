"""What is kept of Kubernetes' objects: small, frozen views of the raw JSON.

Owns the reading of Pod, Service, Node and Event. Knows nothing of what a status means to stackd. Strings that many
objects share are interned and messages are cut, so that thousands of pods cost little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from sys import intern
from typing import Any

from stackd.kube import labels
from stackd.times import to_nanoseconds

JsonObject = dict[str, Any]
MESSAGE_LIMIT = 1024
_LONGEST_NUMBER = 10

_NONE: Mapping[str, Any] = {}
_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10) ** 3, "M": Decimal(10) ** 6, "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12, "P": Decimal(10) ** 15, "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10, "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40, "Pi": Decimal(2) ** 50, "Ei": Decimal(2) ** 60,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """A pod. ``scheduled`` is the PodScheduled condition, None while there is none; times in nanoseconds.

    ``generation`` and ``expires_at`` are what stackd has written on it: which pod of its stack it is, and its end.
    """

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
    started_at: int | None
    containers: tuple[ContainerState, ...]
    generation: int = 0
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """A service; ``owner_uid`` is the pod that takes it along when it goes."""

    name: str
    uid: str
    instance: str
    stack_id: str
    node_ports: tuple[int, ...]
    owner_uid: str
    deleting: bool
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """A node; CPU in thousandths, memory in bytes and number of pods as allocatable."""

    name: str
    uid: str
    labels: Mapping[str, str]
    addresses: tuple[tuple[str, str], ...]
    ready: bool
    unschedulable: bool
    cpu_milli: int
    memory_bytes: int
    pods: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodEvent:
    """Something that Kubernetes says happened to a pod; ``at`` is when last, in nanoseconds."""

    type: str
    reason: str
    message: str
    count: int
    at: int


def pod_state(raw: Mapping[str, Any]) -> PodState:
    """The view of a Pod's JSON."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or _NONE, raw.get("status") or _NONE
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", _NONE)
    disruption = conditions.get("DisruptionTarget", _NONE)
    names, notes = metadata.get("labels") or _NONE, metadata.get("annotations") or _NONE
    node_name = spec.get("nodeName")
    return PodState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        instance=intern(labels.instance_of(names)),
        stack_id=names.get(labels.STACK, ""),
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
        started_at=_moment(status.get("startTime")),
        containers=tuple(_containers(status)),
        generation=_number(notes.get(labels.GENERATION)),
        expires_at=_written(notes.get(labels.EXPIRES)),
    )


def service_state(raw: Mapping[str, Any]) -> ServiceState:
    """The view of a Service's JSON."""
    metadata = raw["metadata"]
    names = metadata.get("labels") or _NONE
    owners = [owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("kind") == "Pod"]
    ports = (raw.get("spec") or _NONE).get("ports") or ()
    return ServiceState(
        name=metadata["name"],
        uid=metadata["uid"],
        instance=intern(labels.instance_of(names)),
        stack_id=names.get(labels.STACK, ""),
        node_ports=tuple(port["nodePort"] for port in ports if port.get("nodePort")),
        owner_uid=owners[0] if owners else "",
        deleting="deletionTimestamp" in metadata,
        created_at=to_nanoseconds(metadata["creationTimestamp"]),
    )


def node_state(raw: Mapping[str, Any]) -> NodeState:
    """The view of a Node's JSON."""
    metadata, status = raw["metadata"], raw.get("status") or _NONE
    allocatable = status.get("allocatable") or status.get("capacity") or _NONE
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return NodeState(
        name=intern(metadata["name"]),
        uid=metadata["uid"],
        labels=dict(metadata.get("labels") or _NONE),
        addresses=tuple((entry["type"], entry["address"]) for entry in status.get("addresses") or ()),
        ready=conditions.get("Ready") == "True",
        unschedulable=bool((raw.get("spec") or _NONE).get("unschedulable", False)),
        cpu_milli=int(_quantity(allocatable.get("cpu")) * 1000),
        memory_bytes=int(_quantity(allocatable.get("memory"))),
        pods=int(_quantity(allocatable.get("pods"))),
    )


def pod_event(raw: Mapping[str, Any]) -> PodEvent:
    """The view of an Event's JSON, of the old form (count, lastTimestamp) as of the new one (series, eventTime)."""
    series = raw.get("series") or _NONE
    at = series.get("lastObservedTime") or raw.get("lastTimestamp") or raw.get("eventTime")
    return PodEvent(
        type=raw.get("type") or "",
        reason=raw.get("reason") or "",
        message=_cut(raw.get("message")),
        count=series.get("count") or raw.get("count") or 1,
        at=to_nanoseconds(at or raw["metadata"]["creationTimestamp"]),
    )


def _containers(status: Mapping[str, Any]) -> Iterator[ContainerState]:
    for init, key in ((True, "initContainerStatuses"), (False, "containerStatuses")):
        for raw in status.get(key) or ():
            yield _container(raw, init=init)


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


def _quantity(text: object) -> Decimal:
    digits = str(text or "0")
    number = digits.rstrip("numkMGTPEi")
    try:
        return Decimal(number) * _SUFFIXES[digits[len(number) :]]
    except (InvalidOperation, KeyError):
        return Decimal(0)


def _cut(message: str | None) -> str:
    return message[:MESSAGE_LIMIT] if message else ""


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < _LONGEST_NUMBER else 0


def _written(text: str | None) -> int | None:
    """A time that anybody with rights on the pod may have edited."""
    try:
        return to_nanoseconds(text) if text else None
    except (ValueError, OverflowError):
        return None


def _moment(text: str | None) -> int | None:
    return to_nanoseconds(text) if text else None
