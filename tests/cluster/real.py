"""A client of the daemon, and a second way to the same cluster."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from stackd.kube.client import Cluster

KEY = "sk-cluster-0123456789abcdef0123456789"
DEADLINE = 90.0


@dataclass(slots=True, kw_only=True)
class Real:
    """The daemon under test and its cluster, looked at from outside of the daemon."""

    session: aiohttp.ClientSession
    url: str
    outside: Cluster

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request."""
        data = None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.url + path, data=data, headers={"X-API-KEY": KEY}) as answer:
            return answer.status, await answer.json()

    async def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """Our objects as the API server has them."""
        return {raw["metadata"]["name"]: raw async for raw in self.outside.list_raw(kind)}

    async def until(self, check: Callable[[], Awaitable[bool]], what: str) -> None:
        """Return when it is so."""
        end = time.monotonic() + DEADLINE
        while not await check():
            assert time.monotonic() < end, f"{what} did not come true within {DEADLINE:g} s"
            await asyncio.sleep(0.1)

    async def remove_everything(self) -> None:
        """Leave the cluster as it was found, but for the namespace."""
        for name in await self.objects("pods"):
            await self.outside.delete_pod(name)
        for name in await self.objects("services"):
            await self.outside.delete_service(name)
