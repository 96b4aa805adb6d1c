"""A plain HTTP client for the embedded cluster, and objects to send to it."""

from __future__ import annotations

import asyncio
import heapq
import io
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.embedded.store import LoopClock

DEADLINE = 30.0
Json = dict[str, Any]


class ManualClock(LoopClock):
    """A clock that moves only by `advance`. Zero delays still go to the event loop, so that responses come first."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        return self._now

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        if seconds > 0:
            heapq.heappush(self._due, (self._now + seconds, next(self._order), action))
        else:
            asyncio.get_running_loop().call_soon(action)

    def advance(self, seconds: float) -> None:
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            self._now, _, action = heapq.heappop(self._due)
            action()
        self._now = end


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    @property
    def message(self) -> str:
        message: str = self.body["message"]
        return message


class Wire:
    """Sends requests to one cluster with one `token`."""

    def __init__(self, cluster: EmbeddedCluster, session: aiohttp.ClientSession, token: str | None = None) -> None:
        self.cluster = cluster
        self.session = session
        self.token = token

    def as_user(self, token: str) -> Wire:
        return Wire(self.cluster, self.session, token)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json") -> Answer:
        data = None if body is None else io.BytesIO(json.dumps(body).encode())
        headers = self.headers() | ({"Content-Type": kind} if data else {})
        async with self.session.request(method, self.cluster.url + path, data=data, headers=headers) as answer:
            raw = await answer.read()
            is_json = answer.content_type == "application/json"
            return Answer(answer.status, json.loads(raw) if is_json else raw.decode(), dict(answer.headers))

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def post(self, path: str, body: Any) -> Answer:
        return await self.call("POST", path, body)

    async def delete(self, path: str, body: Any = None) -> Answer:
        return await self.call("DELETE", path, body)

    async def patch(self, path: str, body: Any) -> Answer:
        return await self.call("PATCH", path, body, kind="application/merge-patch+json")

    async def watch_all(self, path: str) -> list[Json]:
        """All events of a watch that ends by itself."""
        async with self.session.get(self.cluster.url + path, headers=self.headers()) as answer:
            return [json.loads(line) async for line in answer.content]

    @asynccontextmanager
    async def watching(self, path: str) -> AsyncIterator[Watched]:
        """A watch that is open within this block."""
        async with self.session.get(self.cluster.url + path, headers=self.headers()) as answer:
            yield Watched(answer)

    async def make_pod(self, name: str = "one", image: str = "nginx:stable", **more: Any) -> Json:
        answer = await self.post("/api/v1/namespaces/rec/pods", pod(name, image, **more))
        assert answer.status == 201, answer.body
        body: Json = answer.body
        return body

    async def make_service(self, name: str = "svc-one", **more: Any) -> Json:
        answer = await self.post("/api/v1/namespaces/rec/services", service(name, **more))
        assert answer.status == 201, answer.body
        body: Json = answer.body
        return body

    async def pod(self, name: str = "one") -> Json:
        answer = await self.get(f"/api/v1/namespaces/rec/pods/{name}")
        body: Json = answer.body
        return body

    async def until_pod(self, name: str, wanted: Callable[[Json], object]) -> Json:
        """Return the pod as soon as it satisfies the condition."""
        async with asyncio.timeout(DEADLINE):
            while True:
                body = await self.pod(name)
                if body["kind"] == "Pod" and wanted(body):
                    return body
                await asyncio.sleep(0.005)

    async def until_gone(self, path: str) -> None:
        await until(lambda: self._is_gone(path))

    async def _is_gone(self, path: str) -> bool:
        return (await self.get(path)).status == 404


class Watched:
    """The lines of an open watch."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def line(self) -> bytes:
        async with asyncio.timeout(DEADLINE):
            return await self.answer.content.readline()

    async def next(self) -> Json:
        event: Json = json.loads(await self.line())
        return event


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once the condition holds; fail after a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(options: EmbeddedOptions) -> AsyncIterator[Wire]:
    """A running cluster with the namespace `rec`; the first user sends the requests, if there are users."""
    async with EmbeddedCluster(options) as cluster, aiohttp.ClientSession() as session:
        wire = Wire(cluster, session, options.users[0].token if options.users else None)
        await wire.post("/api/v1/namespaces", {"metadata": {"name": "rec"}})
        yield wire


def fast(**options: Any) -> EmbeddedOptions:
    """Options for a cluster with short delays."""
    quick = {
        "start_delay": 0.0,
        "run_time": 0.01,
        "stop_delay": 0.0,
        "backoff": 0.02,
        "gc_delay": 0.02,
        "pod_gc_delay": 0.05,
        "serve_node_ports": False,
    }
    return EmbeddedOptions(**(quick | options))


def pod(name: str, image: str = "nginx:stable", *, labels: Json | None = None, **spec: Any) -> Json:
    resources = spec.pop("resources", {"limits": {"cpu": "100m", "memory": "64Mi"}})
    container = {"name": "app", "image": image, "ports": [{"containerPort": 80}], "resources": resources}
    container |= spec.pop("container", {})
    whole = {"restartPolicy": "Never", "containers": [container]} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": whole}


def service(name: str, *, node_port: int = 0, owner: Json | None = None, **spec: Any) -> Json:
    port: Json = {"name": "p", "port": 80, "protocol": spec.pop("protocol", "TCP")}
    if node_port:
        port["nodePort"] = node_port
    metadata: Json = {"name": name}
    if owner is not None:
        reference = {"apiVersion": "v1", "kind": "Pod", "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [reference | {"uid": owner["metadata"]["uid"]}]
    whole = {"type": "NodePort", "selector": {"stack": name}, "ports": [port]} | spec
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": whole}


def condition(body: Json, kind: str) -> Json:
    """The condition of that type, or an empty dict."""
    conditions = body["status"].get("conditions", ())
    found: Json = next((one for one in conditions if one["type"] == kind), {})
    return found
