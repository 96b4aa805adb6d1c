"""The load, as a process of its own: a plan on standard input, the result on standard output, both JSON.

A plan: ``url``, ``key``, ``method``, ``paths`` (taken in turn), ``body``, ``connections``, and how long: ``count``
requests, or ``seconds``. With ``rate``, requests begin at fixed times, even if earlier ones have no answer yet, and
latencies count from these times. With ``cpu_of``, a process id, the result has the CPU seconds that this process used
between the first request and the last answer. With ``keep``, it has the bodies of the answers.

It speaks as little HTTP/1.1 as that needs: ready bytes out, answers framed by Content-Length or chunks. The work per
answer is so small that the loader is never the limit.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
import uvloop

from benchmarks.processes import cpu_seconds


class HttpConnection(asyncio.Protocol):
    """One kept-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._body_at = self._expected = -1
        self.transport: asyncio.Transport
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, url: str) -> HttpConnection:
        where, loop = urlsplit(url), asyncio.get_running_loop()
        return (await loop.create_connection(cls, where.hostname or "", where.port or 80))[1]

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns status and body of the answer. Raises ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(exc or "closed by the other side")))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_at < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head, self._body_at = bytes(self._buffer[:end]).lower(), end + 4
            at = head.find(b"content-length: ")
            chunked = at < 0 and b"transfer-encoding: chunked" in head
            length = int(head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
            self._expected = -1 if chunked else self._body_at + length
        if len(self._buffer) < self._expected or (self._expected < 0 and not self._buffer.endswith(b"0\r\n\r\n")):
            return
        status, body = int(self._buffer[9:12]), bytes(self._buffer[self._body_at :])
        self._buffer.clear()
        self._body_at = -1
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))


def request(url: str, method: str, path: str, key: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"X-API-KEY: {key}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._bodies: list[str] = []
        body = plan.get("body", "").encode()
        ready = [request(plan["url"], plan["method"], path, plan["key"], body) for path in plan["paths"]]
        self._requests = itertools.cycle(ready)
        self._remaining = plan.get("count", sys.maxsize)
        self._end = float("inf")

    async def run(self) -> dict[str, Any]:
        connections = [await HttpConnection.open(self._plan["url"]) for _ in range(self._plan["connections"])]
        pid = self._plan.get("cpu_of")
        used, began = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
        self._end = began + self._plan.get("seconds", float("inf"))
        if rate := self._plan.get("rate"):
            await self._paced(connections, rate)
        else:
            await asyncio.gather(*(self._closed_loop(connection) for connection in connections))
        done = {"seconds": time.perf_counter() - began, "cpu": cpu_seconds(pid) - used if pid else 0.0}
        for connection in connections:
            connection.transport.close()
        statuses = {str(status): count for status, count in self._statuses.items()}
        return done | {"latencies": self._latencies, "statuses": statuses, "bodies": self._bodies}

    async def _closed_loop(self, connection: HttpConnection) -> None:
        while self._remaining > 0 and time.perf_counter() < self._end:
            self._remaining -= 1
            await self._one(connection, time.perf_counter())

    async def _paced(self, connections: list[HttpConnection], rate: float) -> None:
        free: asyncio.Queue[HttpConnection] = asyncio.Queue()
        for connection in connections:
            free.put_nowait(connection)

        async def borrowed(due: float) -> None:
            connection = await free.get()
            await self._one(connection, due)
            free.put_nowait(connection)

        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while self._remaining > 0 and due < self._end:
                self._remaining -= 1
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(borrowed(due))
                due += 1 / rate

    async def _one(self, connection: HttpConnection, began: float) -> None:
        status, body = await connection.ask(next(self._requests))
        self._latencies.append(time.perf_counter() - began)
        self._statuses[status] += 1
        if self._plan.get("keep"):
            self._bodies.append(body.decode(errors="replace"))


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(uvloop.run(Load(orjson.loads(sys.stdin.buffer.read())).run())))
