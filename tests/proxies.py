"""A forward proxy: it answers CONNECT with a tunnel to one place, whatever name it is asked for, or refuses."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Proxy:
    """``asked`` are the CONNECTs, each with the user and password that came with it."""

    to: int
    port: int = 0
    refuses: int = 0
    silent: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    tunnels: list[asyncio.StreamWriter] = field(default_factory=list)

    def url(self, user: str = "") -> str:
        return f"http://{user}{'@' if user else ''}127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut every tunnel."""
        for each in self.tunnels:
            each.transport.abort()
        self.tunnels.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head[0].split()
            assert method == "CONNECT", head
            _, _, secret = next((one for one in head if one.startswith("Proxy-Authorization")), "").rpartition(" ")
            self.asked.append((target, base64.b64decode(secret).decode()))
            if self.silent:
                await reader.read()
                return
            if self.refuses:
                writer.write(f"HTTP/1.1 {self.refuses} No\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
            self.tunnels += [writer, back]
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.closing(back):
                await asyncio.gather(_pipe(reader, back), _pipe(there, writer))


async def _pipe(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            to.write(data)
            await to.drain()
    to.close()


@asynccontextmanager
async def proxy(to: int) -> AsyncIterator[Proxy]:
    """A proxy whose tunnels lead to this port."""
    one = Proxy(to=to)
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.port = server.sockets[0].getsockname()[1]
    try:
        yield one
    finally:
        one.cut()
        server.close()
