"""The listening sockets: created here or handed over, opened, and drained so that no request is lost.

Owns: when connections are accepted, and how they end. A handed-over socket outlives this process: clients that connect
meanwhile wait in its queue for the next process, so that a stop only has to finish the accepted connections.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from stackd.config import Config
from stackd.contract import host_and_port
from stackd.tasks import Tasks
from stackd.web.api import Api
from stackd.web.app import server_of
from stackd.web.connection import RECEIVE_BUFFER, Connections, HttpConnection

log = logging.getLogger(__name__)

BACKLOG = 1024
PAUSE_SECONDS = 1.0
"""How long accepting pauses if the machine has no descriptor or memory left for another client."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
IDLE_SECONDS = 1.0
"""How long a kept-alive connection may stay idle in a drain: a request that is already on its way is still served."""

POLL_SECONDS = 0.02
LEAST_SECONDS = 0.05  # 0 would be no limit
SHARE_OF_REQUESTS = 0.7
"""Share of ``server.shutdown_timeout`` for the requests under way. The rest is for undoing the unfinished ones."""

ContextFactory = Callable[[], ssl.SSLContext]
"""Returns the TLS context for a new connection, with the certificate in force."""


@dataclass(slots=True, kw_only=True)
class HttpListener:
    """The sockets of one daemon and their server; ``lasting`` if the sockets outlive the process.

    It accepts clients itself. Servers of asyncio report a TLS client only after its handshake, so that silent ones could not
    be cut off when there are too many, and keep the certificate that they started with.
    """

    server: web.Server
    connections: Connections
    tasks: Tasks
    sockets: Sequence[socket.socket]
    lasting: bool
    _context: ContextFactory | None = None
    _accepting: list[asyncio.Task[None]] = field(default_factory=list)
    _opening: dict[asyncio.Task[None], HttpConnection] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The TCP port of the first socket; 0 for a Unix socket."""
        name = self.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    @property
    def address(self) -> str:
        """Where the sockets listen, for the log."""
        names = [each.getsockname() for each in self.sockets]
        return " and ".join(host_and_port(*name[:2]) if isinstance(name, tuple) else str(name) for name in names)

    def open(self, context: ContextFactory | None) -> None:
        """Start accepting connections; with a ``context``, over TLS."""
        self._context = context
        for listening in self.sockets:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # accepted ones have it, too
            listening.listen(BACKLOG)
            self._accepting.append(self.tasks.supervise("accept", self._accept(listening)))

    async def stop_accepting(self) -> None:
        """Stop accepting connections; accepted ones continue."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        for listening in self.sockets:
            listening.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                log.error("accepting no connections for %g s: %s", PAUSE_SECONDS, error.strerror)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            connection = HttpConnection(self.server, self.connections, accepted)
            task = asyncio.create_task(self._connect(accepted, connection), name="connection")
            self._opening[task] = connection
            task.add_done_callback(self._opening.pop)
            self.connections.opened(connection, plain=self._context is None)

    async def _connect(self, accepted: socket.socket, connection: HttpConnection) -> None:
        slow = self.connections.limits.slow_client_timeout
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {"ssl": self._context(), "ssl_handshake_timeout": slow, "ssl_shutdown_timeout": slow}
        connected = False
        try:
            accepted.setblocking(False)
            with suppress(OSError):  # a Unix socket has none
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(slow * 1000))
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted, **tls)
            connected = True
        except OSError as error:  # ssl.SSLError is one, too
            log.debug("a connection has failed: %s", error)
        finally:
            if not connected:
                connection.cut()
                self.connections.closed(connection)

    async def last_requests(self, seconds: float) -> None:
        """Return when all connections have ended, or ``seconds`` have passed.

        Meanwhile the answers say ``Connection: close``, so that connections in use end with their next request.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.connections.count and loop.time() < end:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(POLL_SECONDS)

    async def close(self, seconds: float) -> None:
        """Finish the requests under way within ``seconds``, cut TLS handshakes, and close all connections."""
        for connection in self._opening.values() if self._context else ():
            connection.cut()
        await asyncio.gather(*self._opening)
        await asyncio.sleep(0)  # requests that have arrived begin
        self.server.pre_shutdown()
        # aiohttp waits twice for so long: for the handlers, and again once their reading of bodies has ended
        await self.server.shutdown(max(LEAST_SECONDS, seconds / 2))


def listener_of(api: Api, sockets: Sequence[socket.socket], *, lasting: bool) -> HttpListener:
    """The listener on these sockets, which accepts no connections yet."""
    context, server = api.context, server_of(api)
    return HttpListener(
        server=server, connections=Connections(context), tasks=context.tasks, sockets=sockets, lasting=lasting
    )


def listen(config: Config) -> list[socket.socket]:
    """Sockets of our own on ``server.host`` and ``server.port``. Raises OSError, naming the address."""
    host, port = config.server.host, config.server.port
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(config):
            # Of any free port, the first socket has the choice.
            port = port or (sockets[0].getsockname()[1] if sockets else 0)
            at = (address[0], port, *address[2:])
            sockets.append(socket.create_server(at, family=family, backlog=BACKLOG))
    except OSError as error:
        for each in sockets:
            each.close()
        why = os.strerror(error.errno or 0)  # its own text names the address again
        raise OSError(error.errno, f"cannot listen on {host_and_port(host, port)}: {why}") from error
    return sockets


def are_at(sockets: Sequence[socket.socket], config: Config) -> bool:
    """Whether the sockets listen where the configuration says."""
    wanted = {address[:2] for _, address in _addresses(config)}
    return {listening.getsockname()[:2] for listening in sockets} == wanted


def _addresses(config: Config) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """``::`` is all addresses of the families that there are, each with a socket of its own: so an IPv4 address stays one."""
    host, port = config.server.host, config.server.port
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]] = [(one[0], one[4]) for one in found]
    if host != "::":
        return addresses
    has_ipv6 = socket.has_dualstack_ipv6()  # a kernel may have been started without
    return [*(addresses if has_ipv6 else ()), (socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104
