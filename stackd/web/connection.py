"""Clients' connections: how long one may take, how much it may send before it is known, and how many there may be.

Owns: what aiohttp leaves open below the level of requests. A head that does not arrive, an answer that nobody reads and
a head without end are cut off; what is no HTTP is answered in JSON and never quoted, for it may hold a key. Where there
are too many connections, those go first that have shown no valid key. Knows nothing of routes or stacks.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from stackd.lifecycle.room import Room
from stackd.web.problems import problem

log = logging.getLogger("stackd.request")

HEADERS: Final = 64
"""Most header lines of a request."""

HEAD_SHARE: Final = 4
"""A whole head may be this many times as long as one header (``limits.header_size``)."""

LINGER_SECONDS: Final = 2.0
"""How long an unread body is still taken from a client that was refused, so that it gets to read why."""

RESERVED_DESCRIPTORS: Final = 200
UNREADABLE: Final = "(unreadable)"
_TOO_MANY_HEADERS: Final = "Too many headers"
_TLS_HELLO: Final = "Received HTTPS traffic"


class Connections:
    """All open connections; ``strangers`` are those that have shown no valid key, the oldest first."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._meter = room.metrics.route("*", UNREADABLE)
        self._count = 0
        self._strangers: OrderedDict[Connection, None] = OrderedDict()
        self._possible = max(RESERVED_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS)

    @property
    def slow(self) -> float:
        """How long a client may take (``limits.slow_client_timeout``)."""
        return self._room.config.limits.slow_client_timeout

    @property
    def header_size(self) -> int:
        """The longest request line or header."""
        return self._room.config.limits.header_size

    def opened(self, connection: Connection) -> None:
        """One more; if that is one too many, the oldest stranger goes, or else the new one."""
        self._count += 1
        limit = self._room.config.limits.connections
        most = min(limit, self._possible) if limit else self._possible
        self._strangers[connection] = None
        if self._count <= most:
            return
        oldest, _ = self._strangers.popitem(last=False)
        if oldest is connection:
            connection.answer(503, f"{most} connections are open (limits.connections)")
        else:
            oldest.abort()

    def vouched(self, connection: Connection) -> None:
        """A valid key came over this one."""
        self._strangers.pop(connection, None)

    def closed(self, connection: Connection) -> None:
        """One less."""
        self._count -= 1
        self._strangers.pop(connection, None)

    def unreadable(self, client: str | None, status: int, why: str) -> None:
        """Count and say that something came that is no request; what came is not shown."""
        self._meter.record(status, 0.0)
        log.info("%s from %s: %s", UNREADABLE, client, why, extra={"client": client, "same": (UNREADABLE, status)})


class Connection(web.RequestHandler):
    """One client's connection. Its first head, and each one after an answer, has to arrive within ``slow`` seconds."""

    __slots__ = ("_all", "_ending", "_head", "_stuck", "stranger")

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(
            server,
            keepalive_timeout=connections.slow,
            lingering_time=min(LINGER_SECONDS, connections.slow),
            max_line_size=connections.header_size,
            max_field_size=connections.header_size,
            max_headers=HEADERS,
            **options,
        )
        self._all = connections
        self._head = 0
        self._stuck: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.stranger = True

    def vouch(self) -> None:
        """A valid key came over this connection."""
        self.stranger = False
        self._all.vouched(self)

    def abort(self) -> None:
        """End it at once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def answer(self, status: int, sentence: str) -> None:
        """Answer what is no whole request, and end the connection."""
        if self.transport is None:
            return
        made = problem(status, sentence)
        body = cast(bytes, made.body)
        head = f"HTTP/1.1 {status} {made.reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        super().connection_made(transport)
        self._all.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It has ended."""
        for timer in (self._stuck, self._ending):
            if timer is not None:
                timer.cancel()
        self._all.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Something came: a head that has not ended after so much is not waited for."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._head = 0
            return
        self._head += len(data)
        if self._head > HEAD_SHARE * self._all.header_size:
            self._refuse(431, f"the request's head is longer than {HEAD_SHARE} times limits.header_size")

    def pause_writing(self) -> None:
        """The client does not read what it was sent; not for long."""
        super().pause_writing()
        self._stuck = self._loop.call_later(self._all.slow, self.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    async def start(self) -> None:
        """Serve its requests; what is unsent at the end waits for the client no longer than anything else does."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and self._manager is not None and transport.get_write_buffer_size():
                self._ending = self._loop.call_later(self._all.slow, transport.abort)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no HTTP (aiohttp calls this; ``message`` quotes the request and is left out)."""
        status, sentence = self._words(status, exc)
        if status >= 500:
            log.error("a request failed unexpectedly before it was routed: %s", type(exc).__name__)
        else:
            self._all.unreadable(request.remote, status, sentence)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = problem(status, sentence, {hdrs.SERVER: "stackd"})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """aiohttp's own log of failures would quote requests, and say much about clients that leave."""
        log.debug("aiohttp: %s", args[0] if args else "")

    def _refuse(self, status: int, sentence: str) -> None:
        peer = self.peername
        self._all.unreadable(peer[0] if isinstance(peer, tuple) else None, status, sentence)
        self.answer(status, sentence)

    def _words(self, status: int, exc: BaseException | None) -> tuple[int, str]:
        size = self._all.header_size
        if isinstance(exc, LineTooLong):
            return 431, f"the request line or a header is longer than {size} bytes (limits.header_size)"
        if _TOO_MANY_HEADERS in str(exc):
            return 431, f"the request has more than {HEADERS} headers"
        if isinstance(exc, BadHttpMethod):
            hint = "; this port does not speak TLS" if _TLS_HELLO in str(exc) else ""
            return 400, "this is not an HTTP request" + hint
        if status >= 500:
            return 500, "internal server error"
        return 400, "the request is not valid HTTP"


class Entrance(web.Server):
    """Makes a ``Connection`` of each client that comes."""

    def __init__(self, made: web.Server, connections: Connections) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=True,
            loop=asyncio.get_running_loop(),
        )
        self._made_for = connections

    def __call__(self) -> Connection:
        """A connection, with the limits in force."""
        return Connection(self, self._made_for, loop=asyncio.get_running_loop(), access_log=None)


class Runner(web.AppRunner):
    """aiohttp's runner, with our connections."""

    __slots__ = ("_connections",)

    def __init__(self, app: web.Application, connections: Connections, *, shutdown_timeout: float) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._connections = connections

    async def _make_server(self) -> web.Server:
        return Entrance(await super()._make_server(), self._connections)


class Site(web.SockSite):
    """A listening socket; a TLS handshake has to be done within ``handshake`` seconds."""

    __slots__ = ("_handshake",)

    def __init__(self, runner: Runner, *args: Any, handshake: float, **options: Any) -> None:
        super().__init__(runner, *args, **options)
        self._handshake = handshake

    async def start(self) -> None:
        """Accept connections."""
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=self._handshake if self._ssl_context else None,
        )
