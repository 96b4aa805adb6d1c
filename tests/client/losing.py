"""A proxy before the daemon that loses responses: the request is carried out, but its client does not learn of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Proxy:
    """``lose``: how many of the next responses are lost; ``requests``: those that have arrived."""

    behind: int
    port: int = 0
    lose: int = 0
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        lines = head.decode().split("\r\n")
        self.requests.append(lines[0].rpartition(" ")[0])
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.behind)
        to_upstream.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        answer = await upstream.read()
        to_upstream.close()
        if self.lose:
            self.lose -= 1
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def losing(behind: int) -> AsyncIterator[Proxy]:
    """A proxy before this port."""
    proxy = Proxy(behind=behind)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
