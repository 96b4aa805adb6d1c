"""The event streams: server-sent events of all stacks and jobs, or of one stack.

Owns: what a stream says at its beginning, when it is silent, and at its end. What has changed is the hub's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import orjson
from aiohttp import hdrs, web

from stackd import __version__
from stackd.model import Job, Stack
from stackd.times import from_nanoseconds
from stackd.web import answers, finding
from stackd.web.api import Call
from stackd.web.hub import Change, Hub, Render, event, frame
from stackd.web.parameters import Parameters
from stackd.web.stacks import stack_of

LAST_EVENT_ID = "Last-Event-ID"
HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
PIECE_BYTES = 64 * 1024
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # a proxy is not to collect them
}
KNOWN_CHOICES = 64


async def all_events(call: Call) -> web.StreamResponse:
    """``GET /events``"""
    return await _stream(call, _render_of(call), lambda _: True)


async def stack_events(call: Call) -> web.StreamResponse:
    """``GET /stacks/{stack_id}/events``: begins with the stack as it is, ends after it has gone."""
    stack = stack_of(call)
    name = stack.stack_id
    return await _stream(call, _render_of(call), lambda change: change.name == name, present=stack)


async def _stream(
    call: Call, render: Render, wanted: Callable[[Change], bool], present: Stack | None = None
) -> web.StreamResponse:
    hub = call.api.hub
    with hub.follow():
        position = hub.number
        beginning, changes = _beginning(call, present)
        response = web.StreamResponse(headers=HEADERS)
        try:
            await response.prepare(call.request)
            if call.request.method == hdrs.METH_HEAD:
                return response
            await response.write(beginning)
            await _follow(hub, response, _Reader(render, wanted, position, changes, bool(present)))
        except ConnectionError:
            pass  # the client has left
        return response


class _Reader:
    """What one client is sent: the changes it missed, then those after ``position``."""

    def __init__(
        self, render: Render, wanted: Callable[[Change], bool], position: int, missed: list[Change], one: bool
    ) -> None:
        self.render = render
        self.wanted = wanted
        self.position = position
        self.missed = missed
        self.one = one


async def _follow(hub: Hub, response: web.StreamResponse, reader: _Reader) -> None:
    changes: list[Change] | None = reader.missed
    while not hub.closed:
        shown = [change for change in changes or () if reader.wanted(change)]
        for piece in _pieces(frame(hub, change, reader.render) for change in shown):
            await response.write(piece)
        if reader.one and any(change.is_end for change in shown):
            return
        if not await hub.more(reader.position, HEARTBEAT_SECONDS):
            await response.write(HEARTBEAT)
        changes = hub.since(reader.position)
        if changes is None:
            await response.write(event(b"dropped", b"{}"))
            return
        if changes:
            reader.position = changes[-1].number


def _beginning(call: Call, present: Stack | None) -> tuple[bytes, list[Change]]:
    """What every stream begins with, and what this one has missed since the event that its client saw last."""
    api = call.api
    now = from_nanoseconds(api.room.clock.now())
    hub, first = api.hub, orjson.dumps({"version": __version__, "now": now})
    hello = event(b"hello", first, hub.id_of(hub.number))
    seen = call.request.headers.get(LAST_EVENT_ID)
    if seen is None:
        return hello, [] if present is None else [Change(hub.number, present.stack_id, present)]
    missed = hub.resumed(seen)
    if missed is None:
        again = [] if present is None else [Change(hub.number, present.stack_id, present)]
        return hello + event(b"reset", b"{}"), again
    # The hello's id is the present one: it may not come before what was missed, or a second cut would lose that.
    return event(b"hello", first), missed


def _pieces(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Frames joined to pieces that a connection takes at a time."""
    waiting: list[bytes] = []
    size = 0
    for one in frames:
        waiting.append(one)
        size += len(one)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _render_of(call: Call) -> Render:
    parameters = Parameters(call.request, ("fields",))
    return _render(finding.fields_of(parameters))


@lru_cache(maxsize=KNOWN_CHOICES)
def _render(fields: tuple[str, ...]) -> Render:
    """One function for each choice of fields, so that those who chose alike share what is rendered."""
    stack_bytes = answers.chooser(fields) if fields else answers.detail_body

    def render(record: Stack | Job) -> bytes:
        return answers.job_body(record) if isinstance(record, Job) else stack_bytes(record)

    return render
