"""Stacks and jobs as the contract's JSON, ready-made.

Owns: the rendered bytes of each row, so that a read renders nothing, and the list of all stacks as ready pieces. A row
is immutable, so its bytes are valid while the same row is the current one. A long pod spec is not kept in memory, nor
is a body that contains it: each read loads and renders it again.

All readers share the pieces of the list, and its versions share the pieces that did not change. The ids of the stacks,
not their number, decide where a piece ends. So a new or deleted stack changes one piece, and a slow reader of an old
version holds little extra memory. Stacks whose pod specs are not in memory form a piece of their own, which is read
when it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from time import perf_counter
from typing import Final, TypeVar

import orjson

from stackd.clock import NANOSECONDS
from stackd.clock import from_nanoseconds as rfc3339
from stackd.lifecycle.context import Context
from stackd.model import ACTIVE_STATUSES, Job, JobAction, SanitizedSpec, Stack
from stackd.store import Store
from stackd.units import format_duration
from stackd.web.stack_fields import CONTRACT, FIELDS, STATUS_READ, renderer

detail_body = renderer(tuple(FIELDS))
"""The answer to a read of one stack: the documented fields, then those beyond them."""

listed_body = renderer(CONTRACT)
"""The stack as an entry of the list."""

status_body = renderer(STATUS_READ)
"""The answer to a status read."""


def created_body(stack: Stack) -> bytes:
    """The answer to a create: as to a read, with the values generated for the stack. Only its creator gets these."""
    if not stack.values:
        return detail_body(stack)
    return detail_body(stack)[:-1] + b',"values":' + orjson.dumps(dict(stack.values)) + b"}"


def job_body(job: Job) -> bytes:
    """A batch-delete job; ``errors`` is omitted when empty (API contract)."""
    return orjson.dumps({"job_id": job.job_id, **progress_of(job, "deleted")})


def batch_body(job: Job) -> bytes:
    """A batch job, whatever its action."""
    return orjson.dumps({"job_id": job.job_id, **what_of(job), **progress_of(job)})


def streamed_job(job: Job) -> bytes:
    """A job as an event tells it."""
    return job_body(job) if job.action is JobAction.DELETE else batch_body(job)


def what_of(job: Job) -> dict[str, object]:
    """What the job does."""
    ttl = {"ttl": format_duration(job.ttl / NANOSECONDS)} if job.action is JobAction.EXTEND else {}
    return {"action": job.action, **ttl}


def progress_of(job: Job, done: str = "done") -> dict[str, object]:
    """How far the job is; ``done`` is the name of the count of what it has done."""
    return {
        "status": job.status,
        "total": job.total,
        done: job.done,
        "not_found": job.not_found,
        "failed": job.failed,
        **({"errors": job.errors} if job.errors else {}),
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.updated_at),
    }


def accepted_body(job: Job) -> bytes:
    """The answer to a batch delete."""
    return orjson.dumps({"job_id": job.job_id})


def accepted_many_body(job: Job) -> bytes:
    """The answer where stackd has chosen the stacks."""
    return orjson.dumps({"job_id": job.job_id, "total": job.total})


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
    """Counts over all stacks. Reserved CPU and memory are those of stacks that hold resources: not ended, not stopped.

    An unassigned stack of a pool counts for resources and ports only.
    """
    nodes: dict[str, int] = {}
    total = active = cpu = memory = 0
    for stack in stacks:
        assigned = not stack.unassigned
        total += assigned
        if assigned and stack.status in ACTIVE_STATUSES:
            active += 1
        if not stack.ended and not stack.at_rest:
            cpu += stack.requested_cpu_milli
            memory += stack.requested_memory_bytes
            if assigned and stack.node_id is not None:
                nodes[stack.node_id] = nodes.get(stack.node_id, 0) + 1
    return orjson.dumps(
        {
            "total_stacks": total,
            "active_stacks": active,
            "node_distribution": dict(sorted(nodes.items())),
            "used_node_ports": used_node_ports,
            "reserved_cpu_milli": cpu,
            "reserved_memory_bytes": memory,
        }
    )


@dataclass(slots=True)
class ReadyBodies:
    """The rendered forms of one row. Each is rendered when it is first requested."""

    stack: Stack
    detail: bytes | None = None
    status: bytes | None = None


class BodyCache:
    """The ready-made answers of one daemon."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._stacks = context.store.assigned
        self._ports = context.store.ports
        self._ready: dict[str, ReadyBodies] = {}
        self._listing = Listing(listed_body)
        self._stats: tuple[int, bytes] = (-1, b"")

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Drop what was rendered of a changed row (a subscriber of the store)."""
        gone = after or before
        if gone is not None:
            self._ready.pop(gone.stack_id, None)

    def status(self, stack: Stack) -> bytes:
        """The body of a status read."""
        ready = self._of(stack)
        if ready.status is None:
            ready.status = status_body(stack)
        return ready.status

    async def detail(self, stack: Stack) -> bytes:
        """The body of a read of one stack. Raises StackNotFound if its pod spec has to be read but the row is gone."""
        if stack.pod_spec is None:
            return detail_body(await self._store.stacks.whole(stack))
        ready = self._of(stack)
        if ready.detail is None:
            ready.detail = detail_body(stack)
        return ready.detail

    async def everything(self) -> list[Piece | Late]:
        """The list of all stacks as it is now, in pieces that all readers share. ``read_late`` reads the late ones."""
        return await self._listing.pieces(self._stacks.ordered())

    def stats(self) -> bytes:
        """The body of a stats read."""
        version = self._store.stacks.version
        if self._stats[0] != version:
            self._stats = (version, stats_body(self._store.stacks.ordered(), self._ports.used))
        return self._stats[1]

    def _of(self, stack: Stack) -> ReadyBodies:
        ready = self._ready.get(stack.stack_id)
        if ready is None or ready.stack is not stack:
            ready = self._ready[stack.stack_id] = ReadyBodies(stack)
        return ready


OPEN: Final = b'{"stacks":['
CLOSE: Final = b"]}"
HOLD_SECONDS: Final = 0.004
"""How long one request works before other tasks get a turn."""

_LAST_OF_PIECE: Final = ("00", "40", "80", "c0")  # the end of one id in 64
_LONGEST_PIECE: Final = 256
_READ_AT_ONCE: Final = 16
"""How many pod specs a reader of the list loads at once. They take memory, and the store's writer waits meanwhile."""

T = TypeVar("T")


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items. Other tasks get a turn when the caller has worked for ``HOLD_SECONDS``."""
    began = perf_counter()
    for item in items:
        yield item
        if perf_counter() - began >= HOLD_SECONDS:
            await asyncio.sleep(0)
            began = perf_counter()


Piece = bytes | memoryview
Late = tuple[Stack, ...]
_Block = tuple[tuple[Stack, ...], list[bytes | Late]]


class Listing:
    """Renders the list of all stacks; ``entry`` renders one stack of it."""

    def __init__(self, entry: Callable[[Stack], bytes]) -> None:
        self._entry = entry
        self._blocks: dict[str, _Block] = {}
        self._stacks: tuple[Stack, ...] | None = None
        self._pieces: list[Piece | Late] = []

    async def pieces(self, stacks: tuple[Stack, ...]) -> list[Piece | Late]:
        """``{"stacks":[…]}`` of exactly these stacks, in pieces. The same tuple gets the same pieces again."""
        if stacks is self._stacks:
            return self._pieces
        blocks: dict[str, _Block] = {}
        async for group in in_turns(_groups(stacks)):
            first = group[0].stack_id
            known = self._blocks.get(first)
            if known is None or known[0] != group:
                known = self._blocks[first] = (group, list(rendered(group, self._entry)))
            blocks[first] = known
        self._blocks, self._stacks, self._pieces = blocks, stacks, _joined(blocks)
        return self._pieces


def _groups(stacks: tuple[Stack, ...]) -> Iterator[tuple[Stack, ...]]:
    start = 0
    for index, stack in enumerate(stacks, 1):
        if stack.stack_id.endswith(_LAST_OF_PIECE) or index - start == _LONGEST_PIECE:
            yield stacks[start:index]
            start = index
    if start < len(stacks):
        yield stacks[start:]


def rendered(stacks: Iterable[Stack], entry: Callable[[Stack], bytes]) -> Iterator[bytes | Late]:
    """``,entry,entry`` for each run of stacks whose pod specs are in memory; other runs are returned as they are."""
    for late, run in groupby(stacks, key=is_late):
        together = tuple(run)
        yield together if late else b"," + b",".join(map(entry, together))


def _joined(blocks: dict[str, _Block]) -> list[Piece | Late]:
    pieces: list[Piece | Late] = [OPEN, *(piece for _, rendered in blocks.values() for piece in rendered), CLOSE]
    if isinstance(first := pieces[1], bytes) and first.startswith(b","):
        pieces[1] = memoryview(first)[1:]  # no comma before the first
    return pieces


def is_late(stack: Stack) -> bool:
    """Whether the stack's pod spec has to be read from the file."""
    return stack.pod_spec is None


async def read_late(
    pieces: Sequence[Piece | Late], store: Store, entry: Callable[[Stack], bytes]
) -> AsyncGenerator[Piece, None]:
    """The pieces, with long pod specs read from the file and rendered in their place. Deleted stacks are left out."""
    first = True
    for piece in pieces:
        if not isinstance(piece, tuple):
            yield piece[1:] if first and piece[:1] == b"," else piece
            first = first and piece is OPEN
            continue
        for start in range(0, len(piece), _READ_AT_ONCE):
            some = piece[start : start + _READ_AT_ONCE]
            texts = await store.stacks.pod_specs(stack.stack_id for stack in some)
            for stack in some:
                if (text := texts.get(stack.stack_id)) is not None:
                    rendered = entry(replace(stack, pod_spec=text))
                    yield rendered if first else b"," + rendered
                    first = False
