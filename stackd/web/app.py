"""The aiohttp application: the route table, with everything that holds for every request put around each handler.

Owns: what happens before and after a handler. Around each handler stands one function and no middleware, so that a read
costs little more than aiohttp itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from itertools import count
from time import perf_counter

from aiohttp import hdrs, web
from multidict import istr

from stackd.logs import REQUEST_ID
from stackd.metrics import RouteMeter
from stackd.web.api import JOB_ID, STACK_ID, Api, Call, Route
from stackd.web.auth import ANONYMOUS, permit
from stackd.web.connection import Connection
from stackd.web.problems import problem, problem_of
from stackd.web.ready import SERVER_NAME
from stackd.web.routes import ROUTES

log = logging.getLogger("stackd.request")

AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT_LEFT = 499
QUIET_METHODS = frozenset({"GET", "HEAD"})
REQUEST_ID_HEADER = istr("X-Request-ID")
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def application(api: Api) -> web.Application:
    """The application for one daemon."""
    app = web.Application(client_max_size=api.room.config.server.max_body)
    app.on_response_prepare.append(_name_request)
    for route in ROUTES:
        _add(app, route.method, route.path, _guarded(api, route))
        if route.method == hdrs.METH_GET:
            _add(app, hdrs.METH_HEAD, route.path, _guarded(api, route))
    _add(app, "*", "/{anything:.*}", _guarded(api, _elsewhere(ROUTES)))
    return app


def _add(app: web.Application, method: str, path: str, handler: AiohttpHandler) -> None:
    app.router.add_route(method, path, handler, expect_handler=_expect_later)


async def _expect_later(request: web.Request) -> None:
    """``Expect: 100-continue`` is answered by who reads the body, so that nobody sends one before the key is seen."""


def _request_ids() -> Callable[[web.Request], str]:
    """What gives each request its id: the client's own where it is acceptable, else a random start and a number."""
    start, number = secrets.token_hex(4), count(1)

    def request_id(request: web.Request) -> str:
        given = request.headers.get(REQUEST_ID_HEADER)
        if given is not None and ACCEPTABLE_ID.fullmatch(given):
            return given
        return f"{start}-{next(number):x}"

    return request_id


async def _name_request(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the client its request's id, and no versions (a signal of aiohttp's: also for answers that are streamed)."""
    response.headers[REQUEST_ID_HEADER] = REQUEST_ID.get()
    response.headers[hdrs.SERVER] = SERVER_NAME


def _guarded(api: Api, route: Route) -> AiohttpHandler:
    handler, public = route.handler, route.public
    keys, limits, room = api.keys, api.limits, api.room
    request_id, meter = _request_ids(), room.metrics.route(route.method, route.path)

    async def guarded(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        REQUEST_ID.set(request_id(request))
        key = ANONYMOUS
        try:
            if not public:
                key = keys.identify(request)
                client = request.protocol
                if isinstance(client, Connection) and client.stranger:
                    client.vouch()
                limits.request(key.name)
                permit(key, request.method)
            response = await handler(Call(api=api, request=request, key=key))
        except asyncio.CancelledError:
            _ended(request, route, meter, 200 if route.streams else CLIENT_LEFT, key.name, started)
            raise
        except Exception as error:  # noqa: BLE001 - the request's root: the table says what it becomes
            response = problem_of(error)
        if api.draining or (response.status >= 400 and not request.content.is_eof()):
            response.force_close()
        _ended(request, route, meter, response.status, key.name, started)
        return response

    return guarded


def _ended(request: web.Request, route: Route, meter: RouteMeter, status: int, key: str, started: float) -> None:
    """Count the request; one line for what changes something or fails, plain reads are said at level debug only."""
    seconds = perf_counter() - started
    meter.record(status, seconds)
    level = logging.DEBUG if status < 400 and request.method in QUIET_METHODS else logging.INFO
    if not log.isEnabledFor(level):
        return
    failed = status >= 400
    log.log(
        level,
        "%s %s %d %.1f ms key=%s from=%s",
        request.method, route.path, status, seconds * 1000, key, request.remote,
        extra={
            "method": request.method,
            "route": route.path,
            "status": status,
            "duration_ms": round(seconds * 1000, 3),
            "key_name": key,
            "client": request.remote,
            "stack_id": request.get(STACK_ID) or request.match_info.get("stack_id"),
            "job_id": request.get(JOB_ID) or request.match_info.get("job_id"),
            "same": (request.method, route.path, status) if failed else None,
        },
    )  # fmt: skip


def _elsewhere(routes: tuple[Route, ...]) -> Route:
    """What answers every path and method that the table does not have: 405 with ``Allow``, or 404."""
    patterns = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path)), route.method) for route in routes]
    literal: dict[str, set[str]] = {}
    for route in routes:
        literal.setdefault(route.path, set()).add(route.method)

    async def elsewhere(call: Call) -> web.Response:
        path = call.request.path
        allowed = sorted(literal.get(path) or {method for pattern, method in patterns if pattern.fullmatch(path)})
        if not allowed:
            return problem(404, f"no such route: {path}")
        if hdrs.METH_GET in allowed:
            allowed.insert(allowed.index(hdrs.METH_GET) + 1, hdrs.METH_HEAD)
        sentence = f"{call.request.method} is not allowed here; allowed: {', '.join(allowed)}"
        return problem(405, sentence, {hdrs.ALLOW: ", ".join(allowed)})

    return Route(method="*", path="(elsewhere)", handler=elsewhere)
