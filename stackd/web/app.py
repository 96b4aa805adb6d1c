"""The aiohttp application: the routes, with the work that every request needs around each handler.

Owns: what happens before and after a handler: one function wraps each handler.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware

from stackd.codes import ErrorCode
from stackd.errors import NotOwner, StillToDo, TooManyRequests
from stackd.keys import ApiKey
from stackd.kube.guards import Fence
from stackd.lifecycle.audit import REFUSALS
from stackd.logs import REQUEST_ID
from stackd.metrics import RouteMeter
from stackd.web import (
    activity,
    events,
    exposition,
    listing,
    openapi,
    pages,
    sign_in,
    stacks,
    system,
    templates,
    values,
)
from stackd.web.api import CALLER, JOB_ID, QUIET_METHODS, ROUTES, STACK_ID, Api, ApiCall, Route, admit
from stackd.web.auth import ANONYMOUS, client_network
from stackd.web.connection import HttpConnection
from stackd.web.parameters import NO_PARAMETERS, Parameters
from stackd.web.requests import check_coding
from stackd.web.responses import NOT_KEPT, SERVER_NAME, is_last, problem, problem_of

__all__ = ["ROUTES", "application"]
PARTS = (activity, events, exposition, listing, openapi, pages, sign_in, stacks, system, templates, values)
"""Their imports fill ``ROUTES``, and that of ``stackd.play``."""

log = logging.getLogger("stackd.request")

AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT_LEFT = 499
REQUEST_ID_HEADER = "X-Request-ID"
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
ID_PREFIX, NUMBERS = secrets.token_hex(4), count(1)
OWNER_SECONDS = 1.0
"""How long a read waits until the owner is known. If that is another stackd, this file is old."""

CODING_HEADERS = frozenset({hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING})
ACKNOWLEDGES = web.RequestKey("acknowledges", bool)
"""The response acknowledges a change."""

INTENDED = web.RequestKey("intended", bool)
"""The request was not answered with success, and is carried out nevertheless."""

ANY_PATH = r"/{anything:[\s\S]*}"


def application(api: Api) -> web.Application:
    """The application for one daemon."""
    app = web.Application(client_max_size=api.context.config.server.max_body, middlewares=[_first(api)])
    app.on_response_prepare.append(_before_head(api.context.fence))
    for route in ROUTES:
        handler = _guarded(api, route)
        for method in {route.method, *((hdrs.METH_HEAD,) if route.method == hdrs.METH_GET else ())}:
            app.router.add_route(method, route.path, handler, expect_handler=_continue)
    app.router.add_route("*", ANY_PATH, _guarded(api, _elsewhere(ROUTES)), expect_handler=_continue)
    return app


def _first(api: Api) -> Middleware:
    """Return what each request passes first, also one without any route in aiohttp, whose target is no path (``*``, a host)."""
    unrouted = _guarded(api, _elsewhere(ROUTES))

    @web.middleware
    async def first(request: web.Request, handler: AiohttpHandler) -> web.StreamResponse:
        if isinstance(connection := request.protocol, HttpConnection):
            await connection.begin(request)
        try:
            return await handler(request)
        except web.HTTPException:  # it is the router's: the routes' own handlers let none through
            return await unrouted(request)

    return first


async def _continue(request: web.Request) -> None:
    """Tell a client that waits (``Expect: 100-continue``) to send its body; other expectations are ignored."""
    if request.version >= HttpVersion11 and request.headers[hdrs.EXPECT].lower() == "100-continue":
        with suppress(ConnectionError):  # the client has left
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def _request_id(request: web.Request) -> str:
    """The request's id: the client's own if acceptable, else a prefix and a number."""
    own = request.headers.get(REQUEST_ID_HEADER)
    return own if own is not None and ACCEPTABLE_ID.fullmatch(own) else f"{ID_PREFIX}-{next(NUMBERS):x}"


def _before_head(fence: Fence) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return a signal of aiohttp, which runs for streamed responses, too. The process may have been suspended since the fence
    was checked: if that is closed by now, the client gets no acknowledgement, as if the process had died."""

    async def before_head(request: web.Request, response: web.StreamResponse) -> None:
        if is_last(request):
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"
        response.headers[REQUEST_ID_HEADER] = REQUEST_ID.get()
        response.headers[hdrs.SERVER] = SERVER_NAME
        response.headers.setdefault(hdrs.CACHE_CONTROL, NOT_KEPT)
        if ACKNOWLEDGES in request and not fence.open and request.transport is not None:
            request.transport.abort()

    return before_head


def _guarded(api: Api, route: Route) -> AiohttpHandler:
    handler, public, anywhere, changes = route.handler, route.public, route.standby, route.changes
    early, store, settings = route.early or route.standby, api.context.store, api.context.settings
    ownership, gate, fence = api.context.gate.ownership, api.context.gate, api.context.fence
    parameters_of, takes_no_body = _reader(route), bool(route.tag) and not (route.body or route.media)
    ended = _ended(route, api.context.metrics.route(route.method, route.path), api)

    async def guarded(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        REQUEST_ID.set(_request_id(request))
        key: ApiKey = ANONYMOUS
        exceeded: TooManyRequests | None = None
        try:
            if not public:
                key, exceeded = admit(api, request, route)
            if not CODING_HEADERS.isdisjoint(request.headers):
                check_coding(request)
            if fence.now() >= fence.valid_until and (changes or not early):  # as ``fence.open``, which takes longer
                await gate.owner_known(None if changes else OWNER_SECONDS)
                if changes and not early:
                    gate.require_lease()
            if ownership.standby and not anywhere:
                raise NotOwner(ownership.standby)
            if not early and (store.incomplete or (changes and not settings.cluster_templates_known)):
                await gate.stacks_known()
            call = ApiCall(
                api=api, request=request, key=key, route=route, parameters=parameters_of(request), exceeded=exceeded
            )
            if takes_no_body and request.body_exists:
                await stacks.require_no_body(call)
            answering = handler(call)
            response = await (api.change(answering) if changes else answering)
            if changes and response.status < 400:
                fence.require()  # otherwise another stackd may have taken over, without the change
                request[ACKNOWLEDGES] = True
        except asyncio.CancelledError:
            ended(request, 200 if route.streams else CLIENT_LEFT, started)
            raise
        except Exception as error:  # noqa: BLE001 - the request's root: the table says what it becomes
            request[INTENDED] = isinstance(error, StillToDo)
            response = problem_of(error if public else gate.reported(error), to_player=route.answers_players)
        _close_if_due(request, response, draining=api.draining)
        ended(request, response.status, started)
        return response

    return guarded


def _reader(route: Route) -> Callable[[web.Request], Parameters]:
    """Return the function that reads the query of the route's requests. It raises InvalidRequest."""
    if not route.tag:
        return lambda _: NO_PARAMETERS
    required = any(each.required for each in route.query)

    def read(request: web.Request) -> Parameters:
        if not (required or request.query_string):
            return NO_PARAMETERS
        return Parameters(request.query.items(), route.query)

    return read


def _close_if_due(request: web.Request, response: web.StreamResponse, *, draining: bool) -> None:
    """Close the connection after this response if stackd stops, or the rest of a refused body is not wanted."""
    if not draining and (response.status < 400 or request.content.is_eof()):
        return
    response.force_close()
    chunked = response.status >= 400 and hdrs.TRANSFER_ENCODING in request.headers
    if chunked and isinstance(request.protocol, HttpConnection):
        request.protocol.discards = True


def _ended(route: Route, meter: RouteMeter, api: Api) -> Callable[[web.Request, int, float], None]:
    """Return the function that counts, logs (successful reads at level debug) and audits a request that has ended."""
    keys, audit = api.keys, api.context.audit

    def about(request: web.Request) -> dict[str, Any]:
        return {
            "method": request.method,
            "route": route.path,
            "stack_id": request.get(STACK_ID) or request.match_info.get("stack_id"),
            "job_id": request.get(JOB_ID) or request.match_info.get("job_id"),
        }

    def note(request: web.Request, status: int) -> None:
        client, by = keys.caller(request), request.get(CALLER, ANONYMOUS.principal)
        fields = about(request) | {"template": request.match_info.get("template")}
        audit.request(by=by, status=status, client=client, origin=client_network(client), fields=fields)

    def write(level: int, request: web.Request, status: int, seconds: float) -> None:
        path, client, key = route.path, keys.caller(request), request.get(CALLER, ANONYMOUS.principal).name
        fields = about(request) | {"status": status, "key_name": key, "client": client}
        fields["duration_ms"] = round(seconds * 1000, 3)
        fields["same"] = (request.method, path, status) if status >= 400 else None
        text, milliseconds = "%s %s %d %.1f ms key=%s from=%s", seconds * 1000
        log.log(level, text, request.method, path, status, milliseconds, key, client, extra=fields)

    def ended(request: web.Request, status: int, started: float) -> None:
        seconds = perf_counter() - started
        meter.record(status, seconds)
        is_change = status < 400 or request.get(INTENDED) or (status == CLIENT_LEFT and CALLER in request)
        if status in REFUSALS or (is_change and not (request.method in QUIET_METHODS or route.asks)):
            asyncio.get_running_loop().call_soon(note, request, status)
        level = logging.DEBUG if status < 400 and request.method in QUIET_METHODS else logging.INFO
        if log.isEnabledFor(level):
            # In the event loop's next turn: in a burst, no client waits for the log lines of the others.
            asyncio.get_running_loop().call_soon(write, level, request, status, seconds)

    return ended


def _elsewhere(routes: Sequence[Route]) -> Route:
    """Return the route for every path and method that the table does not have: 405 with ``Allow``, or 404."""
    patterns = [(re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route.path))), route.method) for route in routes]
    literal: dict[str, set[str]] = {}
    for route in routes:
        literal.setdefault(route.path, set()).add(route.method)

    async def elsewhere(call: ApiCall) -> web.Response:
        path = call.request.rel_url.path_safe  # as aiohttp's routes see it: %2F is no slash
        allowed = sorted(literal.get(path) or {method for pattern, method in patterns if pattern.fullmatch(path)})
        if not path.startswith("/"):  # "*" means the whole server; a host means another one
            allowed = sorted({route.method for route in routes})
        if not allowed:
            return problem(ErrorCode.NOT_FOUND, f"no such route: {path}")
        if hdrs.METH_GET in allowed:
            allowed.insert(allowed.index(hdrs.METH_GET) + 1, hdrs.METH_HEAD)
        sentence = f"{call.request.method} is not allowed here; allowed: {', '.join(allowed)}"
        return problem(ErrorCode.METHOD_NOT_ALLOWED, sentence, {hdrs.ALLOW: ", ".join(allowed)})

    return Route(method="*", path="(elsewhere)", handler=elsewhere, early=True)
