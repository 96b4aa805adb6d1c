"""Clients' connections: how many there may be, and what they get that send no HTTP.

Owns: what is below the level of requests. Clients count from the moment they are accepted, so a silent TLS client counts.
If there are too many, the oldest one without a valid key is closed first. One key cannot hold all connections while
there are other keys. aiohttp's timeout cuts off a client whose head does not arrive, the kernel's one that does not read
its answer. Bytes that are not HTTP are answered in JSON and never quoted, because they may hold a key. Knows nothing of
routes or stacks.

aiohttp bounds each header and their number, but not the whole head: with 64 headers of 16 KiB, 250 unfinished ones would
cost 500 MB. So ``data_received`` counts the bytes that have come since the last request began.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import socket
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from aiohttp import EMPTY_PAYLOAD, StreamReader, hdrs, web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong
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
"""Once a client has sent more than this ahead of the request that is being read or answered, it may send nothing more."""

RECEIVE_BUFFER: Final = 8 * 1024
"""Of the kernel, for each connection; it takes twice as much. No more is read in one turn of the loop: asyncio and uvloop would
read 256 KiB, and what all clients send together takes long to parse."""

FREE_CHUNKS: Final = 1000
BYTES_PER_CHUNK: Final = 128
"""A body may come in so many chunks, and in one more for so many bytes: a chunk takes as long to read as a thousand bytes."""

CHUNK_SIZE: Final = re.compile(rb"\n[0-9A-Fa-f]+[ \t]*(?:;[^\r\n]*)?\r\n")
"""The line before a chunk; other lines that end so are text."""

LINGER_SECONDS: Final = 2.0
"""How long the unread body of a refused client is still read, so that the client can read the reason."""

PLAYER_CONNECTIONS: Final = 16
"""Of one player; a browser opens six to a host."""

RESERVED_DESCRIPTORS: Final = 200
UNREADABLE: Final = "(unreadable)"


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
        return self._context.config.limits

    @property
    def count(self) -> int:
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

    ``discards``: nothing more is parsed, because the rest of a refused body in chunks is of no use.
    """

    __slots__ = (
        "_ahead",
        "_body",
        "_chunked",
        "_chunks",
        "_socket",
        "caller",
        "connections",
        "discards",
        "player",
        "sent_more",
    )

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
            read_bufsize=RECEIVE_BUFFER,
            auto_decompress=False,
        )
        self._ahead = 0  # bytes that have come since the last request began, or its body was complete
        self._chunks = 0  # that came with the last head and after it
        self._chunked = False
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

    def is_behind(self, request: web.BaseRequest) -> bool:
        """A request begins; whether it was sent behind another one. Then the other connections come first: from Python 3.12 on,
        aiohttp answers all of them in one turn of the loop."""
        self._body, self._ahead = request.content, 0
        self._chunked = hdrs.TRANSFER_ENCODING in request.headers
        behind, self.sent_more = not self.sent_more, False
        return behind

    def data_received(self, data: bytes) -> None:
        self.sent_more = bool(data)  # aiohttp passes b"" to go on with what it has
        if self.discards:
            return
        chunks = len(CHUNK_SIZE.findall(data))
        if self._body.is_eof():
            if data and self._ahead > LONGEST_HEAD:
                super().data_received(b"x" * (self.max_field_size + 1))  # the parser refuses it
                self.discards = True
                return
            self._ahead, self._chunks = self._ahead + len(data), chunks
        elif self._chunked:
            self._chunks += chunks
            if self._chunks > FREE_CHUNKS + self._body.total_bytes // BYTES_PER_CHUNK:
                self._body.set_exception(web.RequestPayloadError("its chunks are too small"))
                self.discards = True
                return
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that is not HTTP (aiohttp calls this; ``message`` quotes the request and is left out)."""
        code, sentence = _refusal(status, exc, self.connections.limits.header_size)
        if self.discards:
            sentence = f"the request line and the headers are longer than {LONGEST_HEAD} bytes in all, or too much is sent ahead"
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
