"""What clients have asked for, the latest first: from the timelines of all stacks and from the jobs.

Owns: which lines of a timeline are a client's own requests. What a job has done to each of its stacks is part of the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import orjson

from stackd.model import NO_LABELS, EventKind
from stackd.store.schema import REQUESTED
from stackd.store.transaction import Table, Transaction, operation
from stackd.structs import struct

_ABOUT = (
    " LEFT JOIN stacks AS s ON s.stack_id = t.stack_id LEFT JOIN removed_stacks AS r ON r.stack_id = t.stack_id"
    " WHERE (:stack_id = '' OR t.stack_id = :stack_id) AND NOT EXISTS (SELECT 1 FROM json_each(:labels) AS wanted WHERE"
    " NOT EXISTS (SELECT 1 FROM json_each(coalesce(s.labels, r.labels, '{}')) AS own WHERE own.key = wanted.value ->> 0"
    " AND own.value = coalesce(wanted.value ->> 1, own.value)))"
)
LINES = (
    "SELECT t.seq, t.at, t.kind, t.message, t.by, t.stack_id, coalesce(s.labels, r.labels, '{}')"
    f" FROM timeline AS t INDEXED BY timeline_requested{_ABOUT} AND {REQUESTED}"
    " AND t.at BETWEEN :since AND :at AND (t.at < :at OR t.seq < :seq)"
    " AND (:by = '' OR t.by = :by) AND (:kind = '' OR t.kind = :kind)"
    " ORDER BY t.at DESC, t.seq DESC LIMIT :limit"
)
JOBS_OF = f"SELECT DISTINCT t.job_id FROM job_items AS t{_ABOUT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityFilter:
    """Which requests: of the key ``by``, of this kind, about this stack, about stacks with these labels and values (None:
    any); from ``since`` to before the line ``seq`` at ``at``, in nanoseconds. Empty texts choose all.
    """

    by: str = ""
    kind: EventKind | None = None
    stack_id: str = ""
    labels: Sequence[tuple[str, str | None]] = ()
    since: int = 0
    at: int
    seq: int
    limit: int


@struct
class ActivityRequest:
    """One request of a client about one stack; ``seq`` orders those of the same time."""

    seq: int
    at: int
    kind: EventKind
    message: str
    by: str
    stack_id: str
    labels: Mapping[str, str]


def requests(tx: Transaction, wanted: ActivityFilter) -> list[ActivityRequest]:
    """At most ``limit`` requests, the latest first; those of jobs are left out."""
    parameters = _about(wanted) | {
        "by": wanted.by,
        "kind": "" if wanted.kind is None else wanted.kind.value,
        "since": wanted.since,
        "at": wanted.at,
        "seq": wanted.seq,
        "limit": wanted.limit,
    }
    return [
        ActivityRequest(
            seq=seq,
            at=at,
            kind=EventKind(kind),
            message=message,
            by=by,
            stack_id=stack_id,
            labels=NO_LABELS if labels == "{}" else MappingProxyType(orjson.loads(labels)),
        )
        for seq, at, kind, message, by, stack_id, labels in tx.rows(LINES, parameters)
    ]


def jobs_about(tx: Transaction, wanted: ActivityFilter) -> frozenset[str]:
    """The ids of the jobs that had the filter's stack, or a stack with its labels."""
    return frozenset(job_id for (job_id,) in tx.rows(JOBS_OF, _about(wanted)))


def _about(wanted: ActivityFilter) -> dict[str, object]:
    return {"stack_id": wanted.stack_id, "labels": json.dumps(wanted.labels)}


class Activity(Table):
    """What clients have asked for."""

    requests = operation(requests, writes=False)
    jobs_about = operation(jobs_about, writes=False)
