"""A plain HTTP client for the embedded cluster, and objects to send to it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from tests.harness import DEADLINE, until

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Any


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
            return Answer(answer.status, json.loads(raw) if is_json else raw.decode())

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

    async def pod(self, name: str = "one") -> Json:
        answer = await self.get(f"/api/v1/namespaces/rec/pods/{name}")
        body: Json = answer.body
        return body

    async def until_gone(self, path: str) -> None:
        await until(lambda: self.get(path), lambda answer: answer.status == 404)


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
