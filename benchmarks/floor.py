"""The floor of writes: the time of the API server itself, measured with the simplest client for the same work.

Same pool, same credentials, same bodies as stackd's; no row, no retry, no status. It is a process of its own: a plan on
standard input, the result on standard output, both JSON. ``do`` is ``create`` (POST pod, POST service, and one watch to
see the pod scheduled) or ``delete`` (DELETE service, DELETE pod, one after the other).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import sys
import time
from dataclasses import asdict
from typing import Any

import aiohttp
import orjson
import uvloop

from benchmarks.machine import Busy
from benchmarks.orders import floor_manifests
from stackd.kube.access import Access
from stackd.kube.credentials import ClusterTarget

INSTANCE = "bench-floor"
PORTS = range(30000, 31000)
SETTLE_SECONDS = 60.0


class Raw:
    """One raw client."""

    def __init__(
        self, session: aiohttp.ClientSession, server: str, headers: dict[str, str], plan: dict[str, Any]
    ) -> None:
        self._session = session
        self._headers = headers
        self._json = {**headers, "Content-Type": "application/json"}
        self._namespace: str = plan["namespace"]
        self._base = f"{server}/api/v1/namespaces/{self._namespace}"
        self._scheduled: dict[str, asyncio.Future[None]] = {}
        self._running: dict[str, asyncio.Future[None]] = {}
        self._ports = (PORTS[number % len(PORTS)] for number in itertools.count(plan["first_port"]))

    async def warm_up(self) -> None:
        """Open a connection, because stackd has open ones, too."""
        url, params = f"{self._base}/pods", {"limit": "1"}
        async with self._session.get(url, params=params, headers=self._headers) as response:
            await response.read()

    async def watch(self, ready: asyncio.Event) -> None:
        """Follow our pods; wake the tasks that wait for one to be scheduled or to run."""
        params = {"labelSelector": f"stackd.io/instance={INSTANCE}", "watch": "true"}
        url, timeout = f"{self._base}/pods", aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, params=params, headers=self._headers, timeout=timeout) as response:
            response.raise_for_status()
            ready.set()
            rest = b""
            while chunk := await response.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._seen(orjson.loads(line)["object"])

    def _seen(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        if pod["spec"].get("nodeName"):
            _resolve(self._scheduled.get(name))
        if pod["status"].get("phase") == "Running":
            _resolve(self._running.get(name))

    async def settled(self) -> None:
        """Return when all created pods run, so that the cluster is not busy with them in the next measurement."""
        await asyncio.gather(*self._running.values())

    async def create(self) -> str:
        """Create one pod and its service, and wait until the pod is scheduled."""
        name = f"floor-{secrets.token_hex(8)}"
        pod, service = floor_manifests(name, self._namespace, INSTANCE)
        loop = asyncio.get_running_loop()
        self._scheduled[name], self._running[name] = loop.create_future(), loop.create_future()
        made = await self._send("POST", "/pods", pod)
        service["metadata"]["ownerReferences"][0]["uid"] = made["metadata"]["uid"]
        for _ in range(1000):
            service["spec"]["ports"][0]["nodePort"] = next(self._ports)
            if (await self._send("POST", "/services", service, may_fail=True)).get("kind") == "Service":
                break
        await self._scheduled[name]
        del self._scheduled[name]
        return name

    async def delete(self, name: str) -> None:
        """Delete the service, then the pod."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        await self._send("DELETE", f"/services/svc-{name}", options)
        await self._send("DELETE", f"/pods/{name}", options | {"gracePeriodSeconds": 0})

    async def _send(self, method: str, path: str, body: dict[str, Any], *, may_fail: bool = False) -> dict[str, Any]:
        session = self._session
        async with session.request(method, self._base + path, data=orjson.dumps(body), headers=self._json) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            if response.status >= 300 and not may_fail:
                raise RuntimeError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer


def _resolve(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """Carry out the plan; returns the result."""
    access = await Access.open(ClusterTarget(mode="kubeconfig", kubeconfig=plan["kubeconfig"]))
    try:
        with access.borrowed() as session:
            raw = Raw(session, access.base_url, await access.headers(), plan)
            return await (_create(raw, plan) if plan["do"] == "create" else _delete(raw, plan))
    finally:
        await access.close()


async def _create(raw: Raw, plan: dict[str, Any]) -> dict[str, Any]:
    await asyncio.gather(*(raw.warm_up() for _ in range(plan["concurrency"])))
    ready = asyncio.Event()
    watching = asyncio.create_task(raw.watch(ready))
    await ready.wait()
    latencies: list[float] = []
    names: list[str] = []
    left = itertools.count()

    async def some() -> None:
        while (number := next(left)) < plan["count"]:
            if rate := plan.get("rate"):
                await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            began = time.perf_counter()
            names.append(await raw.create())
            latencies.append(time.perf_counter() - began)

    async def turn() -> tuple[float, float, Busy]:
        await asyncio.gather(*(some() for _ in range(plan["concurrency"])))
        seconds, busy = time.perf_counter() - start, Busy.now() - before
        async with asyncio.timeout(SETTLE_SECONDS):
            await raw.settled()
        return seconds, time.process_time() - cpu, busy

    cpu, before, start = time.process_time(), Busy.now(), time.perf_counter()
    creating = asyncio.create_task(turn())
    both: set[asyncio.Future[Any]] = {creating, watching}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        raise RuntimeError("the watch has ended") from watching.exception()
    seconds, cpu, busy = await creating
    watching.cancel()
    return {"seconds": seconds, "cpu": cpu, "machine": asdict(busy), "latencies": latencies, "names": names}


async def _delete(raw: Raw, plan: dict[str, Any]) -> dict[str, Any]:
    latencies: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    for name in plan["names"]:
        start = time.perf_counter()
        await raw.delete(name)
        latencies.append(time.perf_counter() - start)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "latencies": latencies}


def main() -> None:
    """Read the plan, carry it out, write the result."""
    plan = orjson.loads(sys.stdin.buffer.read())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(orjson.dumps(runner.run(run(plan))))


if __name__ == "__main__":
    main()
