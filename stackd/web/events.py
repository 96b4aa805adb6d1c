"""The event streams: server-sent events of all stacks and jobs, or of one stack.

Owns: what a stream sends at its beginning, while nothing changes, and at its end. The change feed owns the changes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import lru_cache

import orjson
from aiohttp import hdrs, web

from stackd import __version__
from stackd.clock import from_nanoseconds
from stackd.errors import StackNotFound, StoreUnavailable
from stackd.keys import ApiKey
from stackd.model import Job, Stack
from stackd.web import bodies
from stackd.web.api import Api, ApiCall
from stackd.web.change_feed import ChangeKind, FeedChange, Renderer, event, frame
from stackd.web.requests import Parameters
from stackd.web.stack_fields import FILTERS_MANY, FILTERS_ONCE, POD_SPEC, StackSelection, chosen_fields, renderer
from stackd.web.stacks import stack_of

LAST_EVENT_ID = "Last-Event-ID"
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
PIECE_BYTES = 64 * 1024
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # tells proxies not to buffer the events
}
KNOWN_CHOICES = 64


async def all_events(call: ApiCall) -> web.StreamResponse:
    """``GET /events``: of all stacks and jobs, or of the stacks that the filters of the list choose."""
    parameters = Parameters(call.request, ("fields", *FILTERS_ONCE), FILTERS_MANY)
    selection, render = StackSelection(parameters), _render(chosen_fields(parameters))
    kind_of = _selected(selection) if selection else lambda change: change.kind
    return await _stream(call, _Subscriber(render, _visible(call.key, kind_of)))


async def stack_events(call: ApiCall) -> web.StreamResponse:
    """``GET /stacks/{stack_id}/events``: begins with the stack as it is, and ends after the stack is deleted."""
    stack, render = stack_of(call), _render(chosen_fields(Parameters(call.request, ("fields",))))
    name = stack.stack_id
    return await _stream(call, _Subscriber(render, lambda change: change.kind if change.name == name else None, stack))


def _visible(
    key: ApiKey, kind_of: Callable[[FeedChange], ChangeKind | None]
) -> Callable[[FeedChange], ChangeKind | None]:
    """Return ``kind_of`` for the changes that the key may see, None for others."""
    if not key.tenant:
        return kind_of

    def kind_if_visible(change: FeedChange) -> ChangeKind | None:
        record = change.record
        visible = key.may_see_job(record) if isinstance(record, Job) else key.may_see(change.labels)
        return kind_of(change) if visible else None

    return kind_if_visible


def _selected(selection: StackSelection) -> Callable[[FeedChange], ChangeKind | None]:
    """Return what a change means to a client that follows selected stacks; one that is no longer selected has left."""

    def kind_of(change: FeedChange) -> ChangeKind | None:
        record, before = change.record, change.before
        if isinstance(record, Job):
            return None
        if record is not None and selection.matches(record):
            return ChangeKind.STACK
        if change.exact:
            was_selected = before is not None and selection.matches(before)
        else:
            was_selected = record is None or selection.may_have_matched(record)
        if not was_selected:
            return None
        return ChangeKind.DELETED if record is None else ChangeKind.LEFT

    return kind_of


class _Subscriber:
    """What one client is sent; ``only`` is the stack that it follows, if it follows a single one.

    ``ended``: it has been sent the end of that stack.
    """

    def __init__(
        self, render: Renderer, kind_of: Callable[[FeedChange], ChangeKind | None], only: Stack | None = None
    ) -> None:
        self.render = render
        self.kind_of = kind_of
        self.only = only
        self.ended = False


async def _stream(call: ApiCall, subscriber: _Subscriber) -> web.StreamResponse:
    feed = call.api.feed
    with feed.follow(call.key.name):
        position = feed.number
        opening, missed = _opening(call, subscriber.only)
        response = web.StreamResponse(headers=HEADERS)
        try:
            await response.prepare(call.request)
            if call.request.method == hdrs.METH_HEAD:
                return response
            await response.write(opening)
            await _follow(call, response, subscriber, missed, position)
        except ConnectionError:
            pass  # the client has left
        return response


async def _follow(
    call: ApiCall, response: web.StreamResponse, subscriber: _Subscriber, missed: list[FeedChange], position: int
) -> None:
    api, feed = call.api, call.api.feed
    changes: list[FeedChange] | None = missed
    while not feed.closed and api.keys.in_force(call.key):
        try:
            async with aclosing(_frames(api, changes or [], subscriber)) as frames:
                async for piece in frames:
                    await response.write(piece)
        except StoreUnavailable:
            await response.write(event(b"dropped", b"{}"))
            return
        if subscriber.ended:
            return
        if not await feed.more(position, HEARTBEAT_SECONDS):
            await response.write(HEARTBEAT)
        changes = feed.since(position)
        if changes is None:
            await response.write(event(b"dropped", b"{}"))
            return
        if changes:
            position = changes[-1].number


def _opening(call: ApiCall, present: Stack | None) -> tuple[bytes, list[FeedChange]]:
    """The first bytes of a stream, and the changes that it has missed since the last event that its client saw."""
    api = call.api
    now = from_nanoseconds(api.context.clock.now())
    feed, first = api.feed, orjson.dumps({"version": __version__, "now": now})
    hello = event(b"hello", first, feed.id_of(feed.number))
    seen = call.request.headers.get(LAST_EVENT_ID)
    if seen is None:
        return hello, _present_state(call, present)
    missed = feed.resumed(seen)
    if missed is None:
        return hello + event(b"reset", b"{}"), _present_state(call, present)
    # Without the present id: if the stream were cut again, the client would resume there and lose the missed changes.
    hello = event(b"hello", first)
    return (hello if missed.whole else hello + event(b"skipped", b"{}")), missed.changes


def _present_state(call: ApiCall, present: Stack | None) -> list[FeedChange]:
    return [] if present is None else [FeedChange(call.api.feed.number, present.stack_id, present)]


async def _frames(api: Api, changes: list[FeedChange], subscriber: _Subscriber) -> AsyncGenerator[bytes, None]:
    """The selected changes as events, joined to pieces of about ``PIECE_BYTES``. Raises StoreUnavailable."""
    waiting: list[bytes] = []
    size = 0
    async for change in bodies.in_turns(changes):
        kind = subscriber.kind_of(change)
        if kind is None:
            continue
        one = await _frame(api, change, kind, subscriber.render)
        subscriber.ended = subscriber.only is not None and kind is ChangeKind.DELETED
        waiting.append(one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _frame(api: Api, change: FeedChange, kind: ChangeKind, render: Renderer) -> bytes:
    """One event; empty if the pod spec has to be read but the stack is deleted by now. The deletion's event follows."""
    record = change.record
    if kind is not ChangeKind.STACK or record is None or isinstance(record, Job) or not _is_late(record, render):
        return frame(api.feed, change, kind, render)
    try:
        whole = await api.context.store.stacks.whole(record)
    except StackNotFound:
        return b""
    return event(b"stack", render(whole), api.feed.id_of(change.number))


def _is_late(stack: Stack, render: Renderer) -> bool:
    return render.tells_pod_spec and bodies.is_late(stack)


@lru_cache(maxsize=KNOWN_CHOICES)
def _render(fields: tuple[str, ...]) -> Renderer:
    """One renderer for each choice of fields, so that clients with the same choice share the rendered bytes."""
    stack_bytes = renderer(fields) if fields else bodies.detail_body
    return Renderer(stack=stack_bytes, job=bodies.streamed_job, tells_pod_spec=not fields or POD_SPEC in fields)
