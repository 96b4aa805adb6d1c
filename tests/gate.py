"""A proxy between a client, such as a browser, and the daemon; shutting it cuts the client off, as a crash does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Forwards bytes to a port as long as it is open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """The address that the client uses."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, always on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Cut all connections and accept no more."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, ours}
        try:
            await asyncio.gather(_pass_on(reader, ours), _pass_on(theirs, writer))
        finally:
            for one in (writer, ours):
                self._writers.discard(one)
                one.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        pass  # the other side is gone


@asynccontextmanager
async def gate(port: int) -> AsyncIterator[Gate]:
    """A gate that is open; it is shut at the end."""
    made = Gate(port)
    await made.open()
    try:
        yield made
    finally:
        await made.shut()
