"""The HTTP server: receives requests, sends JSON or watch streams, and applies the faults. Does not know kinds.

The cluster identifies users, and answers; its functions raise StatusError.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from aiohttp import web

from stackd.embedded.api import Watch
from stackd.embedded.auth import User
from stackd.embedded.faults import Answer, Counts, Fault, admitted, instead, spoiled, spoils
from stackd.embedded.request import RequestInfo
from stackd.embedded.resources import JSON, StatusError, injected

if TYPE_CHECKING:
    from stackd.embedded.cluster import EmbeddedCluster

_MAX_BODY = 3 * 1024 * 1024
_JSON = {"Content-Type": JSON}
_SHORTEST_WATCH, _LONGEST_WATCH = 1800, 3600
_TRICKLES = 40
"""About how many pieces a trickling response is sent in."""


@dataclass(slots=True)
class Exchange:
    """One request, as far as the backend needs it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    user: User | None = None
    target: RequestInfo | None = None
    streams: bool = False

    @property
    def is_watch(self) -> bool:
        return self.target is not None and self.target.verb == "watch"

    @property
    def subject(self) -> tuple[str, str, str]:
        """Verb, resource and name, for faults and counts."""
        if self.target is None:
            return self.method.lower(), self.path, ""
        return self.target.verb, self.target.full_resource, self.target.name


class ApiServer:
    """Listens on one port; can stop listening, and start again on the same port."""

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster = cluster
        self._faults = cluster.faults
        self.counts = Counts()
        self.audit: Callable[[Exchange], None] = lambda call: None
        """Called with each complete request and its user, before any fault is applied."""
        self.watches: set[Watch] = set()
        self._watch_requests: dict[Watch, web.BaseRequest] = {}
        self._runner: web.ServerRunner | None = None
        self._site: web.SockSite | None = None
        self._kept: socket.socket | None = None  # keeps the port while nothing listens
        self._turn = asyncio.Lock()  # what has just begun to listen cannot be closed yet
        self._stopping = asyncio.Event()
        self.silent: WeakSet[asyncio.Transport] = WeakSet()
        """What sends nothing more."""
        self.host = ""
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any free one."""
        server = web.Server(
            self._handle,
            request_factory=_make_request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=120.0,
        )
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        self.host, self.port = host, port
        await self.listen()

    async def listen(self) -> None:
        """Accept connections (again)."""
        async with self._turn:
            if self._site is not None or self._runner is None:
                return
            sock, self._kept = self._kept or _bound(self.host, self.port), None
            self.port = sock.getsockname()[1]
            self._site = web.SockSite(self._runner, sock, backlog=1024)
            await self._site.start()

    async def refuse(self) -> None:
        """Close every connection and accept none until `listen`."""
        async with self._turn:
            if self._site is not None:
                site, self._site = self._site, None
                await site.stop()
                self._kept = _bound(self.host, self.port)
        for transport in self.transports:
            transport.abort()

    @property
    def transports(self) -> list[asyncio.Transport]:
        server = self._runner.server if self._runner is not None else None
        return [one.transport for one in (server.connections if server else ()) if one.transport is not None]

    async def stop(self) -> None:
        """Close all watches and connections."""
        self._stopping.set()
        for watch in list(self.watches):
            watch.close()
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        if self._runner is not None:
            await self._runner.cleanup()

    def drop_watches(self) -> None:
        for watch, request in list(self._watch_requests.items()):
            _cut(request)
            watch.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Exchange(request.method, request.path, request.query)
        counts = self.counts
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        try:
            if call.path == "/__faults__":
                self._cluster.identify(_token(request))
                return _response(*await self._faults.call(await request.read()))
            return await self._serve(request, call)
        except StatusError as exc:
            return self._counted(call, _response(exc.code, exc.body(), JSON, exc.headers))
        finally:
            if not call.streams:
                counts.in_flight -= 1

    async def _serve(self, request: web.BaseRequest, call: Exchange) -> web.StreamResponse:
        await self._faults.running()
        if request.transport in self.silent:
            await self._stopping.wait()
        token = _token(request)
        if self._faults.unauthorized_tokens and token in self._faults.unauthorized_tokens:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        call.user = self._cluster.identify(token)
        self._cluster.route(call)
        if request.can_read_body:
            call.body = await request.read()
        self.audit(call)
        verb, resource, name = call.subject
        faults = self._faults.matching(verb, resource, name or _name_of(call.body))
        if await self._apply_early(faults, call):
            return self._cut(request, call)
        actions = {fault.action for fault in faults}
        if "no_query" in actions:
            call.query = {}
            self._cluster.route(call)
        call.body = admitted(call.body, faults, patch=call.method == "PATCH")
        if (other := instead(faults, done=False)) is not None:
            return self._counted(call, _response(*other))
        if call.is_watch and not spoils(faults):
            call.streams = True
            self.counts.in_flight -= 1
            return await self._stream(request, call, faults)
        try:
            answer = (200, b"", JSON) if call.is_watch else self._cluster.answer(call, faults)
        except StatusError as exc:
            answer = exc.code, exc.body(), JSON
        answer = spoiled(answer, faults)
        if "lost_reply" in actions:
            return self._cut(request, call)
        if "trickle" in actions:
            return await self._trickled(request, call, answer, _slowness(faults))
        return self._counted(call, _response(*answer))

    async def _trickled(
        self, request: web.BaseRequest, call: Exchange, answer: Answer, seconds: float
    ) -> web.StreamResponse:
        code, body, kind = answer
        response = web.StreamResponse(status=code, headers={"Content-Type": kind, "Content-Length": str(len(body))})
        self._counted(call, response)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            await _write_slowly(response, body, lambda: seconds)
        return response

    def _do_later(self, call: Exchange) -> None:
        if not self._stopping.is_set() and call.target is not None and not call.is_watch:
            with contextlib.suppress(StatusError):  # the client is gone
                self._cluster.answer(call)

    async def _apply_early(self, faults: list[Fault], call: Exchange) -> bool:
        """Apply the faults that come before the work; returns whether to cut the connection instead of the work."""
        for fault in faults:
            if fault.action == "latency":
                await self._faults.wait(fault.seconds)
            elif fault.action == "turns":
                await self._faults.turn(fault.seconds)
            elif fault.action == "status":
                raise injected(fault.code, fault.seconds)
            elif fault.action == "hang":
                await self._faults.wait(None)
                return True
            elif fault.action == "late":
                asyncio.get_running_loop().call_later(fault.seconds, self._do_later, call)
                return True
            elif fault.action == "cut":
                return True
        return False

    async def _stream(self, request: web.BaseRequest, call: Exchange, faults: list[Fault]) -> web.StreamResponse:
        cluster = self._cluster
        watch = cluster.watch(call)
        watch.frozen = any(fault.action == "mute" for fault in faults)
        watch.slowness = _slowness(faults)
        timeout = float(call.query.get("timeoutSeconds") or random.randint(_SHORTEST_WATCH, _LONGEST_WATCH))
        response = web.StreamResponse(headers=_JSON)
        response.enable_chunked_encoding()
        self._watch_requests[watch] = request
        self.watches.add(watch)
        self._counted(call, response)
        try:
            await response.prepare(request)
            async for chunk in watch.chunks(cluster.options.bookmark_interval, timeout, cluster.store):
                await self._faults.running()
                await _write_slowly(response, chunk, lambda: watch.slowness)
        except ConnectionError:
            return response
        finally:
            watch.close()
            self.watches.discard(watch)
            del self._watch_requests[watch]
        return response

    def _counted(self, call: Exchange, response: web.StreamResponse) -> web.StreamResponse:
        verb, resource, _ = call.subject
        self.counts.requests[verb, resource, response.status] += 1
        response.headers["Date"] = formatdate(self._cluster.store.clock.now(), usegmt=True)
        return response

    def _cut(self, request: web.BaseRequest, call: Exchange) -> web.StreamResponse:
        verb, resource, _ = call.subject
        self.counts.requests[verb, resource, 0] += 1
        _cut(request)
        return web.Response()


def _make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the port. Connections are refused as long as it does not listen."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _response(code: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=code, body=body, headers={"Content-Type": kind, **(headers or {})})


def _slowness(faults: Iterable[Fault]) -> float:
    return next((fault.seconds for fault in faults if fault.action == "trickle"), 0.0)


async def _write_slowly(response: web.StreamResponse, data: bytes, seconds: Callable[[], float]) -> None:
    """Send the data over ``seconds()``. When that becomes 0, send the rest at once."""
    size = max(1, len(data) // _TRICKLES)
    while data and (slowness := seconds()):
        await response.write(data[:size])
        data = data[size:]
        await asyncio.sleep(slowness / _TRICKLES)
    if data:
        await response.write(data)


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


def _token(request: web.BaseRequest) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _name_of(body: bytes) -> str:
    _, _, rest = body.partition(b'"name"')
    if not rest:
        return ""
    return rest.partition(b'"')[2].partition(b'"')[0].decode("utf-8", "replace")
