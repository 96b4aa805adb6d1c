"""Connections on which tests write bytes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import chain

from tests.harness import Harness


@asynccontextmanager
async def connected(at: Harness) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Everything that is sent until the other side closes; a cut connection counts as closed."""
    received = b""
    try:
        async with asyncio.timeout(30):
            while chunk := await reader.read(65536):
                received += chunk
    except ConnectionResetError:
        pass
    return received


async def say(at: Harness, raw: bytes) -> bytes:
    """All responses to these bytes; nothing more is sent, and the server does not wait for ever."""
    async with connected(at) as (reader, writer):
        writer.write(raw)
        return await everything(reader)


@asynccontextmanager
async def saying(*replies: bytes, more: Iterable[bytes] = ()) -> AsyncIterator[str]:
    """The address of a server that gives one of these answers to each request, then ``more``, and closes its connection."""
    left = chain(replies, more)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(
            int(head.partition(b"content-length:")[2].split()[0]) if b"content-length:" in head else 0
        )
        writer.write(next(left))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
