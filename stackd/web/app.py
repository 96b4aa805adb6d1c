"""The server: finds the route of each request, and does the work that every request needs around its handler.

Owns: what happens before and after a handler: one function wraps each handler.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import Any

from aiohttp import HttpVersion11, hdrs, web

from stackd.codes import ErrorCode
from stackd.errors import NotOwner, StillToDo, TooManyRequests
from stackd.keys import ApiKey
from stackd.lifecycle.audit import REFUSALS
from stackd.lifecycle.gate import Gate
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
from stackd.web.api import CALLER, JOB_ID, NO_PARTS, QUIET_METHODS, ROUTES, STACK_ID, Api, ApiCall, Route, admit
from stackd.web.auth import ANONYMOUS, client_network
from stackd.web.connection import HttpConnection
from stackd.web.parameters import NO_PARAMETERS, Parameters
from stackd.web.requests import check_coding
from stackd.web.responses import REQUEST_ID_HEADER, problem, problem_of, set_head

__all__ = ["ROUTES", "server_of"]
PARTS = (activity, events, exposition, listing, openapi, pages, sign_in, stacks, system, templates, values)
"""Their imports fill ``ROUTES``, and that of ``stackd.play``."""

log = logging.getLogger("stackd.request")

Guarded = Callable[[web.BaseRequest, Mapping[str, str]], Coroutine[Any, Any, web.StreamResponse]]
"""Answers a request, whose path has these parts."""

CLIENT_LEFT = 499
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
ID_PREFIX, NUMBERS = secrets.token_hex(4), count(1)
OWNER_SECONDS = 1.0
"""How long a read waits until the owner is known. If that is another stackd, this file is old."""

CODING_HEADERS = frozenset({hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING})
INTENDED = web.RequestKey("intended", bool)
"""The request was not answered with success, and is carried out nevertheless."""


def server_of(api: Api) -> web.Server:
    """The server of one daemon, without its sockets."""
    table = RouteTable((route, _guarded(api, route)) for route in ROUTES)
    elsewhere = _guarded(api, _elsewhere(table))

    def answering(request: web.BaseRequest) -> Coroutine[Any, Any, web.StreamResponse]:
        guarded, parts = table.find(request.method, request.rel_url.path_safe) or (elsewhere, NO_PARTS)
        return _after_others(request, guarded, parts) if _waits(request) else guarded(request, parts)

    return web.Server(answering, handler_cancellation=True)


class RouteTable:
    """What answers the requests, by path and method."""

    def __init__(self, routes: Iterable[tuple[Route, Guarded]]) -> None:
        self.methods: set[str] = set()
        paths: dict[str, dict[str, Guarded]] = {}
        for route, guarded in routes:
            methods = (route.method, hdrs.METH_HEAD) if route.method == hdrs.METH_GET else (route.method,)
            paths.setdefault(route.path, {}).update(dict.fromkeys(methods, guarded))
            self.methods.update(methods)
        self._literal = {path: by_method for path, by_method in paths.items() if "{" not in path}
        self._patterns: dict[int, list[tuple[re.Pattern[str], dict[str, Guarded]]]] = {}
        for path in [path for path in paths if path not in self._literal]:
            pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^{}/]+)", path))
            self._patterns.setdefault(path.count("/"), []).append((pattern, paths[path]))

    def find(self, method: str, path: str) -> tuple[Guarded, Mapping[str, str]] | None:
        """What answers this method at this path (in which %2F is no slash), and the path's parts; None if nothing does. What is
        there without parts is all that is there."""
        if path in self._literal:
            guarded = self._literal[path].get(method)
            return guarded and (guarded, NO_PARTS)
        for pattern, by_method in self._patterns.get(path.count("/"), ()):
            if method in by_method and (match := pattern.fullmatch(path)):
                return by_method[method], {name: _decoded(text) for name, text in match.groupdict().items()}
        return None


def _decoded(part: str) -> str:
    return part.replace("%2F", "/").replace("%25", "%")


def _waits(request: web.BaseRequest) -> bool:
    """A request begins; whether something comes first: other connections, or a client that waits for an answer to its head."""
    connection = request.protocol
    behind = isinstance(connection, HttpConnection) and connection.is_behind(request)
    return behind or hdrs.EXPECT in request.headers


async def _after_others(request: web.BaseRequest, guarded: Guarded, parts: Mapping[str, str]) -> web.StreamResponse:
    """Let other connections come first, tell a client that waits (``Expect: 100-continue``) to send its body, and answer; other
    expectations are ignored."""
    await asyncio.sleep(0)
    if request.version >= HttpVersion11 and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        with suppress(ConnectionError):  # the client has left
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return await guarded(request, parts)


def _request_id(request: web.BaseRequest) -> str:
    """The request's id: the client's own if acceptable, else a prefix and a number."""
    own = request.headers.get(REQUEST_ID_HEADER)
    return own if own is not None and ACCEPTABLE_ID.fullmatch(own) else f"{ID_PREFIX}-{next(NUMBERS):x}"


def _guarded(api: Api, route: Route) -> Guarded:
    handler, public, anywhere, changes = route.handler, route.public, route.standby, route.changes
    early, store, settings = route.early or route.standby, api.context.store, api.context.settings
    ownership, gate, fence = api.context.gate.ownership, api.context.gate, api.context.fence
    parameters_of, takes_no_body = _reader(route), bool(route.tag) and not (route.body or route.media)
    ended = _ended(route, api.context.metrics.route(route.method, route.path), api)

    async def guarded(request: web.BaseRequest, parts: Mapping[str, str]) -> web.StreamResponse:
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
                await _until_owned(gate, changes=changes, early=early)
            if ownership.standby and not anywhere:
                raise NotOwner(ownership.standby)
            if not early and (store.incomplete or (changes and not settings.cluster_templates_known)):
                await gate.stacks_known()
            call = ApiCall(
                api=api,
                request=request,
                parts=parts,
                key=key,
                route=route,
                parameters=parameters_of(request),
                exceeded=exceeded,
            )
            if takes_no_body and request.body_exists:
                await stacks.require_no_body(call)
            answering = handler(call)
            response = await (api.change(answering) if changes else answering)
            if changes and response.status < 400:
                fence.require()  # otherwise another stackd may have taken over, without the change
        except asyncio.CancelledError:
            ended(request, parts, 200 if route.streams else CLIENT_LEFT, started)
            raise
        except Exception as error:  # noqa: BLE001 - the request's root: the table says what it becomes
            request[INTENDED] = isinstance(error, StillToDo)
            response = problem_of(error if public else gate.reported(error), to_player=route.answers_players)
        _finish(request, response, draining=api.draining)
        ended(request, parts, response.status, started)
        if changes and response.status < 400 and not fence.open:
            _abort(request)
        return response

    return guarded


async def _until_owned(gate: Gate, *, changes: bool, early: bool) -> None:
    """Wait until the owner is known. Raises NotOwner or ClusterUnavailable."""
    await gate.owner_known(None if changes else OWNER_SECONDS)
    if changes and not early:
        gate.require_lease()


def _abort(request: web.BaseRequest) -> None:
    """Give no acknowledgement, as if the process had died: it may have been suspended since the fence was checked."""
    if request.transport is not None:
        request.transport.abort()


def _reader(route: Route) -> Callable[[web.BaseRequest], Parameters]:
    """Return the function that reads the query of the route's requests. It raises InvalidRequest."""
    if not route.tag:
        return lambda _: NO_PARAMETERS
    required = any(each.required for each in route.query)

    def read(request: web.BaseRequest) -> Parameters:
        if not (required or request.query_string):
            return NO_PARAMETERS
        return Parameters(request.query.items(), route.query)

    return read


def _finish(request: web.BaseRequest, response: web.StreamResponse, *, draining: bool) -> None:
    """Set the response's head; close the connection after it if stackd stops, or the rest of a refused body is not wanted."""
    set_head(request, response)
    if not draining and (response.status < 400 or request.content.is_eof()):
        return
    response.force_close()
    chunked = response.status >= 400 and hdrs.TRANSFER_ENCODING in request.headers
    if chunked and isinstance(request.protocol, HttpConnection):
        request.protocol.discards = True


def _ended(
    route: Route, meter: RouteMeter, api: Api
) -> Callable[[web.BaseRequest, Mapping[str, str], int, float], None]:
    """Return the function that counts, logs (successful reads at level debug) and audits a request that has ended."""
    keys, audit = api.keys, api.context.audit

    def about(request: web.BaseRequest, parts: Mapping[str, str]) -> dict[str, Any]:
        return {
            "method": request.method,
            "route": route.path,
            "stack_id": request.get(STACK_ID) or parts.get("stack_id"),
            "job_id": request.get(JOB_ID) or parts.get("job_id"),
        }

    def note(request: web.BaseRequest, parts: Mapping[str, str], status: int) -> None:
        client, by = keys.caller(request), request.get(CALLER, ANONYMOUS.principal)
        fields = about(request, parts) | {"template": parts.get("template")}
        audit.request(by=by, status=status, client=client, origin=client_network(client), fields=fields)

    def write(level: int, request: web.BaseRequest, parts: Mapping[str, str], status: int, seconds: float) -> None:
        path, client, key = route.path, keys.caller(request), request.get(CALLER, ANONYMOUS.principal).name
        fields = about(request, parts) | {"status": status, "key_name": key, "client": client}
        fields["duration_ms"] = round(seconds * 1000, 3)
        fields["same"] = (request.method, path, status) if status >= 400 else None
        text, milliseconds = "%s %s %d %.1f ms key=%s from=%s", seconds * 1000
        log.log(level, text, request.method, path, status, milliseconds, key, client, extra=fields)

    def ended(request: web.BaseRequest, parts: Mapping[str, str], status: int, started: float) -> None:
        seconds = perf_counter() - started
        meter.record(status, seconds)
        is_change = status < 400 or request.get(INTENDED) or (status == CLIENT_LEFT and CALLER in request)
        if status in REFUSALS or (is_change and not (request.method in QUIET_METHODS or route.asks)):
            asyncio.get_running_loop().call_soon(note, request, parts, status)
        level = logging.DEBUG if status < 400 and request.method in QUIET_METHODS else logging.INFO
        if log.isEnabledFor(level):
            # In the event loop's next turn: in a burst, no client waits for the log lines of the others.
            asyncio.get_running_loop().call_soon(write, level, request, parts, status, seconds)

    return ended


def _elsewhere(table: RouteTable) -> Route:
    """Return the route for every path and method that the table does not have: 405 with ``Allow``, or 404."""

    async def elsewhere(call: ApiCall) -> web.Response:
        path = call.request.rel_url.path_safe
        # "*" means the whole server; a host means another one
        allowed = sorted(each for each in table.methods if not path.startswith("/") or table.find(each, path))
        if not allowed:
            return problem(ErrorCode.NOT_FOUND, f"no such route: {path}")
        names = ", ".join(allowed)
        sentence = f"{call.request.method} is not allowed here; allowed: {names}"
        return problem(ErrorCode.METHOD_NOT_ALLOWED, sentence, {hdrs.ALLOW: names})

    return Route(method="*", path="(elsewhere)", handler=elsewhere, early=True)
