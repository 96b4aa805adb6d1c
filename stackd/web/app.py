"""The aiohttp application: the route table, with everything that holds for every request put around each handler.

Owns: what happens before and after a handler. Around each handler stands one function and no middleware, so that a read
costs little more than aiohttp itself.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from time import perf_counter

from aiohttp import hdrs, web

from stackd.web.api import Api, Call, Route
from stackd.web.auth import ANONYMOUS, permit
from stackd.web.problems import problem, problem_of
from stackd.web.routes import ROUTES

log = logging.getLogger("stackd.request")

AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CLIENT_LEFT = 499
QUIET_METHODS = frozenset({"GET", "HEAD"})


def application(api: Api) -> web.Application:
    """The application for one daemon."""
    app = web.Application(client_max_size=api.room.config.server.max_body)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _guarded(api, route))
        if route.method == hdrs.METH_GET:
            app.router.add_route(hdrs.METH_HEAD, route.path, _guarded(api, route))
    app.router.add_route("*", "/{anything:.*}", _guarded(api, _elsewhere(ROUTES)))
    return app


def _guarded(api: Api, route: Route) -> AiohttpHandler:
    handler, public = route.handler, route.public
    keys, limits, room = api.keys, api.limits, api.room

    async def guarded(request: web.Request) -> web.StreamResponse:
        started = perf_counter()
        key = ANONYMOUS
        try:
            if not public:
                key = keys.identify(request)
                limits.request(key.name)
                permit(key, request.method)
            response = await handler(Call(api=api, request=request, key=key))
        except asyncio.CancelledError:
            _log(request, route, CLIENT_LEFT, key.name, started)
            raise
        except Exception as error:
            response = problem_of(error)
        if room.closing:
            response.force_close()
        _log(request, route, response.status, key.name, started)
        return response

    return guarded


def _log(request: web.Request, route: Route, status: int, key: str, started: float) -> None:
    """One line for what changes something or fails; plain reads are said at level debug only."""
    level = logging.DEBUG if status < 400 and request.method in QUIET_METHODS else logging.INFO
    if not log.isEnabledFor(level):
        return
    milliseconds = (perf_counter() - started) * 1000
    log.log(
        level,
        "%s %s %d %.1f ms key=%s from=%s",
        request.method, route.path, status, milliseconds, key, request.remote,
        extra={"stack_id": request.match_info.get("stack_id", ""), "job_id": request.match_info.get("job_id", "")},
    )  # fmt: skip


def _elsewhere(routes: tuple[Route, ...]) -> Route:
    """What answers every path and method that the table does not have: 405 with ``Allow``, or 404."""
    patterns = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path)), route.method) for route in routes]

    async def elsewhere(call: Call) -> web.Response:
        path = call.request.path
        allowed = sorted({method for pattern, method in patterns if pattern.fullmatch(path)})
        if not allowed:
            return problem(404, f"no such route: {path}")
        if hdrs.METH_GET in allowed:
            allowed.insert(allowed.index(hdrs.METH_GET) + 1, hdrs.METH_HEAD)
        sentence = f"{call.request.method} is not allowed here; allowed: {', '.join(allowed)}"
        return problem(405, sentence, {hdrs.ALLOW: ", ".join(allowed)})

    return Route(method="*", path="(elsewhere)", handler=elsewhere)
