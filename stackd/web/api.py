"""What the handlers are given, and the type of a handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from stackd.jobs.queue import BatchQueue
from stackd.keys import ApiKey
from stackd.lifecycle.reconcile import Reconciler
from stackd.lifecycle.replay import Replays
from stackd.lifecycle.room import Room
from stackd.web.answers import Answers
from stackd.web.auth import Keys
from stackd.web.hub import Hub
from stackd.web.limits import Limits

STACK_ID = web.RequestKey("stack_id", str)
"""The stack that a request made, for the request log."""

JOB_ID = web.RequestKey("job_id", str)


@dataclass(slots=True, kw_only=True)
class Api:
    """One daemon's door; while ``draining``, each answer ends its connection."""

    room: Room
    keys: Keys
    limits: Limits
    answers: Answers
    batch: BatchQueue
    replays: Replays
    reconciler: Reconciler
    hub: Hub
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request and whose it is."""

    api: Api
    request: web.Request
    key: ApiKey


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the route table; ``public`` routes hold no data and need no key.

    A route that ``streams`` ends when its client leaves, which is no failure.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    streams: bool = False


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Ready-made JSON as an answer."""
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")
