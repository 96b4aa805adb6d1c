"""Records from rows and rows from records, for stacks and jobs. Owns the column formats (JSON of ports and labels)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from stackd.model import (
    NO_LABELS,
    DeleteReason,
    Desired,
    Job,
    JobError,
    JobStatus,
    PortMapping,
    Stack,
    StackStatus,
)

Row = tuple[Any, ...]


def id_array(ids: Iterable[str]) -> str:
    """Ids as the JSON array that the queries take."""
    return json.dumps(list(ids))


def ports_to_json(ports: Sequence[PortMapping]) -> str:
    """The ``ports`` column."""
    return json.dumps(
        [{"container_port": p.container_port, "protocol": p.protocol, "node_port": p.node_port} for p in ports],
        separators=(",", ":"),
    )


def labels_to_json(labels: Mapping[str, str]) -> str:
    """The ``labels`` column."""
    return json.dumps(dict(labels), separators=(",", ":"), sort_keys=True)


def labels_from_json(text: str) -> Mapping[str, str]:
    """The labels, read-only."""
    return NO_LABELS if text == "{}" else MappingProxyType(json.loads(text))


def stack_from_row(row: Row) -> Stack:
    """A stack from a row of ``queries.STACK_COLUMNS``."""
    return Stack(
        stack_id=row[0],
        namespace=row[1],
        pod_spec=row[2],
        ports=tuple(PortMapping(**port) for port in json.loads(row[3])),
        status=StackStatus(row[4]),
        created_at=row[5],
        updated_at=row[6],
        ttl_expires_at=row[7],
        requested_cpu_milli=row[8],
        requested_memory_bytes=row[9],
        node_id=row[10],
        node_public_ip=row[11],
        status_reason=row[12],
        status_message=row[13],
        labels=labels_from_json(row[14]),
        accepted=bool(row[15]),
        ended=bool(row[16]),
        ports_held=bool(row[17]),
        deleting_since=row[18],
        delete_reason=None if row[19] is None else DeleteReason(row[19]),
        pod_uid=row[20],
        service_uid=row[21],
        desired=Desired(row[22]),
        generation=row[23],
    )


def stack_to_row(stack: Stack) -> Row:
    """The values of ``queries.STACK_COLUMNS``."""
    return (
        stack.stack_id,
        stack.namespace,
        stack.pod_spec,
        ports_to_json(stack.ports),
        stack.status.value,
        stack.created_at,
        stack.updated_at,
        stack.ttl_expires_at,
        stack.requested_cpu_milli,
        stack.requested_memory_bytes,
        stack.node_id,
        stack.node_public_ip,
        stack.status_reason,
        stack.status_message,
        labels_to_json(stack.labels),
        int(stack.accepted),
        int(stack.ended),
        int(stack.ports_held),
        stack.deleting_since,
        None if stack.delete_reason is None else stack.delete_reason.value,
        stack.pod_uid,
        stack.service_uid,
        stack.desired.value,
        stack.generation,
    )


def stack_to_update(stack: Stack) -> Row:
    """The values of ``queries.UPDATE_STACK``."""
    return (
        ports_to_json(stack.ports),
        stack.status.value,
        stack.updated_at,
        stack.ttl_expires_at,
        stack.node_id,
        stack.node_public_ip,
        stack.status_reason,
        stack.status_message,
        int(stack.accepted),
        int(stack.ended),
        int(stack.ports_held),
        stack.deleting_since,
        None if stack.delete_reason is None else stack.delete_reason.value,
        stack.pod_uid,
        stack.service_uid,
        stack.desired.value,
        stack.generation,
        stack.stack_id,
    )


def job_from_row(row: Row, errors: Iterable[Row]) -> Job:
    """A job from a row of ``queries.JOB_COLUMNS`` and rows of (stack_id, error)."""
    return Job(
        job_id=row[0],
        status=JobStatus(row[1]),
        total=row[2],
        deleted=row[3],
        not_found=row[4],
        failed=row[5],
        errors=tuple(JobError(stack_id=stack_id, error=error) for stack_id, error in errors),
        created_at=row[6],
        updated_at=row[7],
    )
