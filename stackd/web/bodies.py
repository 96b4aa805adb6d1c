"""Answers as JSON: how a row or a body of ``contract`` becomes bytes, and the bytes of each row, ready-made.

Owns: where each field of ``contract`` comes from, and the rendered bytes of each row, so that a read renders nothing. A
row is immutable, so its bytes are valid while the same row is the current one. All readers of the list share them: a
slow one holds references, no copies. A long pod spec is not kept in memory, nor is a body that contains it: each read
loads and renders it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from time import perf_counter
from typing import Any, Final, TypeVar, get_args, get_origin

from msgspec import NODEFAULT, json

from stackd import contract
from stackd.clock import NANOSECONDS
from stackd.clock import from_nanoseconds as rfc3339
from stackd.codes import HOST
from stackd.contract import Body, fields_of, is_body
from stackd.lifecycle.context import Context
from stackd.model import ACTIVE_STATUSES, Job, JobAction, JobRequest, PortMapping, RoutedPort, Stack
from stackd.store import Store
from stackd.units import format_duration
from stackd.web.shown import addresses_of, problem_of, title_of

T = TypeVar("T")
Fields = dict[str, Any]


def time_of(nanoseconds: int | None) -> Any:
    """A time for a field of ``contract``."""
    return None if nanoseconds is None else rfc3339(nanoseconds)


def length_of(job: Job | JobRequest) -> str:
    """By how much a job extends; empty if it does not."""
    return format_duration(job.ttl / NANOSECONDS) if job.action is JobAction.EXTEND else ""


def _pod_spec(stack: Any) -> str:
    """Raises ValueError if the pod spec has to be read first (``Stacks.with_pod_spec``): no answer may lack it."""
    if stack.pod_spec is None:
        raise ValueError(f"the pod spec of {stack.stack_id} was not read")
    return str(stack.pod_spec)


def _members(stack: Stack) -> tuple[contract.Member, ...]:
    return tuple(
        contract.Member(name=one.name, pod_id=stack.member_name(one.name), node_id=one.node_id) for one in stack.members
    )


def _host(port: PortMapping) -> str:
    return port.host if isinstance(port, RoutedPort) and not port.url else ""


_SOURCES: Final[Mapping[tuple[type, str], Callable[[Any], Any]]] = {
    (contract.Port, "url"): lambda port: getattr(port, "url", ""),
    (contract.Port, "host"): _host,
    (contract.TemplatePort, "route"): lambda port: getattr(port, "route", ""),
    (contract.Stack, "pod_id"): attrgetter("pod_name"),
    (contract.Stack, "pod_spec"): _pod_spec,
    (contract.Stack, "addresses"): addresses_of,
    (contract.Stack, "problem"): problem_of,
    (contract.Stack, "title"): title_of,
    (contract.Stack, "members"): _members,
    (contract.StackStatusAnswer, "ttl"): attrgetter("ttl_expires_at"),
    (contract.StackStatusAnswer, "addresses"): addresses_of,
    (contract.StackStatusAnswer, "problem"): problem_of,
    (contract.DryRun, "dry_run"): lambda _: True,
    (contract.DryRun, "pod_spec"): attrgetter("text"),
    (contract.TimelineEvent, "by"): attrgetter("by.name"),
    (contract.KeptLink, "by"): attrgetter("by.name"),
    (contract.Job, "by"): attrgetter("by.name"),
    (contract.Job, "deleted"): attrgetter("done"),
    (contract.Job, "ttl"): length_of,
}
"""Fields that are not the attribute of the same name of what is rendered."""

CHOICES = 128  # so many renderers are kept: one for each kind of body, and those of the choices of fields used last


@lru_cache(maxsize=CHOICES)
def renderer(kind: Any, names: tuple[str, ...] = ()) -> Callable[[Any], Fields]:
    """Return a function that reads the fields of a body of this kind, or only ``names``, from a row or a body."""
    plan: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any] | None, Any]] = []
    for each in fields_of(kind):
        if not names or each.name in names:
            get = _SOURCES.get((kind, each.name)) or attrgetter(each.name)
            plan.append((each.name, get, _converter(each.kind), each.default if each.optional else NODEFAULT))

    def render(source: Any) -> Fields:
        fields: Fields = {}
        for name, get, convert, default in plan:
            value = get(source)
            if default is not NODEFAULT and (value is None or value == default):
                continue
            fields[name] = value if value is None or convert is None else convert(value)
        return fields

    return render


def _converter(kind: Any) -> Callable[[Any], Any] | None:
    """How a value of this type is prepared for JSON; None: it need not be."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is datetime:
        return lambda value: rfc3339(value) if isinstance(value, int) else value
    if is_body(kind):
        return renderer(kind)
    if origin is tuple:
        item: Any = _converter(inner[0])
        return None if item is None else lambda values: [item(one) for one in values]
    if origin is Mapping:
        item = _converter(inner[1])
        return dict if item is None else lambda values: {name: item(one) for name, one in values.items()}
    return _converter(inner[0]) if type(None) in inner else None


def encode(body: Body) -> bytes:
    kind: Any = type(body)
    return json.encode(renderer(kind)(body))


@lru_cache(maxsize=CHOICES)
def encoder(kind: Any, names: tuple[str, ...] = ()) -> Callable[[Any], bytes]:
    """Return a function that renders a row as the JSON of a body, or of only these fields of it."""
    render = renderer(kind, names)
    return lambda source: json.encode(render(source))


detail_body = encoder(contract.Stack, contract.STACK_FIELDS)
"""The answer to a read of one stack, and its entry in a list: the documented fields, then those beyond them."""

created_body = encoder(contract.Stack, (*contract.STACK_FIELDS, "values"))
"""The answer to a create: as to a read, with the values generated for the stack. Only its creator gets these."""

status_body = encoder(contract.StackStatusAnswer)
dry_run_body = encoder(contract.DryRun)
job_body = encoder(contract.Job, contract.DELETE_JOB)
batch_body = encoder(contract.Job, contract.BATCH_JOB)
accepted_body = encoder(contract.JobAccepted)
accepted_many_body = encoder(contract.JobOfMany)


def stats_body(stacks: Iterable[Stack], used_node_ports: int, spare_services: int = 0) -> bytes:
    """Counts over all stacks. Reserved CPU and memory are those of stacks that hold resources: not ended, not stopped.

    An unassigned stack of a pool, and one whose create was undone, counts for resources and ports only; a spare Service for
    nothing.
    """
    nodes: dict[str, int] = {}
    total = active = cpu = memory = 0
    for stack in stacks:
        assigned = stack.of_clients
        total += assigned
        if assigned and stack.status in ACTIVE_STATUSES:
            active += 1
        if not stack.ended and not stack.at_rest:
            cpu += stack.requested_cpu_milli
            memory += stack.requested_memory_bytes
            if assigned and stack.node_id is not None:
                nodes[stack.node_id] = nodes.get(stack.node_id, 0) + 1
    return encode(
        contract.Stats(
            total_stacks=total,
            active_stacks=active,
            node_distribution=dict(sorted(nodes.items())),
            used_node_ports=used_node_ports,
            reserved_cpu_milli=cpu,
            reserved_memory_bytes=memory,
            spare_services=spare_services,
        )
    )


class BodyCache:
    """The ready-made answers of one daemon. Each form of a row is rendered when it is first requested."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._stacks = context.store.assigned
        self._ports = context.store.ports
        self._spares, self._mirror = context.spares, context.mirror
        self._ready: dict[str, tuple[Stack, dict[Callable[[Stack], bytes], bytes]]] = {}
        self._listed: tuple[Sequence[Stack], list[bytes]] = ((), [])
        self._stats: tuple[tuple[int, int], bytes] = ((-1, 0), b"")
        self._host = HOST.name

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Drop what was rendered of a changed row (a subscriber of the store)."""
        if (changed := after or before) is not None:
            self._ready.pop(changed.stack_id, None)

    def status(self, stack: Stack) -> bytes:
        return self._rendered(stack, status_body)

    async def detail(self, stack: Stack) -> bytes:
        """The body of a read of one stack. Raises StackNotFound if its pod spec has to be read but the row is gone."""
        if stack.pod_spec is None:
            return detail_body(await self._store.stacks.with_pod_spec(stack))
        return self._rendered(stack, detail_body)

    def entry(self, stack: Stack) -> bytes:
        return self._rendered(stack, detail_body)

    def has_unread(self, stacks: Sequence[Stack]) -> bool:
        """Whether pod specs have to be read for the entries of these stacks."""
        return stacks is not self._listed[0] and any(stack.pod_spec is None for stack in stacks)

    async def entries(self, stacks: Sequence[Stack]) -> list[bytes]:
        """The entries of these stacks in the list, whose pod specs are in memory. All readers share them."""
        self._forget_other_host()
        if stacks is self._listed[0]:
            return self._listed[1]
        entries = [self.entry(stack) async for stack in in_turns(stacks)]
        if stacks is self._stacks.ordered():
            self._listed = stacks, entries
        return entries

    def stats(self) -> bytes:
        of = self._store.stacks.version, self._spares.ready(self._mirror)
        if self._stats[0] != of:
            self._stats = (of, stats_body(self._store.stacks.ordered(), self._ports.used, of[1]))
        return self._stats[1]

    def _forget_other_host(self) -> None:
        """Drop what names whom players asked before ``play.host_name`` was changed."""
        if self._host != HOST.name:
            self._host, self._listed = HOST.name, ((), [])
            self._ready.clear()

    def _rendered(self, stack: Stack, render: Callable[[Stack], bytes]) -> bytes:
        self._forget_other_host()
        ready = self._ready.get(stack.stack_id)
        if ready is None or ready[0] is not stack:
            ready = stack, {}
            if self._stacks.get(stack.stack_id) is stack:  # else no change of the row would drop it
                self._ready[stack.stack_id] = ready
        body = ready[1].get(render)
        if body is None:
            body = ready[1][render] = render(stack)
        return body


HOLD_SECONDS: Final = 0.004
"""How long one request works before other tasks get a turn."""

READ_AT_ONCE: Final = 4
"""How many pod specs a reader of the list loads at once. They take memory, and the store's writer waits meanwhile."""

RENDER_AT_ONCE: Final = 16
"""How many entries are rendered at once for a reader who shares them with nobody."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The items. Other tasks get a turn when the caller has worked for ``HOLD_SECONDS``."""
    began = perf_counter()
    for item in items:
        yield item
        if perf_counter() - began >= HOLD_SECONDS:
            await asyncio.sleep(0)
            began = perf_counter()


async def read_entries(
    stacks: Sequence[Stack], store: Store, render: Callable[[Stack], bytes]
) -> AsyncGenerator[bytes, None]:
    """``entry,entry,…`` in pieces, with the pod specs from the file. Stacks that are deleted meanwhile are left out."""
    comma = b""
    async for start in in_turns(range(0, len(stacks), READ_AT_ONCE)):
        some = stacks[start : start + READ_AT_ONCE]
        unread = [stack.stack_id for stack in some if stack.pod_spec is None]
        texts = await store.stacks.pod_specs(unread) if unread else {}
        entries = [
            render(replace(stack, pod_spec=texts[stack.stack_id]) if stack.pod_spec is None else stack)
            for stack in some
            if stack.pod_spec is not None or stack.stack_id in texts
        ]
        if entries:
            piece = comma + b",".join(entries)
            comma = b","
            del texts, entries  # while a slow reader takes it, it holds the piece alone
            yield piece


async def rendered_entries(rows: Sequence[T], render: Callable[[T], bytes]) -> AsyncGenerator[bytes, None]:
    """``entry,entry,…`` in pieces."""
    comma = b""
    async for start in in_turns(range(0, len(rows), RENDER_AT_ONCE)):
        yield comma + b",".join(map(render, rows[start : start + RENDER_AT_ONCE]))
        comma = b","
