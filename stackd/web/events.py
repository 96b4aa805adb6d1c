"""The event streams: server-sent events of all stacks and jobs, or of one stack.

Owns: what a stream sends at its beginning, while nothing changes, and at its end. The change feed owns the changes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import lru_cache

import orjson
from aiohttp import hdrs, web

from stackd import __version__, contract
from stackd.clock import from_nanoseconds
from stackd.errors import StackNotFound, StoreUnavailable
from stackd.keys import ApiKey
from stackd.model import Job, Stack
from stackd.web import bodies
from stackd.web.api import Answer, Api, ApiCall, route
from stackd.web.change_feed import ChangeKind, FeedChange, Renderer, event, frame
from stackd.web.parameters import FIELDS, FILTERS, Parameter, StackSelection
from stackd.web.stacks import HISTORY

LAST_EVENT_ID = Parameter("Last-Event-ID", "Continue after this event.", str, where="header")
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
PIECE_BYTES = 64 * 1024
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # tells proxies not to buffer the events
}
KNOWN_CHOICES = 64
STREAM = Answer(
    "Events until one side closes the connection. A comment every 15 s shows that it is alive.",
    contract.StreamEvent,
    media="text/event-stream",
)


@route("GET", "/events", HISTORY, STREAM, query=(*FILTERS, FIELDS, LAST_EVENT_ID), streams=True)
async def stream_events(call: ApiCall) -> web.StreamResponse:
    """Follow all stacks.

    Server-sent events; `data` is JSON.

    - `hello`: the stream has begun, and what follows is new. List the stacks now.
    - `stack`: a stack is new or has changed; the stack as in a list, with all its fields.
    - `deleted`: `{"stack_id": …}`
    - `job`: a batch job changed; the data is the job, as `GET /stacks/batch-delete/{job_id}` shows one that deletes, and as
      `GET /stacks/batch/{job_id}` shows any other.
    - `left`: `{"stack_id": …}`; with a filter: the stack is there, but no longer one of those that you chose.
    - `skipped`: after `Last-Event-ID`: of the stacks that follow, only the present state is still known, not each one between.
    - `reset`: the event of `Last-Event-ID` is too old. List the stacks again.
    - `dropped`: this client read too slowly. The stream ends. Continue with `Last-Event-ID`, or list again.

    A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`.
    """
    parameters = call.parameters
    selection, render = StackSelection(parameters), _render(parameters.get(FIELDS, ()))
    kind_of = _selected(selection) if selection else lambda change: change.kind
    return await _stream(call, _Subscriber(render, _visible(call.key, kind_of)))


@route("GET", "/stacks/{stack_id}/events", HISTORY, STREAM, query=(FIELDS, LAST_EVENT_ID), streams=True)
async def stream_stack_events(call: ApiCall) -> web.StreamResponse:
    """Follow one stack.

    As `GET /events`, for one stack: it begins with the stack's present state and ends when the stack is gone.
    """
    stack, render = call.stack, _render(call.parameters.get(FIELDS, ()))
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
    seen = call.request.headers.get(LAST_EVENT_ID.name)
    if seen is None:
        return hello, _present_state(call, present)
    missed = feed.resumed(seen)
    if missed is None:
        return hello + event(b"reset", b"{}"), _present_state(call, present)
    # Without the present id: if the stream were cut again, the client would resume there and lose the missed changes.
    hello = event(b"hello", first)
    return (hello if missed.complete else hello + event(b"skipped", b"{}")), missed.changes


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
    if kind is not ChangeKind.STACK or record is None or isinstance(record, Job) or not _is_unread(record, render):
        return frame(api.feed, change, kind, render)
    try:
        whole = await api.context.store.stacks.whole(record)
    except StackNotFound:
        return b""
    return event(b"stack", render(whole), api.feed.id_of(change.number))


def _is_unread(stack: Stack, render: Renderer) -> bool:
    return render.has_pod_spec and bodies.is_unread(stack)


@lru_cache(maxsize=KNOWN_CHOICES)
def _render(fields: tuple[str, ...]) -> Renderer:
    """One renderer for each choice of fields, so that clients with the same choice share the rendered bytes."""
    stack_bytes = bodies.encoder(contract.Stack, fields or contract.STACK_FIELDS)
    return Renderer(stack=stack_bytes, job=bodies.streamed_job, has_pod_spec=not fields or "pod_spec" in fields)
