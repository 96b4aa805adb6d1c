"""Answers whose bytes are ready, written in one piece.

aiohttp puts the headers of each answer together anew, which is a good part of what a read costs. Owns: the head of a
plain 200 with JSON. Whatever is not plain (HEAD, HTTP/1.0, the last answer of a connection, somebody who adds a header)
goes aiohttp's own way, with the same headers; a test holds the two together.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any, Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from stackd.logs import REQUEST_ID

JSON: Final = "application/json"
SERVER_NAME: Final = "stackd"
_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Request-ID: %b\r\nServer: stackd\r\n"
    b"Content-Length: %d\r\nDate: %b\r\n\r\n%b"
)


class _Date:
    """The present second as HTTP writes it."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


_DATE: Final = _Date()


class ReadyAnswer(web.Response):
    """A 200 with ready JSON. Becomes an ordinary response at the first look at anything but its status and body."""

    _status = 200
    __http_exception__ = False  # aiohttp asks every answer for it

    def __init__(self, body: bytes) -> None:
        self._body = self._ready = body

    def __getattr__(self, name: str) -> Any:
        if "_headers" in self.__dict__:
            raise AttributeError(name)
        super().__init__(body=self._ready, content_type=JSON)
        return getattr(self, name)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it. Raises ConnectionError when the client has left."""
        if not self._is_plain(request):
            return await super().prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._keep_alive = self._eof_sent = True
        body = self._ready
        transport.write(_ANSWER % (REQUEST_ID.get().encode(), len(body), _DATE.now(), body))
        await request.writer.drain()
        return None

    def _is_plain(self, request: web.BaseRequest) -> bool:
        return (
            request.method == hdrs.METH_GET
            and request.version == HttpVersion11
            and request.keep_alive
            and self._keep_alive is None
            and not self._eof_sent
            and "_headers" not in self.__dict__
        )
