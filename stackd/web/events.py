"""The event streams: server-sent events of all stacks and jobs, or of one stack.

Owns: what a stream sends at its beginning, while nothing changes, and at its end. The change feed owns the changes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass

from aiohttp import hdrs, web
from msgspec import json

from stackd import contract
from stackd.clock import from_nanoseconds
from stackd.contract import EventName
from stackd.errors import StackNotFound, StoreUnavailable
from stackd.keys import ApiKey
from stackd.model import Job, Stack
from stackd.version import VERSION
from stackd.web import bodies
from stackd.web.api import Answer, Api, ApiCall, route
from stackd.web.change_feed import FeedChange, event, frame, rendered
from stackd.web.parameters import FIELDS, FILTERS, Parameter, StackSelection
from stackd.web.responses import begin
from stackd.web.stacks import HISTORY

LAST_EVENT_ID = Parameter("Last-Event-ID", "Continue after this event.", str, where="header")
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
PIECE_BYTES = 64 * 1024
DROPPED = event(b"dropped", b"{}")
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # tells proxies not to buffer the events
}
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
    - `reset`: the event of `Last-Event-ID` is too old. List the stacks again.
    - `dropped`: this client read too slowly. The stream ends. Continue with `Last-Event-ID`, or list again.

    A browser's EventSource cannot send a header: read the stream with `fetch`, or give the key as `api_key`.
    """
    parameters = call.parameters
    selection = StackSelection(parameters)
    return await _stream(call, _Subscriber(call.key, parameters.get(FIELDS, ()), selection))


@route("GET", "/stacks/{stack_id}/events", HISTORY, STREAM, query=(FIELDS, LAST_EVENT_ID), streams=True)
async def stream_stack_events(call: ApiCall) -> web.StreamResponse:
    """Follow one stack.

    As `GET /events`, for one stack: it begins with the stack's present state and ends when the stack is gone.
    """
    stack = call.stack
    return await _stream(call, _Subscriber(call.key, call.parameters.get(FIELDS, ()), only=stack))


@dataclass(slots=True, eq=False)
class _Subscriber:
    """What one client may see and wants to; ``ended``: it has been sent the end of the stack that it follows ``only``."""

    key: ApiKey
    fields: tuple[str, ...]
    selection: StackSelection | None = None
    only: Stack | None = None
    ended: bool = False

    def kind_of(self, change: FeedChange) -> EventName | None:
        """What the change means to the client; None if it is not sent. A stack that is no longer selected has left."""
        record, before = change.record, change.before
        if self.only is not None:
            return change.kind if change.name == self.only.stack_id else None
        if isinstance(record, Job):
            return None if self.selection or not self.key.may_see_job(record) else "job"
        if not self.key.may_read(change.stack):
            return None
        if not self.selection or (record is not None and self.selection.matches(record)):
            return change.kind
        if before is None or not self.selection.matches(before):
            return None
        return "deleted" if record is None else "left"


async def _stream(call: ApiCall, subscriber: _Subscriber) -> web.StreamResponse:
    response = web.StreamResponse(headers=HEADERS)
    with call.api.feed.follow(call.key.principal.id), suppress(ConnectionError):  # the client has left
        pieces = _pieces(call, subscriber)
        await begin(call.request, response)
        if call.request.method != hdrs.METH_HEAD:
            async with aclosing(pieces):
                async for piece in pieces:
                    await response.write(piece)
    return response


async def _pieces(call: ApiCall, subscriber: _Subscriber) -> AsyncGenerator[bytes, None]:
    """All that the client is sent, until its key or the feed ends."""
    api, feed, position = call.api, call.api.feed, call.api.feed.number
    seen = call.request.headers.get(LAST_EVENT_ID.name)
    changes = None if seen is None else feed.resumed(seen)
    hello = json.encode({"version": VERSION, "now": from_nanoseconds(api.context.clock.now())})
    # With missed changes, without the present id: after another cut, the client would resume there and lose them.
    yield event(b"hello", hello, feed.id_of(position) if changes is None else "")
    if changes is None:
        if seen is not None:
            yield event(b"reset", b"{}")
        stack = subscriber.only
        changes = [] if stack is None else [FeedChange(position, stack.stack_id, stack)]
    while not feed.closed and api.players.in_force(call.key):
        try:
            async with aclosing(_frames(api, changes, subscriber)) as frames:
                async for piece in frames:
                    yield piece
        except StoreUnavailable:
            yield DROPPED
            return
        if subscriber.ended:
            return
        if not await feed.more(position, HEARTBEAT_SECONDS):
            yield HEARTBEAT
        later = feed.since(position)
        if later is None:
            yield DROPPED
            return
        changes = later
        if changes:
            position = changes[-1].number


async def _frames(api: Api, changes: list[FeedChange], subscriber: _Subscriber) -> AsyncGenerator[bytes, None]:
    """The selected changes as events, joined to pieces of about ``PIECE_BYTES``. Raises StoreUnavailable."""
    waiting: list[bytes] = []
    size = 0
    async for change in bodies.in_turns(changes):
        kind = subscriber.kind_of(change)
        if kind is None:
            continue
        one = await _frame(api, change, kind, subscriber.fields)
        subscriber.ended = subscriber.only is not None and kind == "deleted"
        waiting.append(one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


async def _frame(api: Api, change: FeedChange, kind: EventName, fields: tuple[str, ...]) -> bytes:
    """One event; empty if the pod spec has to be read but the stack is deleted by now. The deletion's event follows."""
    stack, has_spec = change.record, not fields or "pod_spec" in fields
    if not (kind == "stack" and isinstance(stack, Stack) and has_spec and stack.pod_spec is None):
        return frame(api.feed, change, kind, fields)
    try:
        full = await api.context.store.stacks.with_pod_spec(stack)
    except StackNotFound:
        return b""
    return event(b"stack", rendered(full, fields), api.feed.id_of(change.number))
