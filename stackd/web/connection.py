"""Clients' connections: their time limits, what they may send before authentication, and how many there may be.

Owns: what aiohttp leaves open below the level of requests. A client is cut off if its head does not arrive or does not
end, or if it does not read its answer. Bytes that are not HTTP are answered in JSON and never quoted, because they may
hold a key. If there are too many connections, the oldest one without a valid key is closed first. One key cannot hold
all connections while there are other keys. Knows nothing of routes or stacks.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import socket
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from stackd.errors import TooManyRequests
from stackd.lifecycle.context import Context
from stackd.web.handshake import Acceptor, ContextFactory, Handshake
from stackd.web.limits import share_of_a_key
from stackd.web.responses import JSON, NOT_KEPT, SERVER_NAME, problem

log = logging.getLogger("stackd.request")

MAX_HEADERS: Final = 64
"""Most header lines of a request."""

HEAD_SHARE: Final = 4
"""A whole head may be this many times as long as one header (``limits.header_size``)."""

LINGER_SECONDS: Final = 2.0
"""How long the unread body of a refused client is still read, so that the client can read the reason."""

RESERVED_DESCRIPTORS: Final = 200
UNREADABLE: Final = "(unreadable)"
_TOO_MANY_HEADERS: Final = "Too many headers"
_TLS_HELLO: Final = "Received HTTPS traffic"
_REQUEST_LINE: Final = re.compile(r"b'[A-Za-z0-9!#$%&*+.^_`|~-]+ [^ ]+ HTTP/\d")


class Connections:
    """All open connections, from the moment they are accepted.

    ``_anonymous`` holds those without a valid key so far, oldest first.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._meter = context.metrics.route("*", UNREADABLE)
        self._count = 0
        self._by_key: Counter[str] = Counter()
        self._anonymous: OrderedDict[HttpConnection | Handshake, None] = OrderedDict()
        self._possible = max(RESERVED_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS)

    @property
    def slow(self) -> float:
        """How long a client may take (``limits.slow_client_timeout``)."""
        return self._context.config.limits.slow_client_timeout

    @property
    def header_size(self) -> int:
        """The longest request line or header."""
        return self._context.config.limits.header_size

    def opened(self, connection: HttpConnection | Handshake) -> None:
        """Count a new connection. If that is one too many, close the oldest anonymous one, which may be the new one."""
        self._count += 1
        most = self._most()
        self._anonymous[connection] = None
        if self._count <= most:
            return
        oldest, _ = self._anonymous.popitem(last=False)
        if oldest is connection:
            connection.answer(503, f"{most} connections are open (limits.connections)")
        else:
            oldest.abort()

    def secured(self, handshake: Handshake, connection: HttpConnection) -> None:
        """Replace a finished handshake by its connection, which is still unauthenticated."""
        handshake.done = True
        if handshake in self._anonymous:
            del self._anonymous[handshake]
            self._anonymous[connection] = None
        else:
            connection.abort()

    def authenticated(self, connection: HttpConnection, key_name: str) -> None:
        """Count a connection for its valid key. Raises TooManyRequests if the key has as many as it may have."""
        config = self._context.config
        most = share_of_a_key(config, config.limits.connections_per_key, self._most())
        open_now = self._by_key[key_name]
        if open_now >= most:
            raise TooManyRequests(f"{open_now} connections of this key are open (limits.connections_per_key)")
        self._anonymous.pop(connection, None)
        self._let_go(connection.key_name)
        self._by_key[key_name] += 1

    def closed(self, connection: HttpConnection | Handshake) -> None:
        """Count a connection as closed."""
        self._count -= 1
        self._anonymous.pop(connection, None)
        if isinstance(connection, HttpConnection):
            self._let_go(connection.key_name)

    def _most(self) -> int:
        limit = self._context.config.limits.connections
        return min(limit, self._possible) if limit else self._possible

    def _let_go(self, key_name: str) -> None:
        if key_name:
            self._by_key[key_name] -= 1
            if not self._by_key[key_name]:
                del self._by_key[key_name]

    def unreadable(self, client: str | None, status: int, why: str) -> None:
        """Count and log bytes that are not a request. The bytes are not logged: they may hold a key."""
        self._meter.record(status, 0.0)
        log.info("%s from %s: %s", UNREADABLE, client, why, extra={"client": client, "same": (UNREADABLE, status)})


class HttpConnection(web.RequestHandler):
    """One client's connection. Its first head, and each one after an answer, has to arrive within ``slow`` seconds.

    ``handshake`` is the TLS handshake that it came from, if any.
    """

    __slots__ = ("_all", "_ending", "_handshake", "_head", "_stuck", "_wire", "key_name")

    def __init__(
        self, server: web.Server, connections: Connections, handshake: Handshake | None = None, **options: Any
    ) -> None:
        super().__init__(
            server,
            keepalive_timeout=connections.slow,
            lingering_time=min(LINGER_SECONDS, connections.slow),
            max_line_size=connections.header_size,
            max_field_size=connections.header_size,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
            **options,
        )
        self._all = connections
        self._handshake = handshake
        self._head = 0
        self._wire: asyncio.Transport | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self.key_name = ""

    def authenticate(self, key_name: str) -> None:
        """Assign the connection to its valid key. Raises TooManyRequests if that key has too many connections."""
        self._all.authenticated(self, key_name)
        self.key_name = key_name

    @property
    def waiting(self) -> bool:
        """Whether the client has sent further requests already."""
        return bool(self._messages)

    def abort(self) -> None:
        """Close the connection at once, whatever is under way, even if it is already closing and the client is slow."""
        if self._wire is not None:
            self._wire.abort()

    def answer(self, status: int, sentence: str) -> None:
        """Answer a request that is incomplete, and close the connection."""
        if self.transport is None:
            return
        made = problem(status, sentence)
        body = cast(bytes, made.body)
        head = f"HTTP/1.1 {status} {made.reason}\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
        more = f"Server: {SERVER_NAME}\r\nCache-Control: {NOT_KEPT}\r\nConnection: close\r\n\r\n"
        self.transport.write((head + more).encode() + body)
        self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the open connection."""
        super().connection_made(transport)
        self._wire = cast(asyncio.Transport, transport)
        if self._handshake is None:
            self._all.opened(self)
        else:
            self._all.secured(self._handshake, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the timers and count the connection as closed."""
        for timer in (self._stuck, self._ending):
            if timer is not None:
                timer.cancel()
        self._wire = None
        self._all.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take the data, and refuse a head that has not ended after too many bytes."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._head = 0
            return
        self._head += len(data)
        if self._head > HEAD_SHARE * self._all.header_size:
            self._refuse(431, f"the request's head is longer than {HEAD_SHARE} times limits.header_size")

    def pause_writing(self) -> None:
        """The client does not read its answer: close the connection after ``slow`` seconds."""
        super().pause_writing()
        self._stuck = self._loop.call_later(self._all.slow, self.abort)

    def resume_writing(self) -> None:
        """The client reads again: keep the connection."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    async def start(self) -> None:
        """Serve the requests. At the end, the client has ``slow`` seconds to read unsent data."""
        transport = self.transport
        try:
            await super().start()
        finally:
            if transport is not None and self._manager is not None and transport.get_write_buffer_size():
                self._ending = self._loop.call_later(self._all.slow, transport.abort)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP (aiohttp calls this; ``message`` quotes the request and is left out)."""
        status, sentence = self._words(status, exc)
        if status >= 500:
            log.error("a request failed unexpectedly before it was routed: %s", type(exc).__name__)
        else:
            self._all.unreadable(request.remote, status, sentence)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = problem(status, sentence, {hdrs.SERVER: SERVER_NAME, hdrs.CACHE_CONTROL: NOT_KEPT})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log only the message's template, at level debug: aiohttp would quote requests, and log clients that leave."""
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
            return 431, f"the request has more than {MAX_HEADERS} headers"
        if isinstance(exc, BadHttpMethod):
            hint = "; this port does not speak TLS" if _TLS_HELLO in str(exc) else ""
            known = (
                "the request's method is not known" if _REQUEST_LINE.search(str(exc)) else "this is not an HTTP request"
            )
            return 400, known + hint
        if status >= 500:
            return 500, "internal server error"
        return 400, "the request is not valid HTTP"


BaseHandler = Callable[[Any], Awaitable[web.StreamResponse]]


def _routed(handler: BaseHandler, unrouted: BaseHandler) -> BaseHandler:
    async def routed(request: Any) -> web.StreamResponse:
        if request.protocol.waiting:
            await asyncio.sleep(0)  # from Python 3.12 on, aiohttp answers all of them in one turn of the loop
        try:
            return await handler(request)
        except web.HTTPException:  # it is the router's: the routes' own handlers let none through
            return await unrouted(request)

    return routed


class HttpServer(web.Server):
    """Makes an ``HttpConnection`` for each client; ``unrouted`` answers requests for which there is no route."""

    def __init__(self, made: web.Server, connections: Connections, unrouted: BaseHandler) -> None:
        super().__init__(
            _routed(made.request_handler, unrouted),
            request_factory=made.request_factory,
            handler_cancellation=True,
            loop=asyncio.get_running_loop(),
        )
        self._made_for = connections
        self._handshakes: dict[Handshake, asyncio.Task[None]] = {}
        self._opening: set[asyncio.Task[HttpConnection]] = set()

    @property
    def opening(self) -> bool:
        """Whether an accepted client is not a connection yet."""
        return bool(self._handshakes or self._opening)

    def __call__(self, handshake: Handshake | None = None) -> HttpConnection:
        """Return a new connection with the limits in force."""
        return HttpConnection(self, self._made_for, handshake, loop=asyncio.get_running_loop(), access_log=None)

    def connect(self, client: socket.socket) -> None:
        """Begin a connection with an accepted client."""
        task = asyncio.create_task(self._connect(client), name="connection")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self, client: socket.socket) -> HttpConnection:
        _, connection = await asyncio.get_running_loop().connect_accepted_socket(self, client)
        return connection

    def secure(self, client: socket.socket, context: ContextFactory) -> None:
        """Begin the handshake with an accepted client, which counts as a connection from now on."""
        handshake = Handshake(client)
        task = asyncio.create_task(self._secure(handshake, client, context), name="TLS handshake")
        self._handshakes[handshake] = task
        self._made_for.opened(handshake)

    async def _secure(self, handshake: Handshake, client: socket.socket, context: ContextFactory) -> None:
        slow = self._made_for.slow
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self(handshake),
                client,
                ssl=context(),
                ssl_handshake_timeout=slow,
                ssl_shutdown_timeout=slow,
            )
        except OSError as error:  # ssl.SSLError is one, too
            log.debug("a TLS handshake has failed: %s", error)
        finally:
            del self._handshakes[handshake]
            if not handshake.done:
                handshake.abort()
                self._made_for.closed(handshake)

    def pre_shutdown(self) -> None:
        """Abort the handshakes under way: new clients are no longer served."""
        for handshake in self._handshakes:
            handshake.abort()
        super().pre_shutdown()

    async def shutdown(self, timeout: float | None = None) -> None:
        """Close all connections."""
        await asyncio.gather(*self._handshakes.values(), *self._opening)
        await super().shutdown(timeout)


class Runner(web.AppRunner):
    """aiohttp's runner, with our connections."""

    __slots__ = ("_connections", "_unrouted")

    def __init__(
        self, app: web.Application, connections: Connections, unrouted: BaseHandler, *, shutdown_timeout: float
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout)
        self._connections = connections
        self._unrouted = unrouted

    @property
    def busy(self) -> bool:
        """Whether a client is connected or in its handshake."""
        server = self.server
        return isinstance(server, HttpServer) and bool(server.connections or server.opening)

    async def _make_server(self) -> web.Server:
        return HttpServer(await super()._make_server(), self._connections, self._unrouted)


class HttpSite(web.SockSite):
    """A listening socket; with a ``context``, for TLS connections.

    uvloop's own server accepts one client in each turn of the loop. While many connections are busy a turn is long, and
    new clients would wait for many of them.
    """

    __slots__ = ("_context", "_listener")

    def __init__(
        self, runner: Runner, listening: socket.socket, *, context: ContextFactory | None, backlog: int
    ) -> None:
        super().__init__(runner, listening, backlog=backlog)
        self._context = context
        self._listener: Acceptor | None = None

    async def start(self) -> None:
        """Accept connections."""
        await web.BaseSite.start(self)
        server, context = cast(HttpServer, self._runner.server), self._context
        accepted = server.connect if context is None else lambda client: server.secure(client, context)
        self._listener = Acceptor(self._sock, self._backlog, accepted)
        self._listener.start()

    async def stop(self) -> None:
        """Stop accepting connections."""
        if self._listener is not None:
            self._listener.close()
        await super().stop()
