"""A small HTTP server that answers as no stackd should, or as a stackd in trouble does."""

from __future__ import annotations

import asyncio
import contextlib
import json

from stackd.codes import ErrorCode

CODES = {code.status: code for code in (*ErrorCode, ErrorCode.LABEL_LIMIT_REACHED, ErrorCode.NO_ROOM)}
RUBBISH = {
    "page": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    "list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "noise": b"\x00\xff\x16\x03 nonsense\r\n\r\n",
    "short": b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{",
    "closed": b"",
}
BEHAVIOURS = {"hang", "trickle", "401", "503", *RUBBISH}


class Misbehaving(contextlib.AbstractAsyncContextManager["Misbehaving"]):
    """``behaviour`` is one of ``BEHAVIOURS`` or an error status, and may be changed at any time."""

    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.requests: list[str] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Misbehaving:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.split(b"\r\n")[0].decode())
            if self.behaviour == "hang":
                await reader.read()
            elif self.behaviour == "trickle":
                for byte in b"HTTP/1.1 200 OK\r\nX-Never: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(0.2)
            else:
                writer.write(RUBBISH[self.behaviour] if self.behaviour in RUBBISH else self._refusal())
                await writer.drain()
        writer.close()
        self._writers.discard(writer)

    def _refusal(self) -> bytes:
        code = CODES[int(self.behaviour)]
        error = {"error": "label player=x has 1 of 1 stacks (limits.stacks_per_label)", "code": code}
        body = json.dumps(error | {"player_message": code.players}).encode()
        head = f"HTTP/1.1 {self.behaviour} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Retry-After: 30\r\n\r\n" + body
