"""The API's answers as frozen records. ``raw`` is the JSON itself, with the fields that a later stackd adds.

If only some fields were requested, the others have their defaults. Times are aware datetimes in UTC. They keep six of
the API's nine digits of a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

StackStatus = Literal["creating", "running", "stopped", "failed", "node_deleted", "deleted"]
"""``deleted`` is not a status of the API: ``wait`` can wait for it, and then returns it."""

JobStatus = Literal["queued", "running", "completed", "failed"]
JobAction = Literal["extend", "restart", "stop", "start", "delete"]
EventName = Literal["hello", "stack", "deleted", "left", "job", "skipped", "reset", "dropped"]
ROUTES = ("http", "https", "tls")
EPOCH = datetime.fromtimestamp(0, UTC)
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port of a stack: the published container port, and its node port, which is 0 in a request.

    A port with a name has a ``url`` or a ``host`` (``name:port``, for TLS) instead; in a request, it has a ``route``.
    """

    container_port: int
    protocol: str = "TCP"
    node_port: int = 0
    route: str = ""
    url: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack. ``values`` were generated for it: only its create returns them, and what is done with its result."""

    stack_id: str = ""
    status: StackStatus | Literal[""] = ""
    status_reason: str = ""
    status_message: str = ""
    ended: bool = False
    namespace: str = ""
    node_id: str = ""
    node_public_ip: str = ""
    ports: tuple[Port, ...] = ()
    labels: Mapping[str, str] = field(default_factory=_nothing)
    created_at: datetime = EPOCH
    updated_at: datetime = EPOCH
    ttl_expires_at: datetime = EPOCH
    requested_cpu_milli: int = 0
    requested_memory_bytes: int = 0
    pod_spec: str = ""
    template: str = ""
    values: Mapping[str, str] = field(default_factory=_nothing, repr=False)
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Stack:
        """From the API's JSON."""
        return cls(
            stack_id=raw.get("stack_id", ""),
            status=raw.get("status", ""),
            status_reason=raw.get("status_reason") or "",
            status_message=raw.get("status_message") or "",
            ended=raw.get("ended", False),
            namespace=raw.get("namespace", ""),
            node_id=raw.get("node_id") or "",
            node_public_ip=raw.get("node_public_ip") or "",
            ports=tuple(
                Port(
                    container_port=one["container_port"],
                    protocol=one["protocol"],
                    node_port=one.get("node_port", 0),
                    url=one.get("url", ""),
                    host=one.get("host", ""),
                )
                for one in raw.get("ports", ())
            ),
            labels=MappingProxyType(dict(raw.get("labels") or {})),
            created_at=_time(raw.get("created_at")),
            updated_at=_time(raw.get("updated_at")),
            ttl_expires_at=_time(raw.get("ttl_expires_at") or raw.get("ttl")),
            requested_cpu_milli=raw.get("requested_cpu_milli", 0),
            requested_memory_bytes=raw.get("requested_memory_bytes", 0),
            pod_spec=raw.get("pod_spec", ""),
            template=raw.get("template") or "",
            values=MappingProxyType(dict(raw.get("values") or {})),
            raw=raw,
        )

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


STACK_FIELDS = (*(name for name in Stack.__slots__ if name not in ("values", "raw")), "pod_id", "service_name")
"""The API's names of all fields of a stack; its lists leave some out unless they are requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch job; ``errors`` has the first hundred failures, by the id of the stack.

    ``done`` are the stacks that it has extended, restarted, …; ``deleted`` is the same for a job that deletes, else 0.
    """

    job_id: str
    status: JobStatus | Literal[""] = ""
    action: JobAction | Literal[""] = ""
    total: int = 0
    done: int = 0
    deleted: int = 0
    not_found: int = 0
    failed: int = 0
    errors: Mapping[str, str] = field(default_factory=_nothing)
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Job:
        """From the API's JSON."""
        counts = {name: raw.get(name, 0) for name in ("total", "not_found", "failed")}
        action = raw.get("action", "delete" if "deleted" in raw else "")
        done = raw.get("done", raw.get("deleted", 0))
        return cls(
            job_id=raw["job_id"],
            status=raw.get("status", ""),
            action=action,
            done=done,
            deleted=done if action == "delete" else 0,
            errors={one["stack_id"]: one["error"] for one in raw.get("errors", ())},
            raw=raw,
            **counts,
        )

    @property
    def finished(self) -> bool:
        """Whether the job has finished."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """Something that happened to a stack, ``count`` times."""

    at: datetime
    kind: str
    reason: str = ""
    message: str = ""
    by: str = ""
    count: int = 1
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> TimelineEvent:
        """From the API's JSON."""
        return cls(
            at=_time(raw["at"]),
            kind=raw["kind"],
            reason=raw.get("reason") or "",
            message=raw.get("message") or "",
            by=raw.get("by") or "",
            count=raw.get("count", 1),
            raw=raw,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What an API key has asked for: a request about one stack (``stack_id``), or a job (``job_id``) with its counts."""

    at: datetime
    by: str
    action: str
    stack_id: str = ""
    job_id: str = ""
    labels: Mapping[str, str] = field(default_factory=_nothing)
    message: str = ""
    ttl: str = ""
    status: JobStatus | Literal[""] = ""
    total: int = 0
    done: int = 0
    not_found: int = 0
    failed: int = 0
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Activity:
        """From the API's JSON."""
        plain = {name: raw[name] for name in cls.__slots__ if name in raw}
        return cls(raw=raw, **plain | {"at": _time(raw["at"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts over all stacks."""

    total_stacks: int
    active_stacks: int
    node_distribution: Mapping[str, int]
    used_node_ports: int
    reserved_cpu_milli: int
    reserved_memory_bytes: int
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Stats:
        """From the API's JSON."""
        return cls(raw=raw, **{name: raw[name] for name in cls.__slots__ if name != "raw"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many more stacks of one size fit, and what runs out first.

    ``quota`` is None if no quota is known, ``stacks`` if there is no limit. ``unassigned`` stacks wait in pools. They
    give way to creates, so what they take counts as free.
    """

    fits: int
    limited_by: str
    nodes: Mapping[str, int]
    ports: int
    quota: int | None
    quota_limited_by: str
    stacks: int | None
    unassigned: int = 0
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Capacity:
        """From the API's JSON."""
        return cls(raw=raw, **{name: raw[name] for name in cls.__slots__ if name in raw})


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template that a create can name; ``ready`` stacks of its pool can be assigned at once."""

    name: str
    ttl: str = ""
    labels: Mapping[str, str] = field(default_factory=_nothing)
    pool: int = 0
    ready: int = 0
    starting: int = 0
    failing: int = 0
    reason: str = ""
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Template:
        """From the API's JSON."""
        return cls(raw=raw, **{name: raw[name] for name in cls.__slots__ if name in raw})


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a create would run."""

    pod_spec: str
    requested_cpu_milli: int
    requested_memory_bytes: int
    raw: Mapping[str, Any] = field(default_factory=_nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> DryRun:
        """From the API's JSON."""
        return cls(raw=raw, **{name: raw[name] for name in cls.__slots__ if name != "raw"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the stream; resume from its ``id``.

    ``kind`` is ``hello`` (a connection begins), ``stack`` (new or changed), ``deleted``, ``left`` (the filters no
    longer match the stack), ``job``, ``skipped`` (of the stacks that follow, only the present state is known),
    ``reset`` (missed changes are no longer known: list the stacks again), or ``dropped`` (stackd ends this connection).
    """

    kind: EventName
    id: str = ""
    data: Any = None

    @property
    def stack_id(self) -> str:
        """The id of the stack that the event is about, or an empty text."""
        return str(self.data.get("stack_id", "")) if isinstance(self.data, dict) else ""

    @property
    def stack(self) -> Stack | None:
        """The stack as it is now; None unless ``kind`` is ``stack``."""
        return Stack.of(self.data) if self.kind == "stack" else None

    @property
    def job(self) -> Job | None:
        """The job as it is now; None unless ``kind`` is ``job``."""
        return Job.of(self.data) if self.kind == "job" else None


def _time(text: str | None) -> datetime:
    """Parse RFC 3339; of nine digits of a fraction, six are kept."""
    return datetime.fromisoformat(text) if text else EPOCH
