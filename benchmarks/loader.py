"""The load, as a process of its own: a plan on standard input, the result on standard output, both JSON.

A plan: ``url``, ``key``, ``method``, ``paths`` (taken in turn), ``body``, ``connections``, and how long: ``count``
requests, or ``seconds``. With ``rate``, requests begin at fixed times, even if earlier ones have no answer yet, and
latencies count from these times. With ``cpu_of``, a process id, the result has the CPU seconds that this process used
between the first request and the last answer. With ``keep``, it has the bodies of the answers. With ``wait``, the seconds
until each created stack ran are in ``ready``, counted as the latencies are.

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

import uvloop
from msgspec import json

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


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    connections = [await HttpConnection.open(plan["url"]) for _ in range(plan["connections"])]
    body, pid = plan.get("body", "").encode(), plan.get("cpu_of")
    requests = itertools.cycle(
        [request(plan["url"], plan["method"], path, plan["key"], body) for path in plan["paths"]]
    )
    latencies, ready, bodies = list[float](), list[float](), list[str]()
    statuses: Counter[str] = Counter()
    used, began = cpu_seconds(pid) if pid else 0.0, time.perf_counter()
    end, count, rate = began + plan.get("seconds", float("inf")), plan.get("count", sys.maxsize), plan.get("rate")
    numbers = iter(range(count))

    async def client(connection: HttpConnection) -> None:
        """Send requests until the end, each at its time: at once, or by the rate and the request's number."""
        for number in numbers:
            due = began + number / rate if rate else time.perf_counter()
            if due >= end:
                return
            if rate:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, answer = await connection.ask(next(requests))
            latencies.append(time.perf_counter() - due)
            statuses[str(status)] += 1
            if plan.get("keep"):
                bodies.append(answer.decode(errors="replace"))
            if plan.get("wait"):
                path = f"/stacks/{json.decode(answer)['stack_id']}/status?wait=running"
                await connection.ask(request(plan["url"], "GET", path, plan["key"]))
                ready.append(time.perf_counter() - due)

    await asyncio.gather(*map(client, connections))
    done = {"seconds": time.perf_counter() - began, "cpu": cpu_seconds(pid) - used if pid else 0.0}
    for connection in connections:
        connection.transport.close()
    return done | {"latencies": latencies, "ready": ready, "statuses": statuses, "bodies": bodies}


if __name__ == "__main__":
    sys.stdout.buffer.write(json.encode(uvloop.run(run(json.decode(sys.stdin.buffer.read())))))
