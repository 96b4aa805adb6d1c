"""The load, as a process of its own: a plan on standard input, the result on standard output, both JSON.

A plan: ``url``, ``key``, ``method``, ``paths`` (taken in turn), ``body``, ``connections``, and how long: ``count``
requests, or ``seconds``. With ``rate``, requests begin at fixed times, even if earlier ones have no answer yet, and
latencies count from these times. With ``cpu_of``, a process id, the result has the CPU seconds that this process used
between the first request and the last answer. With ``keep``, it has the bodies of the answers.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import uvloop

from benchmarks.http1 import HttpConnection, request
from benchmarks.machine import Busy


class Load:
    """Carries out one plan."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._bodies: list[str] = []
        body = plan.get("body", "").encode()
        ready = [request(plan["url"], plan.get("method", "GET"), path, plan["key"], body) for path in plan["paths"]]
        self._requests = itertools.cycle(ready)
        self._left = plan.get("count", sys.maxsize)
        self._end = time.perf_counter() + plan["seconds"] if "seconds" in plan else float("inf")

    async def run(self) -> dict[str, Any]:
        """Send all requests; returns the result."""
        connections = [await HttpConnection.open(self._plan["url"]) for _ in range(self._plan["connections"])]
        pid = self._plan.get("cpu_of")
        used, began, busy = _cpu_seconds(pid), time.perf_counter(), Busy.now()
        if rate := self._plan.get("rate"):
            await self._paced(connections, rate)
        else:
            await asyncio.gather(*(self._closed_loop(connection) for connection in connections))
        seconds, busy = time.perf_counter() - began, Busy.now() - busy
        used = _cpu_seconds(pid) - used
        for connection in connections:
            connection.close()
        return {
            "seconds": seconds,
            "cpu": used,
            "machine": asdict(busy),
            "latencies": self._latencies,
            "statuses": {str(status): count for status, count in self._statuses.items()},
            "bodies": self._bodies,
        }

    async def _closed_loop(self, connection: HttpConnection) -> None:
        while self._left > 0 and time.perf_counter() < self._end:
            self._left -= 1
            await self._one(connection, time.perf_counter())

    async def _paced(self, connections: list[HttpConnection], rate: float) -> None:
        free: asyncio.Queue[HttpConnection] = asyncio.Queue()
        for connection in connections:
            free.put_nowait(connection)
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while self._left > 0 and due < self._end:
                self._left -= 1
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._borrowed(free, due))
                due += 1 / rate

    async def _borrowed(self, free: asyncio.Queue[HttpConnection], due: float) -> None:
        connection = await free.get()
        await self._one(connection, due)
        free.put_nowait(connection)

    async def _one(self, connection: HttpConnection, began: float) -> None:
        status, body = await connection.ask(next(self._requests))
        self._latencies.append(time.perf_counter() - began)
        self._statuses[status] += 1
        if self._plan.get("keep"):
            self._bodies.append(body.decode(errors="replace"))


def _cpu_seconds(pid: int | None) -> float:
    """CPU seconds of all threads of a process so far, exact to the nanosecond; 0 without a process."""
    if pid is None:
        return 0.0
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def main() -> None:
    """Read the plan, carry it out, write the result."""
    plan = orjson.loads(sys.stdin.buffer.read())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(orjson.dumps(runner.run(Load(plan).run())))


if __name__ == "__main__":
    main()
