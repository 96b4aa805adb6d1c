"""The types that handlers work with: the route table, a request with its key, and what that key may see.

Owns: that others' stacks and jobs are to a tenant what unknown ones are. ``keys.ApiKey`` decides what a key may see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from aiohttp import web

from stackd.codes import ErrorCode
from stackd.config import Config
from stackd.contract import Body
from stackd.errors import (
    InvalidRequest,
    JobNotFound,
    PermissionDenied,
    Reason,
    ShuttingDown,
    StackNotFound,
    TooManyRequests,
)
from stackd.jobs.batch import BatchQueue
from stackd.keys import ApiKey
from stackd.lifecycle.context import Context
from stackd.lifecycle.gate import SHUTTING_DOWN
from stackd.lifecycle.passes import Reconciler
from stackd.lifecycle.prepull import PrePulls
from stackd.model import Job, Principal, Stack, struct
from stackd.store import CreateLimits
from stackd.templates import Template
from stackd.web.auth import Keys, permit
from stackd.web.bodies import BodyCache
from stackd.web.change_feed import ChangeFeed
from stackd.web.connection import HttpConnection
from stackd.web.idempotency import Replays
from stackd.web.limits import Limits
from stackd.web.parameters import Parameter, Parameters
from stackd.web.responses import File

STACK_ID = web.RequestKey("stack_id", str)
"""The stack that a request created, for the request log."""

JOB_ID = web.RequestKey("job_id", str)

CALLER = web.RequestKey("caller", Principal)
"""Who has sent the request with a valid key, also if it is refused."""

POLL_SECONDS = 0.02
QUIET_METHODS = frozenset({"GET", "HEAD"})

IDEMPOTENCY_KEY = "Idempotency-Key"
NO_PARTS: Mapping[str, str] = MappingProxyType({})

NOT_SEEN = "unknown:"
"""Before an id in a job: no stack has such an id, so the job counts it as not found."""


class Players(Protocol):
    """Who players are, as ``stackd.play`` knows it; and the ``messages`` to them."""

    messages: Any

    def admit(self, request: web.BaseRequest) -> ApiKey:
        """The player of the request. Raises Unauthenticated, PermissionDenied or TooManyRequests."""

    def in_force(self, key: ApiKey) -> bool:
        """Whether the key, once accepted, would be accepted now."""


@dataclass(slots=True, kw_only=True)
class Api:
    """What the handlers of one daemon share. While ``draining``, each response closes its connection; while ``leaving``,
    no change begins. ``changing``: how many are under way.

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
    players: Players
    draining: bool = False
    leaving: bool = False
    changing: int = 0
    described: tuple[Config, File] | None = None

    async def change(self, answering: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
        """The response to a change, which counts as under way meanwhile. Raises ShuttingDown while ``leaving``."""
        if self.leaving:
            answering.close()
            raise ShuttingDown(SHUTTING_DOWN)
        self.changing += 1
        try:
            return await answering
        finally:
            self.changing -= 1

    async def leave(self, seconds: float) -> None:
        """Let no change begin from here on; return when none is under way, or after ``seconds``."""
        self.leaving, end = True, self.context.clock.monotonic() + seconds
        while self.changing and self.context.clock.monotonic() < end:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(POLL_SECONDS)  # the last answer is sent by the end of this, too


@struct
class ApiCall:
    """One request and the API key that it carries.

    ``parts`` are those that the path names, ``parameters`` is the query. ``exceeded`` is set if the key has exceeded its rate
    limit, but the request may have an earlier answer (``Route.replays``).
    """

    api: Api
    request: web.BaseRequest
    parts: Mapping[str, str]
    key: ApiKey
    route: Route
    parameters: Parameters
    exceeded: TooManyRequests | None = None

    @property
    def view(self) -> View:
        """What the key may see."""
        return View(context=self.api.context, key=self.key)

    @property
    def stack_id(self) -> str:
        return self.parts["stack_id"]

    @property
    def stack(self) -> Stack:
        """The stack that the path names. Raises StackNotFound."""
        return self.view.stack(self.stack_id)

    @property
    def changeable(self) -> Stack:
        """The stack that the path names. Raises StackNotFound; PermissionDenied if the key may not change it."""
        return self.view.changeable(self.stack)

    def within_limits(self) -> None:
        """Raise TooManyRequests if the key has exceeded its rate limit. Handlers call it if there is no earlier answer."""
        if self.exceeded is not None:
            raise self.exceeded


Handler = Callable[[ApiCall], Coroutine[Any, Any, web.StreamResponse]]
Shape = type[Body] | str | tuple[type[Body] | str, ...]
"""A body of ``contract``, the name of a schema, or several of which an answer has one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The description of an answer without an error; ``job`` is the operation that reads the job which it names."""

    about: str
    body: Shape | None = None
    status: int = 200
    media: str = "application/json"
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One line of the route table. The handler's name and docstring are the id and the description of the operation.

    ``query`` and ``body`` are all that it takes; a route without ``body`` takes none, or an empty object, unless it takes a
    text of the type ``media``. ``body_optional``: it may be missing. Pages for browsers
    have no ``tag``: they are not described, and ignore both. ``public``: it holds no data and needs no key.
    ``versioned``: its answers have an ``ETag``, and what changes something takes ``If-Match``.
    ``streams``: it ends when its client leaves, which is no failure. ``replays``: it repeats the first answer for a
    request with the same Idempotency-Key. ``standby``: a stackd that does not own the stacks serves it, too. ``asks``:
    it changes nothing although its method is not GET. ``players``: it belongs to a player's page, and takes that page's cookie
    instead of a key. ``early``: it is served even while the file may lack stacks that
    the cluster has. ``errors`` adds to those that every route of its kind can answer.
    """

    method: str
    path: str
    handler: Handler
    tag: str = ""
    id: str = ""
    answers: tuple[Answer, ...] = ()
    query: Sequence[Parameter[Any]] = ()
    body: type[Body] | None = None
    media: str = ""
    body_optional: bool = False
    errors: tuple[int, ...] = ()
    public: bool = False
    streams: bool = False
    replays: bool = False
    versioned: bool = False
    standby: bool = False
    asks: bool = False
    early: bool = False
    players: bool = False

    @property
    def changes(self) -> bool:
        """Whether an answer acknowledges a change. Only the owner of the stacks may do that."""
        return self.method not in QUIET_METHODS and not (self.standby or self.asks)

    @property
    def answers_players(self) -> bool:
        """Whether a player's page calls it, so that its errors are sentences for players."""
        return self.players or (self.public and self.path.startswith("/play/"))


ROUTES: list[Route] = []
"""Filled by ``route``; complete once ``stackd.web.app`` and ``stackd.play`` are imported."""


def route(method: str, path: str, tag: str = "", *answers: Answer, **options: Any) -> Callable[[Handler], Handler]:
    """Add a handler to the route table; ``options`` are the other fields of ``Route``."""

    def register(handler: Handler) -> Handler:
        first, *others = handler.__name__.split("_")
        name = first + "".join(map(str.capitalize, others)) if tag else ""
        ROUTES.append(Route(method=method, path=path, handler=handler, tag=tag, id=name, answers=answers, **options))
        return handler

    return register


def admit(api: Api, request: web.BaseRequest, route: Route) -> tuple[ApiKey, TooManyRequests | None]:
    """Return the request's key, and the exceeded rate limit if the Idempotency-Key may already have an answer.

    Raises Unauthenticated, PermissionDenied or TooManyRequests; the last two also name the key for the log.
    """
    if route.players:
        player = api.players.admit(request)
        request[CALLER] = player.principal
        return player, None
    key = api.keys.identify(request)
    caller = request[CALLER] = key.principal
    connection = request.protocol
    if isinstance(connection, HttpConnection) and connection.caller != caller.id:
        connection.connections.authenticated(connection, caller.id)
    exceeded = None
    try:
        api.limits.request(caller.id)
    except TooManyRequests as error:
        if not route.replays or IDEMPOTENCY_KEY not in request.headers:
            raise
        exceeded = error
    permit(key, "GET" if route.asks else request.method, route.path)
    return key, exceeded


@struct
class View:
    """What one key may see of the stacks, jobs and templates: handlers read them through its view only."""

    context: Context
    key: ApiKey

    def get(self, stack_id: str) -> Stack | None:
        stack = self.context.store.assigned.get(stack_id)
        hidden = stack is not None and self.key.labels and not self.key.may_read(stack)
        return None if hidden else stack

    def stack(self, stack_id: str) -> Stack:
        """The stack. Raises StackNotFound."""
        stack = self.get(stack_id)
        if stack is None:
            raise StackNotFound(stack_id)
        return stack

    def limits(self, template: str | None) -> CreateLimits:
        """What counts for a restart of an ended stack of this template, beside the configured limits."""
        return CreateLimits(among=self.key.among, others=self.key.others, quotas=self.key.quotas(template))

    def changeable(self, stack: Stack) -> Stack:
        """The stack. Raises PermissionDenied if the key may see it, and not change it."""
        if self.key.tenant and stack.shared:
            sentence = f"{stack.stack_id} is shared by everybody: stackd keeps it, and the organisers may change it"
            raise PermissionDenied(sentence, code=ErrorCode.SHARED_STACK)
        return stack

    def stacks(self) -> tuple[Stack, ...]:
        """All stacks by ``created_at``, then id."""
        stacks = self.context.store.assigned.ordered()
        return tuple(one for one in stacks if self.key.may_read(one)) if self.key.tenant else stacks

    def job(self, job_id: str) -> Job:
        """The batch job. Raises JobNotFound."""
        job = self.context.store.jobs.get(job_id)
        if job is None or not self.key.may_see_job(job):
            raise JobNotFound(job_id)
        return job

    async def require_history(self, stack_id: str) -> None:
        """Raise StackNotFound if what is kept of this stack, which may be deleted, is not the key's to see."""
        if not self.key.tenant or self.get(stack_id) is not None:
            return
        store = self.context.store
        events = await store.timeline.read(stack_id)
        if stack_id in store.stacks or not self.key.may_see_history(events):
            raise StackNotFound(stack_id)

    def of_job(self, ids: Iterable[str]) -> list[str]:
        """The ids for a batch job, which counts those that the key may not see as not found. Raises PermissionDenied for
        one that it may not change."""
        if not self.key.tenant:
            return list(ids)
        return [NOT_SEEN + one if (stack := self.get(one)) is None else self.changeable(stack).stack_id for one in ids]

    def templates(self) -> Mapping[str, Template]:
        """The templates that the key may use, by name."""
        templates = self.context.settings.templates
        if not self.key.tenant:
            return templates
        return {name: one for name, one in templates.items() if self.key.may_use(name)}

    def template(self, name: str) -> Template | None:
        return self.context.settings.templates.get(name) if self.key.may_use(name) else None

    def labels_of_create(self, requested: Mapping[str, str], of_template: Mapping[str, str]) -> dict[str, str]:
        """The labels of a new stack: the key's, then those of the request, then those of the template.

        Raises InvalidRequest if the request gives one of the key's labels another value, or spells it otherwise.
        """
        own = self.key.labels
        names = {name.lower() for name in own}
        for name, value in requested.items():
            if name.lower() in names and own.get(name) != value:
                right = ", ".join(f"{key}={text}" for key, text in own.items())
                sentence = f"labels.{name}: this API key gives its stacks {right}; leave it out, or send the same"
                raise InvalidRequest(f"invalid request body: {sentence}", [Reason(path="labels", text=sentence)])
        others = {name: value for name, value in of_template.items() if name.lower() not in names}
        return {**others, **requested, **own}
