"""As little HTTP/1.1 as a load generator needs: one kept-alive connection, one request at a time, ready bytes out.

Owns: framing of answers by Content-Length or chunks. The work per answer is so small that the loader is never the
limit.
"""

from __future__ import annotations

import asyncio
from typing import cast
from urllib.parse import urlsplit


class HttpConnection(asyncio.Protocol):
    """One connection; ``ask`` sends a request and returns status and body."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected = -1
        self._body_at = 0
        self._chunked = False
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.received = 0

    @classmethod
    async def open(cls, url: str) -> HttpConnection:
        """Connect. Raises OSError."""
        where = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, where.hostname or "", where.port or 80)
        return protocol

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body of the answer. Raises ConnectionError."""
        if self._transport is None:
            raise ConnectionError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def pause(self) -> None:
        """Stop reading, like a reader that stalls."""
        if self._transport is not None:
            self._transport.pause_reading()

    def send(self, request: bytes) -> None:
        """Send a request without waiting for the answer."""
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(exc or "closed by the other side")))

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        self.received += len(data)
        if self._expected < 0 and not self._head():
            return
        if len(self._buffer) < self._expected or (self._chunked and not self._buffer.endswith(b"0\r\n\r\n")):
            return
        status = int(self._buffer[9:12])
        body = bytes(self._buffer[self._body_at :])
        self._buffer.clear()
        self._expected = -1
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        self._body_at = end + 4
        at = head.find(b"content-length: ")
        self._chunked = at < 0 and b"transfer-encoding: chunked" in head
        length = int(head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
        self._expected = self._body_at + length
        return True


def request(url: str, method: str, path: str, key: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    where = urlsplit(url)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {where.netloc}", f"X-API-KEY: {key}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body
