"""The types that handlers work with, and the checks that a request passes before its handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from stackd.config import Config
from stackd.errors import TooManyRequests
from stackd.jobs.batch import BatchQueue
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.lifecycle.idempotency import Replays
from stackd.lifecycle.prepull import PrePulls
from stackd.lifecycle.reconcile import Reconciler
from stackd.structs import struct
from stackd.web.auth import Keys, permit
from stackd.web.bodies import BodyCache
from stackd.web.change_feed import ChangeFeed
from stackd.web.connection import HttpConnection
from stackd.web.limits import Limits
from stackd.web.schema import Operation
from stackd.web.view import View

if TYPE_CHECKING:
    from stackd.web.pages import File

STACK_ID = web.RequestKey("stack_id", str)
"""The stack that a request created, for the request log."""

JOB_ID = web.RequestKey("job_id", str)

QUIET_METHODS = frozenset({"GET", "HEAD"})

IDEMPOTENCY_KEY = "Idempotency-Key"


@dataclass(slots=True, kw_only=True)
class Api:
    """What the handlers of one daemon share. While ``draining``, each response closes its connection.

    ``described`` is the API's description, rendered for that configuration.
    """

    context: Context
    keys: Keys
    limits: Limits
    bodies: BodyCache
    batch: BatchQueue
    replays: Replays
    reconciler: Reconciler
    feed: ChangeFeed
    prepulls: PrePulls
    draining: bool = False
    described: tuple[Config, File] | None = None


@struct
class ApiCall:
    """One request and the API key that it carries.

    ``over`` is set if the key is over its rate limit, but the request may have an earlier answer (``Route.replays``).
    """

    api: Api
    request: web.Request
    key: ApiKey
    over: TooManyRequests | None = None

    @property
    def view(self) -> View:
        """What the key may see."""
        return View(context=self.api.context, key=self.key)

    def within_limits(self) -> None:
        """Raise TooManyRequests if the key is over its rate limit. Handlers call it if there is no earlier answer."""
        if self.over is not None:
            raise self.over


Handler = Callable[[ApiCall], Awaitable[web.StreamResponse]]


@struct
class Route:
    """One line of the route table.

    ``public``: it holds no data and needs no key. ``streams``: it ends when its client leaves, which is no failure.
    ``replays``: it repeats the first answer for a request with the same Idempotency-Key. ``standby``: a stackd that
    does not own the stacks serves it, too. ``asks``: it changes nothing although its method is not GET. ``early``: it
    is served even while the file may lack stacks that the cluster has. ``doc`` describes it, unless it is a page.
    """

    method: str
    path: str
    handler: Handler
    public: bool = False
    streams: bool = False
    replays: bool = False
    standby: bool = False
    asks: bool = False
    early: bool = False
    doc: Operation | None = None

    @property
    def changes(self) -> bool:
        """Whether an answer acknowledges a change. Only the owner of the stacks may do that."""
        return self.method not in QUIET_METHODS and not (self.standby or self.asks)


def admit(
    api: Api, request: web.Request, path: str, *, replays: bool = False, asks: bool = False
) -> tuple[ApiKey, TooManyRequests | None]:
    """Return the request's key, and the exceeded rate limit if the Idempotency-Key may already have an answer.

    ``path``, ``replays`` and ``asks`` are the route's.
    Raises Unauthenticated, PermissionDenied or TooManyRequests.
    """
    key = api.keys.identify(request)
    connection = request.protocol
    if isinstance(connection, HttpConnection) and connection.key_name != key.name:
        connection.authenticate(key.name)
    over = None
    try:
        api.limits.request(key.name)
    except TooManyRequests as error:
        if not replays or IDEMPOTENCY_KEY not in request.headers:
            raise
        over = error
    permit(key, "GET" if asks else request.method, path)
    return key, over
