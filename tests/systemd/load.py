"""Clients that read, create and delete all the time, and what they saw."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.harness import seed
from tests.systemd.service import Service

READERS = 12
CREATORS = 3


@dataclass(slots=True)
class Load:
    """What the clients saw: responses by method and status, failures as texts, and the longest wait in seconds."""

    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    over: bool = False


async def under_load(service: Service, meanwhile: Awaitable[None]) -> Load:
    """Keep the clients busy until ``meanwhile`` is done."""
    load = Load()
    first = await service.create()
    url = f"http://127.0.0.1:{service.api_port}"
    async with aiohttp.ClientSession(headers={"X-API-KEY": service.key}) as session, asyncio.TaskGroup() as group:
        for number in range(READERS):
            fresh = number % 3 == 0
            path = f"{url}/stacks/{first['stack_id']}/status"
            group.create_task(_read(load, session, path, fresh=fresh))
        for _ in range(CREATORS):
            group.create_task(_create_and_delete(load, session, url))
        await asyncio.sleep(0.3)
        try:
            await meanwhile
            await asyncio.sleep(0.3)
        finally:
            load.over = True
    return load


async def _read(load: Load, session: aiohttp.ClientSession, path: str, *, fresh: bool) -> None:
    headers = {"Connection": "close"} if fresh else {}
    while not load.over:
        await _ask(load, session, "GET", path, headers=headers)
        await asyncio.sleep(0.005)


async def _create_and_delete(load: Load, session: aiohttp.ClientSession, url: str) -> None:
    body = json.dumps(seed()).encode()
    while not load.over:
        made = await _ask(load, session, "POST", f"{url}/stacks", data=body)
        if made is not None and "stack_id" in made:
            await _ask(load, session, "DELETE", f"{url}/stacks/{made['stack_id']}")


async def _ask(load: Load, session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Any:
    began = time.monotonic()
    try:
        async with session.request(method, url, **options) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, OSError) as error:
        load.failures.append(f"{method}: {error!r}")
        return None
    load.longest = max(load.longest, time.monotonic() - began)
    load.answers[method, answer.status] = load.answers.get((method, answer.status), 0) + 1
    if answer.status >= 400:
        load.failures.append(f"{method}: {answer.status}: {text}")
    return json.loads(text)
