"""Stacks and jobs as the contract's JSON, ready-made.

Owns: field names and their order, and the bytes kept for each row so that a read renders nothing. A row is immutable, so
its bytes are good for as long as the same row is the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import orjson

from stackd.lifecycle.room import Room
from stackd.model import ACTIVE_STATUSES, Job, SanitizedSpec, Stack
from stackd.times import from_nanoseconds as rfc3339
from stackd.web.listing import Listing, Piece


def stack_fields(stack: Stack) -> dict[str, object]:
    """The documented fields of a stack, in the documented order."""
    return {
        "stack_id": stack.stack_id,
        "pod_id": stack.pod_name,
        "namespace": stack.namespace,
        "node_id": stack.node_id,
        "node_public_ip": stack.node_public_ip,
        "pod_spec": stack.pod_spec,
        "ports": port_fields(stack),
        "service_name": stack.service_name,
        "status": stack.status,
        "ttl_expires_at": rfc3339(stack.ttl_expires_at),
        "created_at": rfc3339(stack.created_at),
        "updated_at": rfc3339(stack.updated_at),
        "requested_cpu_milli": stack.requested_cpu_milli,
        "requested_memory_bytes": stack.requested_memory_bytes,
    }


def port_fields(stack: Stack) -> list[dict[str, object]]:
    """A stack's ports."""
    return [
        {"container_port": port.container_port, "protocol": port.protocol, "node_port": port.node_port}
        for port in stack.ports
    ]


def created_body(stack: Stack) -> bytes:
    """The answer to a create."""
    return orjson.dumps(stack_fields(stack))


def listed_body(stack: Stack) -> bytes:
    """The stack as it stands in the list."""
    return orjson.dumps(stack_fields(stack))


def status_body(stack: Stack) -> bytes:
    """The answer to a status read."""
    return orjson.dumps(
        {
            "stack_id": stack.stack_id,
            "status": stack.status,
            "ttl": rfc3339(stack.ttl_expires_at),
            "ports": port_fields(stack),
            "node_public_ip": stack.node_public_ip,
        }
    )


def detail_body(stack: Stack) -> bytes:
    """The answer to a read of one stack: the documented fields, then why its status is what it is."""
    return orjson.dumps(all_fields(stack))


def all_fields(stack: Stack) -> dict[str, object]:
    """All that is told of a stack: the documented fields, then those beyond them."""
    return {
        **stack_fields(stack),
        "status_reason": stack.status_reason,
        "status_message": stack.status_message,
        "labels": dict(stack.labels),
        "ended": stack.ended,
    }


FIELDS: Mapping[str, Callable[[Stack], object]] = {
    "stack_id": lambda stack: stack.stack_id,
    "pod_id": lambda stack: stack.pod_name,
    "namespace": lambda stack: stack.namespace,
    "node_id": lambda stack: stack.node_id,
    "node_public_ip": lambda stack: stack.node_public_ip,
    "pod_spec": lambda stack: stack.pod_spec,
    "ports": port_fields,
    "service_name": lambda stack: stack.service_name,
    "status": lambda stack: stack.status,
    "ttl_expires_at": lambda stack: rfc3339(stack.ttl_expires_at),
    "created_at": lambda stack: rfc3339(stack.created_at),
    "updated_at": lambda stack: rfc3339(stack.updated_at),
    "requested_cpu_milli": lambda stack: stack.requested_cpu_milli,
    "requested_memory_bytes": lambda stack: stack.requested_memory_bytes,
    "status_reason": lambda stack: stack.status_reason,
    "status_message": lambda stack: stack.status_message,
    "labels": lambda stack: dict(stack.labels),
    "ended": lambda stack: stack.ended,
}
"""Each field by itself, for answers that hold a choice of them; a test holds this to ``all_fields``."""


def chooser(names: Iterable[str]) -> Callable[[Stack], bytes]:
    """What renders a stack with these fields only."""
    chosen = [(name, FIELDS[name]) for name in names]
    return lambda stack: orjson.dumps({name: field(stack) for name, field in chosen})


def job_body(job: Job) -> bytes:
    """A batch-delete job; ``errors`` is omitted when empty (API contract)."""
    fields: dict[str, object] = {
        "job_id": job.job_id,
        "status": job.status,
        "total": job.total,
        "deleted": job.deleted,
        "not_found": job.not_found,
        "failed": job.failed,
    }
    if job.errors:
        fields["errors"] = [{"stack_id": e.stack_id, "error": e.error} for e in job.errors]
    return orjson.dumps(fields | {"created_at": rfc3339(job.created_at), "updated_at": rfc3339(job.updated_at)})


def accepted_body(job: Job) -> bytes:
    """The answer to a batch delete."""
    return orjson.dumps({"job_id": job.job_id})


def dry_run_body(spec: SanitizedSpec) -> bytes:
    """The answer to a dry run."""
    return orjson.dumps(
        {
            "dry_run": True,
            "pod_spec": spec.text,
            "requested_cpu_milli": spec.requested_cpu_milli,
            "requested_memory_bytes": spec.requested_memory_bytes,
        }
    )


def deleted_body(stack_id: str) -> bytes:
    """The answer to a delete."""
    return orjson.dumps({"deleted": True, "stack_id": stack_id})


def stats_body(stacks: tuple[Stack, ...] | list[Stack], used_node_ports: int) -> bytes:
    """Counts over all stacks. Reserved CPU and memory are of the stacks that hold resources: not ended, not stopped."""
    nodes: dict[str, int] = {}
    active = cpu = memory = 0
    for stack in stacks:
        if stack.status in ACTIVE_STATUSES:
            active += 1
        if not stack.ended and not stack.at_rest:
            cpu += stack.requested_cpu_milli
            memory += stack.requested_memory_bytes
            if stack.node_id is not None:
                nodes[stack.node_id] = nodes.get(stack.node_id, 0) + 1
    return orjson.dumps(
        {
            "total_stacks": len(stacks),
            "active_stacks": active,
            "node_distribution": dict(sorted(nodes.items())),
            "used_node_ports": used_node_ports,
            "reserved_cpu_milli": cpu,
            "reserved_memory_bytes": memory,
        }
    )


@dataclass(slots=True)
class Ready:
    """What has been rendered of one row; each form is made when it is first asked for."""

    stack: Stack
    detail: bytes | None = None
    status: bytes | None = None


class Answers:
    """The ready-made answers of one daemon."""

    def __init__(self, room: Room) -> None:
        self._stacks = room.store.stacks
        self._ports = room.store.ports
        self._ready: dict[str, Ready] = {}
        self._listing = Listing(listed_body)
        self._stats: tuple[int, bytes] = (-1, b"")

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """A row changed (a subscriber of the store): what was rendered of it is worth nothing any more."""
        gone = after or before
        if gone is not None:
            self._ready.pop(gone.stack_id, None)

    def status(self, stack: Stack) -> bytes:
        """The body of a status read."""
        ready = self._of(stack)
        if ready.status is None:
            ready.status = status_body(stack)
        return ready.status

    def detail(self, stack: Stack) -> bytes:
        """The body of a read of one stack."""
        ready = self._of(stack)
        if ready.detail is None:
            ready.detail = detail_body(stack)
        return ready.detail

    async def everything(self) -> list[Piece]:
        """The list of all stacks as it is now, in pieces that all who read it share."""
        return await self._listing.pieces(self._stacks.ordered())

    def stats(self) -> bytes:
        """The body of a stats read."""
        version = self._stacks.version
        if self._stats[0] != version:
            self._stats = (version, stats_body(self._stacks.ordered(), self._ports.used))
        return self._stats[1]

    def _of(self, stack: Stack) -> Ready:
        ready = self._ready.get(stack.stack_id)
        if ready is None or ready.stack is not stack:
            ready = self._ready[stack.stack_id] = Ready(stack)
        return ready
