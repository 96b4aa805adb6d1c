"""What the operations return. Most are the bodies of ``stackd.contract``; a job has one form, whatever it does.

If only some fields were requested, the others have their defaults. ``raw`` is the JSON itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackd.contract import EventName, JobAction, JobStatus, Stack, decode, nothing


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
