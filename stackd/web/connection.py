"""Clients' connections: how many there may be, and what they get that send no HTTP.

Owns: what is below the level of requests. Clients count from the moment they are accepted, so a silent TLS client counts.
If there are too many, the oldest one without a valid key is closed first. One key cannot hold all connections while
there are other keys. aiohttp's timeout cuts off a client whose head does not arrive, the kernel's one that does not read
its answer. Bytes that are not HTTP are answered in JSON and never quoted, because they may hold a key. Knows nothing of
routes or stacks.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from msgspec import json

from stackd.codes import ErrorCode
from stackd.config.sections import LimitsSection
from stackd.errors import TooManyRequests
from stackd.lifecycle.context import Context
from stackd.web.limits import share_of_a_key
from stackd.web.responses import NOT_KEPT, SERVER_NAME, problem

log = logging.getLogger("stackd.request")

MAX_HEADERS: Final = 64
"""Most header lines of a request."""

LONGEST_HEAD: Final = 32 * 1024
"""Most bytes of a request line and all headers; or of one of them, if ``limits.header_size`` is larger."""

READ_AT_ONCE: Final = 16 * 1024
"""So many bytes of one client are parsed in one turn of the loop, and about twice as many are buffered."""

RECEIVED: Final = memoryview(bytearray(READ_AT_ONCE))
"""What the loop has just read for a connection, which takes it before the loop reads again."""

LINGER_SECONDS: Final = 2.0
"""How long the unread body of a refused client is still read, so that the client can read the reason."""

PLAYER_CONNECTIONS: Final = 16
"""Of one player; a browser opens six to a host."""

RESERVED_DESCRIPTORS: Final = 200
UNREADABLE: Final = "(unreadable)"

BaseHandler = Callable[[Any], Awaitable[web.StreamResponse]]


class Connections:
    """All accepted connections that are not closed. Those without a valid key are in order, the oldest first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._by_key: Counter[str] = Counter()
        self._players = 0
        self._anonymous: dict[HttpConnection, None] = {}
        self._possible = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS)
        self.meter = context.metrics.route("*", UNREADABLE)

    @property
    def limits(self) -> LimitsSection:
        """The limits in force."""
        return self._context.config.limits

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._anonymous) + self._by_key.total()

    def opened(self, connection: HttpConnection, *, plain: bool) -> None:
        """Count a new connection. If that is one too many, cut the oldest anonymous one, which may be the new one.

        A client that is not ``plain`` expects TLS, so there is no way to say why.
        """
        self._anonymous[connection] = None
        most = self._most()
        if self.count > most:
            oldest = next(iter(self._anonymous))
            self.closed(oldest)
            oldest.cut(_full(most) if oldest is connection and plain else b"")

    def authenticated(self, connection: HttpConnection, caller: str, *, player: bool = False) -> None:
        """Count a connection for its valid key, or for a player. Raises TooManyRequests if the key has as many as it may
        have, or all players together have as many as a key."""
        share = share_of_a_key(self._context.config, self.limits.connections_per_key, self._most())
        if player and self._players >= share:
            raise TooManyRequests(
                "players have as many connections as they may have", code=ErrorCode.TOO_MANY_CONNECTIONS
            )
        if self._by_key.get(caller, 0) >= (PLAYER_CONNECTIONS if player else share):
            sentence = f"{self._by_key[caller]} connections of this key are open (limits.connections_per_key)"
            raise TooManyRequests(sentence, code=ErrorCode.TOO_MANY_CONNECTIONS)
        self.closed(connection)
        connection.caller, connection.player = caller, player
        self._by_key[caller] += 1
        self._players += player

    def closed(self, connection: HttpConnection) -> None:
        """Count a connection no longer."""
        if name := connection.caller:
            self._by_key[name] -= 1
            if not self._by_key[name]:
                del self._by_key[name]
            self._players -= connection.player
            connection.caller = ""
        else:
            self._anonymous.pop(connection, None)

    def _most(self) -> int:
        limit = self.limits.connections
        return min(limit, self._possible) if limit else self._possible


def _full(most: int) -> bytes:
    code, sentence = ErrorCode.UNAVAILABLE, f"{most} connections are open (limits.connections)"
    body = json.encode({"error": sentence, "code": code, "player_message": code.players})
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nServer: stackd\r\n"
    return head + b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class HttpConnection(web.RequestHandler):
    """A client's connection; ``caller`` is empty until it has sent a valid key, or is a ``player``'s.

    ``discards``: nothing more is parsed, because the rest of a refused body in chunks is of no use. A chunk of one byte takes
    as long as one of many.
    """

    __slots__ = ("_body", "_head", "_socket", "caller", "connections", "discards", "player", "sent_more")

    def __init__(self, server: web.Server, connections: Connections, accepted: socket.socket) -> None:
        limits = connections.limits
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type] # off
            keepalive_timeout=limits.slow_client_timeout,
            lingering_time=min(LINGER_SECONDS, limits.slow_client_timeout),
            max_line_size=limits.header_size,
            max_field_size=limits.header_size,
            max_headers=MAX_HEADERS,
            read_bufsize=READ_AT_ONCE,
            auto_decompress=False,
        )
        self._head = 0  # bytes of the head that is arriving
        self._body: StreamReader = EMPTY_PAYLOAD
        self.discards = False
        self.connections = connections
        self._socket = accepted
        self.caller = ""
        self.player = False
        self.sent_more = False

    def cut(self, last_words: bytes = b"") -> None:
        """Shut the socket down, whatever is under way."""
        with suppress(OSError):  # it may be closed already
            if last_words:
                self._socket.send(last_words)
            self._socket.shutdown(socket.SHUT_RDWR)

    def received(self, nbytes: int) -> None:
        """Take what the loop has read. If there is more, the other connections come first."""
        self.data_received(bytes(RECEIVED[:nbytes]))
        if nbytes == READ_AT_ONCE:
            self._pause_transport_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not (self._reading_paused or self._buffer_paused):
            self._resume_transport_reading()

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent."""
        self.sent_more = bool(data)  # aiohttp passes b"" to go on with what it has
        if self.discards:
            return
        is_head, requests = self._body.is_eof(), self._request_count
        room = max(LONGEST_HEAD, self.max_field_size) - self._head if is_head else len(data)
        super().data_received(data[:room])
        if self._request_count != requests:
            self._head, self._body = 0, self._messages[-1][1]
        elif is_head and data:
            self._head += len(data)
            if len(data) > room:
                super().data_received(b"x" * (self.max_field_size + 1))  # the parser refuses it
                self.discards = True
        if len(data) > room and not self.discards:
            self.data_received(data[room:])

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection as closed."""
        self.connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP (aiohttp calls this; ``message`` quotes the request and is left out)."""
        code, sentence = _refusal(status, exc, self.connections.limits.header_size)
        if self.discards:
            sentence = f"the request line and the headers are longer than {LONGEST_HEAD} bytes in all"
        if code is ErrorCode.INTERNAL_ERROR:
            log.error("a request failed unexpectedly before it was routed: %s", type(exc).__name__)
        else:
            self.connections.meter.record(code.status, 0.0)
            where = {"client": request.remote, "same": (UNREADABLE, code)}
            log.info("%s from %s: %s", UNREADABLE, request.remote, sentence, extra=where)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = problem(code, sentence, {hdrs.SERVER: SERVER_NAME, hdrs.CACHE_CONTROL: NOT_KEPT})
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log only the message's template, at level debug: aiohttp would quote requests, and log clients that leave."""
        log.debug("aiohttp: %s", args[0] if args else "")


class Receiver(asyncio.BufferedProtocol):
    """Reads ``READ_AT_ONCE`` bytes for a connection. The connection is an ``asyncio.Protocol``, because aiohttp's is: uvloop
    gives such a one 256 KB, even if it had a buffer."""

    def __init__(self, connection: HttpConnection) -> None:
        self.buffer_updated = connection.received  # type: ignore[method-assign]
        self.connection_made = connection.connection_made  # type: ignore[method-assign]
        self.connection_lost = connection.connection_lost  # type: ignore[method-assign]
        self.pause_writing = connection.pause_writing  # type: ignore[method-assign]
        self.resume_writing = connection.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the loop puts what it reads next."""
        return RECEIVED


def _refusal(status: int, exc: BaseException | None, header_size: int) -> tuple[ErrorCode, str]:
    if isinstance(exc, LineTooLong):
        return (
            ErrorCode.HEAD_TOO_LARGE,
            f"the request line or a header is longer than {header_size} bytes (limits.header_size)",
        )
    if "Too many headers" in str(exc):
        return ErrorCode.HEAD_TOO_LARGE, f"the request has more than {MAX_HEADERS} headers"
    if isinstance(exc, BadHttpMethod):
        hint = "; this port does not speak TLS" if "Received HTTPS traffic" in str(exc) else ""
        return ErrorCode.INVALID_REQUEST, f"this is not an HTTP request with a known method{hint}"
    if status >= 500:
        return ErrorCode.INTERNAL_ERROR, "internal server error"
    return ErrorCode.INVALID_REQUEST, "the request is not valid HTTP"


def routed(handler: BaseHandler, unrouted: BaseHandler) -> BaseHandler:
    """Wrap aiohttp's handler of all requests; ``unrouted`` answers those for which there is no route."""

    async def answer(request: Any) -> web.StreamResponse:
        connection = request.protocol
        if not connection.sent_more:  # it was sent behind another request: from Python 3.12 on,
            await asyncio.sleep(0)  # aiohttp would answer all of them in one turn of the loop
        connection.sent_more = False
        try:
            return await handler(request)
        except web.HTTPException:  # it is the router's: the routes' own handlers let none through
            return await unrouted(request)

    return answer
