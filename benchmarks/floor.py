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
from typing import Any

import aiohttp
import uvloop
from msgspec import json

from stackd.kube.credentials import Access, ClusterTarget
from stackd.kube.manifests import pod_manifest, service_manifest
from stackd.model import PortMapping, Stack, StackStatus, TargetPort
from stackd.podspec import Policy, harden, sanitize
from stackd.web.examples import POD_SPEC

INSTANCE = "bench-floor"
PORTS = range(30000, 31000)
SETTLE_SECONDS = 60.0
SPEC = sanitize(POD_SPEC, (TargetPort(container_port=80, protocol="TCP"),), Policy())
MANIFEST = harden(SPEC.manifest, Policy())


def manifests(name: str, namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod and the service that stackd would send for the same stack; the node port is to be replaced."""
    stack = Stack(
        stack_id=name,
        namespace=namespace,
        pod_spec=SPEC.text,
        ports=(PortMapping(container_port=80, protocol="TCP", node_port=PORTS[0]),),
        status=StackStatus.CREATING,
        created_at=1_800_000_000_123_456_789,
        updated_at=1_800_000_000_123_456_789,
        ttl_expires_at=1_800_007_200_123_456_789,
        requested_cpu_milli=SPEC.requested_cpu_milli,
        requested_memory_bytes=SPEC.requested_memory_bytes,
    )
    pod = pod_manifest(stack, MANIFEST, instance=INSTANCE, node_selector={"role": "stack"})
    return pod, service_manifest(stack, INSTANCE)


class Raw:
    def __init__(
        self, session: aiohttp.ClientSession, access: Access, headers: dict[str, str], plan: dict[str, Any]
    ) -> None:
        self._session = session
        self._headers = headers
        self._namespace: str = plan["namespace"]
        self._base = f"{access.base_url}/api/v1/namespaces/{self._namespace}"
        self._waiting: dict[str, tuple[asyncio.Future[None], asyncio.Future[None]]] = {}
        self._ports = (PORTS[number % len(PORTS)] for number in itertools.count(plan["first_port"]))

    async def warm_up(self) -> None:
        """Open a connection, because stackd has open ones, too."""
        async with self._session.get(f"{self._base}/pods", params={"limit": "1"}, headers=self._headers) as response:
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
                    self._seen(json.decode(line)["object"])

    def _seen(self, pod: dict[str, Any]) -> None:
        reached = (bool(pod["spec"].get("nodeName")), pod["status"].get("phase") == "Running")
        for waiting, there in zip(self._waiting.get(pod["metadata"]["name"], ()), reached, strict=False):
            if there and not waiting.done():
                waiting.set_result(None)

    async def settle(self) -> None:
        """Return when all created pods run, so that the cluster is not busy with them in the next measurement."""
        async with asyncio.timeout(SETTLE_SECONDS):
            await asyncio.gather(*(running for _, running in self._waiting.values()))

    async def runs(self, name: str, began: float) -> float:
        """Wait until the pod runs; returns the seconds since then."""
        await self._waiting[name][1]
        return time.perf_counter() - began

    async def create(self) -> str:
        """Create one pod and its service, and wait until the pod is scheduled."""
        name = f"floor-{secrets.token_hex(8)}"
        pod, service = manifests(name, self._namespace)
        loop = asyncio.get_running_loop()
        self._waiting[name] = loop.create_future(), loop.create_future()
        await self._send("POST", "/pods", pod)
        for _ in PORTS:
            service["spec"]["ports"][0]["nodePort"] = next(self._ports)
            if (await self._send("POST", "/services", service, refused_by="already allocated")).get(
                "kind"
            ) == "Service":
                break
        await self._waiting[name][0]
        return name

    async def delete(self, name: str) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        await self._send("DELETE", f"/services/svc-{name}", options)
        await self._send("DELETE", f"/pods/{name}", options | {"gracePeriodSeconds": 0})

    async def _send(self, method: str, path: str, body: dict[str, Any], *, refused_by: str = "") -> dict[str, Any]:
        headers = {**self._headers, "Content-Type": "application/json"}
        request = self._session.request(method, self._base + path, data=json.encode(body), headers=headers)
        async with request as response:
            answer: dict[str, Any] = json.decode(await response.read())
            if response.status >= 300 and not (refused_by and refused_by in answer.get("message", "")):
                raise RuntimeError(f"{method} {path}: {response.status} {answer.get('message')}")
            return answer


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    access = await Access.open(ClusterTarget(kubeconfig=plan["kubeconfig"]))
    try:
        with access.borrowed() as session:
            raw = Raw(session, access, await access.headers(), plan)
            return await (_create(raw, plan) if plan["do"] == "create" else _delete(raw, plan["names"]))
    finally:
        await access.close()


async def _create(raw: Raw, plan: dict[str, Any]) -> dict[str, Any]:
    await asyncio.gather(*(raw.warm_up() for _ in range(plan["concurrency"])))
    ready = asyncio.Event()
    watching = asyncio.create_task(raw.watch(ready))
    await ready.wait()
    latencies: list[float] = []
    running: list[asyncio.Task[float]] = []
    names: list[str] = []
    numbers = itertools.count()

    async def some() -> None:
        while (number := next(numbers)) < plan["count"]:
            began = time.perf_counter()
            if rate := plan.get("rate"):
                began = start + number / rate
                await asyncio.sleep(max(0.0, began - time.perf_counter()))
            name = await raw.create()
            latencies.append(time.perf_counter() - began)
            names.append(name)
            running.append(asyncio.create_task(raw.runs(name, began)))

    cpu, start = time.process_time(), time.perf_counter()
    work = asyncio.gather(*(some() for _ in range(plan["concurrency"])))
    both: set[asyncio.Future[Any]] = {work, watching}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        raise RuntimeError("the watch has ended") from watching.exception()
    await work
    seconds = time.perf_counter() - start
    await raw.settle()
    watching.cancel()
    took = await asyncio.gather(*running)
    return {
        "seconds": seconds, "cpu": time.process_time() - cpu, "latencies": latencies, "ready": took, "names": names
    }  # fmt: skip


async def _delete(raw: Raw, names: list[str]) -> dict[str, Any]:
    cpu, began = time.process_time(), time.perf_counter()
    for name in names:
        await raw.delete(name)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


if __name__ == "__main__":
    sys.stdout.buffer.write(json.encode(uvloop.run(run(json.decode(sys.stdin.buffer.read())))))
