"""What the operations return. Most are the bodies of ``stackd.contract``; a job has one form, whatever it does.

If only some fields were requested, the others have their defaults. ``raw`` is the JSON itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackd.client.attempts import Request
from stackd.contract import EventName, JobAction, JobStatus, Stack, decode, nothing

QUIET_SECONDS = 60.0
"""A stream sends something at least every 15 s; after this long without any data it is dead."""


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
    errors: Mapping[str, str] = field(default_factory=nothing)
    raw: Mapping[str, Any] = field(default_factory=nothing, repr=False)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Job:
        """From the API's JSON."""
        action = raw.get("action", "delete" if "deleted" in raw else "")
        done = raw.get("done", raw.get("deleted", 0))
        return cls(
            job_id=raw["job_id"],
            status=raw.get("status", ""),
            action=action,
            total=raw.get("total", 0),
            done=done,
            deleted=done if action == "delete" else 0,
            not_found=raw.get("not_found", 0),
            failed=raw.get("failed", 0),
            errors={one["stack_id"]: one["error"] for one in raw.get("errors", ())},
            raw=raw,
        )

    @property
    def finished(self) -> bool:
        """Whether the job has finished."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of the stream; resume from its ``id``.

    ``kind`` is ``hello`` (a connection begins), ``stack`` (new or changed), ``deleted``, ``left`` (the filters no
    longer match the stack), ``job``, ``reset`` (missed changes are no longer known: list the stacks again), or
    ``dropped`` (stackd ends this connection).
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
        return decode(Stack, self.data) if self.kind == "stack" else None

    @property
    def job(self) -> Job | None:
        """The job as it is now; None unless ``kind`` is ``job``."""
        return Job.of(self.data) if self.kind == "job" else None


@dataclass(slots=True)
class EventReader:
    """Reads server-sent events over one connection after the other; ``last`` is the id of the last event."""

    query: tuple[tuple[str, str], ...]
    last: str = ""
    _lines: list[bytes] = field(default_factory=list)

    def line(self, line: bytes) -> Event | None:
        """The event that this line completes, or None."""
        if text := line.rstrip(b"\r\n"):
            self._lines.append(text)
            return None
        event, self._lines = _event(self._lines), []
        if event is not None and event.id:
            self.last = event.id
        return event

    def request(self) -> Request:
        """The request that opens the stream after the last event. An incomplete event of the last connection is dropped."""
        self._lines = []
        headers = {"Last-Event-ID": self.last} if self.last else {}
        return Request(method="GET", path="/events", query=self.query, headers=headers, seconds=QUIET_SECONDS)


def _event(lines: list[bytes]) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        fields[name] = fields[name] + b"\n" + value if name == b"data" and name in fields else value
    if b"data" not in fields:
        return None
    kind: Any = fields.get(b"event", b"message").decode()
    data = json.loads(fields[b"data"] or b"null")
    return Event(kind=kind, id=fields.get(b"id", b"").decode(), data=data)
