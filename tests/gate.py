"""A proxy between a client and a server, in this process, which cuts connections as crashes and load balancers do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True, kw_only=True)
class Gate:
    """Forwards bytes to the port ``behind`` as long as it is open; while it is ``held``, nothing arrives.

    The next ``lose`` answers are lost, and their connections reset.
    """

    behind: int
    host: str = "127.0.0.1"
    held: bool = False
    port: int = 0
    lose: int = 0
    _open: set[tuple[asyncio.StreamWriter, ...]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _reserved: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    """Keeps the port while the gate is shut: it refuses connections, and nobody else gets the port."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen, always on the same port."""
        if not self.port:
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind(("127.0.0.1", 0))
            self.port = self._reserved.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def shut(self) -> None:
        """Reset all connections and accept no more."""
        assert self._server is not None
        self.held = False
        self._server.close()
        for pair in tuple(self._open):
            self._reset(pair)
        await self._server.wait_closed()

    def close(self) -> None:
        """Give the port back."""
        self._reserved.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reader_behind, writer_behind = await asyncio.open_connection(self.host, self.behind)
        except OSError:
            writer.close()
            return
        pair = writer, writer_behind
        self._open.add(pair)
        await asyncio.gather(self._pass(reader, writer_behind, pair), self._pass(reader_behind, writer, pair))
        self._open.discard(pair)

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        try:
            while data := await source.read(65536):
                while self.held:
                    await asyncio.sleep(0.02)
                if source.exception() is not None:
                    return None  # the sender has reset the connection: what the network still held is lost
                if self.lose and sink is pair[0]:
                    self.lose -= 1
                    return self._reset(pair)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    def _reset(self, pair: tuple[asyncio.StreamWriter, ...]) -> None:
        for writer in pair:
            with suppress(OSError, AttributeError):  # it is closed already
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@asynccontextmanager
async def gate(port: int, host: str = "127.0.0.1") -> AsyncIterator[Gate]:
    """An open gate before this port; it is shut at the end."""
    front = Gate(behind=port, host=host)
    await front.open()
    try:
        yield front
    finally:
        await front.shut()
        front.close()
