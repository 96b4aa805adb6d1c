"""TLS connections: each counts from the moment it is accepted, and gets the certificate in force then.

Owns: accepting, and clients before their handshake is done. asyncio's own TLS servers report a client only after its
handshake, so that silent clients would not be counted, and they keep the context that they started with.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final

log = logging.getLogger("stackd.request")

PAUSE_SECONDS: Final = 1.0
"""How long accepting pauses if the machine has no descriptor or memory left for another client."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

ContextFactory = Callable[[], ssl.SSLContext]
"""Returns the context for a new connection."""


class Handshake:
    """A client whose TLS handshake is not done; ``done`` once a connection has taken its place."""

    __slots__ = ("_client", "done")

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.done = False

    def abort(self) -> None:
        """Shut the socket down: the handshake fails, and its task closes the socket."""
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, sentence: str) -> None:
        """Abort the handshake: before it is done, there is no way to send a reason."""
        self.abort()


class Acceptor:
    """Accepts clients at a listening socket and hands them to ``accepted``, which must not block."""

    def __init__(self, listening: socket.socket, backlog: int, accepted: Callable[[socket.socket], None]) -> None:
        self._listening = listening
        self._backlog = backlog
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start accepting."""
        self._listening.setblocking(False)
        self._listening.listen(self._backlog)
        self._go_on()

    def close(self) -> None:
        """Stop accepting and close the listening socket."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        """Accept the waiting clients, at most ``backlog`` of them, so that other tasks get a turn."""
        for _ in range(self._backlog):
            try:
                client, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                log.error("accepting no connections for %g s: %s", PAUSE_SECONDS, error.strerror)
                self._loop.remove_reader(self._listening)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._go_on)
                return
            client.setblocking(False)
            self._accepted(client)
