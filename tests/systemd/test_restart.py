"""A restart under load: nobody is refused, and no request fails."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.stand import seed
from tests.systemd.service import UNIT, Service

pytestmark = pytest.mark.systemd

RESTARTS = 3
READERS = 12
CREATORS = 3
SOCKET = """[Unit]
Description=the API's socket
[Socket]
ListenStream=127.0.0.1:{port}
Backlog=4096
"""


@dataclass(slots=True)
class Load:
    """What the clients saw: answers by method and status, failures in words, and the longest wait in seconds."""

    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    over: bool = False


async def test_a_restart_refuses_no_connection_and_fails_no_request(service: Service) -> None:
    load = await _under_load(service)
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}
    assert load.longest < 10.0


async def test_a_restart_behind_a_socket_unit_refuses_no_connection_and_fails_no_request(service: Service) -> None:
    await service.do("systemctl", "stop", UNIT)
    text = SOCKET.format(port=service.api_port)
    await asyncio.to_thread(service.machine.write, "/etc/systemd/system/stackd.socket", text)
    await service.do("systemctl", "daemon-reload")
    await service.do("systemctl", "start", "stackd.socket")
    assert (await service.state())["ActiveState"] == "inactive"
    assert (await service.call("GET", "/healthz")).status == 200
    assert (await service.state())["ActiveState"] in ("activating", "active")
    await service.until(lambda state: state["ActiveState"] == "active")
    load = await _under_load(service)
    assert load.failures == []
    assert {status for _, status in load.answers} == {200, 201}


async def _under_load(service: Service) -> Load:
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
        for _ in range(RESTARTS):
            await asyncio.sleep(0.3)
            await service.do("systemctl", "restart", UNIT)
        await asyncio.sleep(0.3)
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
