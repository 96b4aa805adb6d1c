"""A client of the daemon, and a client of its own for the same cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import aiohttp

from stackd.kube.client import Cluster
from tests.harness import seed

KEY = "sk-cluster-0123456789abcdef0123456789"
DEADLINE = 120.0
AT_ONCE = 20


@dataclass(slots=True, kw_only=True)
class Real:
    """The daemon under test and its cluster, seen from outside of the daemon."""

    session: aiohttp.ClientSession
    url: str
    outside: Cluster

    lost: ClassVar = (aiohttp.ClientError, OSError, TimeoutError)
    """What a request raises when no response comes."""

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the response to one request."""
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.url + path, data=data, headers={"X-API-KEY": KEY}) as answer:
            return answer.status, await answer.json()

    async def stacks(self) -> list[dict[str, Any]]:
        """All stacks as the list returns them."""
        status, answer = await self.call("GET", "/stacks")
        assert status == 200, answer
        stacks: list[dict[str, Any]] = answer["stacks"]
        return stacks

    async def create(self, count: int, **more: object) -> list[dict[str, Any]]:
        """Create ``count`` stacks, up to twenty at once."""
        stacks: list[dict[str, Any]] = []
        while (left := count - len(stacks)) > 0:
            asked = (self.call("POST", "/stacks", seed() | more) for _ in range(min(AT_ONCE, left)))
            answers = await asyncio.gather(*asked)
            assert {status for status, _ in answers} == {201}, answers
            stacks += [stack for _, stack in answers]
        return stacks

    async def finished(self, job_id: str) -> dict[str, Any]:
        """The job once it has finished."""
        job: dict[str, Any] = {}

        async def at_its_end() -> bool:
            job.update((await self.call("GET", f"/stacks/batch-delete/{job_id}"))[1])
            return job["status"] in ("completed", "failed")

        await self.until(at_its_end, "the job's end")
        return job

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        (value,) = (line.rsplit(" ", 1)[1] for line in await self._metrics() if line.startswith(f"{name} "))
        return float(value)

    async def requests(self) -> dict[str, str]:
        """How often the daemon has sent each kind of request to the cluster, without watches and the Lease."""
        lines = await self._metrics()
        counted = (line.rsplit(" ", 1) for line in lines if line.startswith("stackd_kubernetes_requests_total{"))
        return {
            what: count for what, count in counted if 'verb="watch"' not in what and 'resource="leases"' not in what
        }

    async def _metrics(self) -> list[str]:
        async with self.session.get(f"{self.url}/metrics", headers={"X-API-KEY": KEY}) as answer:
            return (await answer.text()).splitlines()

    async def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects of the test's stackd, as the API server has them."""
        return {raw["metadata"]["name"]: raw for raw in await self.outside.list_raw(kind)}

    async def until(self, check: Callable[[], Awaitable[bool]], what: str) -> None:
        """Return when ``check`` returns true."""
        end = time.monotonic() + DEADLINE
        while not await check():
            assert time.monotonic() < end, f"{what} did not come true within {DEADLINE:g} s"
            await asyncio.sleep(0.1)

    async def remove_everything(self) -> None:
        """Delete all objects that the test has left in the cluster, but not the namespace."""
        for name in await self.objects("pods"):
            await self.outside.delete_pod(name)
        for name in await self.objects("services"):
            await self.outside.delete_service(name)
        for name in await self.objects("configmaps"):
            await self.outside.delete_config_map(name)
