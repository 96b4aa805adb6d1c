"""stackd as a service on a machine, with the embedded cluster beside it, and a client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster
from stackd.keys import new_key
from tests.harness import Reply, eventually, fast_cluster, seed
from tests.ports import free_port
from tests.systemd.machine import Machine

UNIT = "stackd.service"
COMMAND = "/usr/local/bin/stackd"
START_SECONDS = 60.0
LOOK_SECONDS = 0.1
"""Pause between two polls that run commands: without it, they would keep a CPU busy and delay the daemon."""


@dataclass(slots=True, kw_only=True)
class Service:
    """One stackd; ``api_port`` and ``cluster_port`` are its own, and ``key`` is the API key of its key file."""

    machine: Machine
    folder: Path
    api_port: int
    cluster_port: int
    session: aiohttp.ClientSession
    key: str = field(default_factory=lambda: new_key()[0], repr=False)
    cluster: EmbeddedCluster | None = None

    async def do(self, *command: str, stdin: str = "") -> str:
        """Run a command, which must succeed, without blocking the cluster that runs in this process."""
        return await asyncio.to_thread(self.machine.must, *command, stdin=stdin)

    async def try_to(self, *command: str) -> int:
        """Run a command; return its exit code."""
        return (await asyncio.to_thread(self.machine.run, *command)).code

    async def fresh(self) -> None:
        """Delete state, credentials and drop-ins, and write a configuration with the ports of this test run."""
        await self.try_to("systemctl", "stop", UNIT)
        await self.do("bash", "-c", "rm -rf /var/lib/stackd/* /etc/stackd/* /etc/systemd/system/stackd.*")
        await self.do("systemctl", "daemon-reload")
        await self.try_to("systemctl", "reset-failed", UNIT)
        await self.configure()

    async def configure(self, more: str = "", **sections: str) -> None:
        """Write the configuration; each keyword is a section, its value are lines for that section."""
        own = {
            "server": f"port = {self.api_port}",
            "stacks": "require_ingress_network_policy = false",
            "reconcile": 'interval = "500ms"',
        }
        merged = {name: "\n".join(filter(None, (own.get(name), sections.get(name)))) for name in {*own, *sections}}
        text = more + "".join(f"[{name}]\n{lines}\n" for name, lines in sorted(merged.items()))
        await asyncio.to_thread(self.machine.write, "/etc/stackd/config.toml", text)
        await self.do("bash", "-c", "chgrp stackd /etc/stackd/config.toml; chmod 640 /etc/stackd/config.toml")

    async def credentials(self, **cluster: str) -> None:
        """Write the key and the kubeconfig, readable by root only."""
        await asyncio.to_thread(self.machine.write, "/etc/stackd/api-key", self.key + "\n", "0600")
        await asyncio.to_thread(self.machine.write, "/etc/stackd/kubeconfig", self.kubeconfig(**cluster), "0600")

    def kubeconfig(self, *, token: str = "", **cluster: str) -> str:
        """A kubeconfig for the embedded cluster; ``cluster`` adds or replaces fields of its cluster entry."""
        server = {"server": f"http://127.0.0.1:{self.cluster_port}", **cluster}
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "x", "cluster": server}],
            "users": [{"name": "x", "user": {"token": token} if token else {}}],
            "contexts": [context],
            "current-context": "x",
        }
        return json.dumps(config)

    async def drop_in(self, text: str) -> None:
        """Change the unit as an operator does."""
        await asyncio.to_thread(self.machine.write, f"/etc/systemd/system/{UNIT}.d/test.conf", text)
        await self.do("systemctl", "daemon-reload")

    async def start_cluster(self, **options: Any) -> EmbeddedCluster:
        """Start the embedded cluster."""
        state = self.folder / "cluster"
        self.cluster = EmbeddedCluster(fast_cluster(port=self.cluster_port, state_path=state, **options))
        await self.cluster.start()
        return self.cluster

    async def start_on_a_cluster(self) -> None:
        """Start the service with credentials for an embedded cluster."""
        await self.credentials()
        await self.start_cluster()
        await self.start()

    async def start(self) -> None:
        """Start the service and wait until it is ready."""
        await self.do("systemctl", "start", UNIT)

    async def state(self) -> dict[str, str]:
        """Properties of the unit."""
        names = ("ActiveState", "SubState", "StatusText", "MainPID", "NRestarts", "Result", "ExecMainStatus")
        return await asyncio.to_thread(self.machine.show, UNIT, *names)

    async def until(self, condition: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """The unit's state as soon as it satisfies the condition."""
        found: dict[str, str] = {}

        async def check() -> bool:
            found.update(await self.state())
            return condition(found)

        await eventually(check, lambda: f"the unit is {found}", START_SECONDS, pause=LOOK_SECONDS)
        return found

    async def call(self, method: str, path: str, body: object = None, **options: Any) -> Reply:
        """Send one request to the API, with the key."""
        headers = {"X-API-KEY": self.key, **options.pop("headers", {})}
        url = f"http://127.0.0.1:{self.api_port}{path}"
        async with self.session.request(method, url, json=body, headers=headers, **options) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def create(self) -> dict[str, Any]:
        """Create a stack."""
        reply = await self.call("POST", "/stacks", seed())
        assert reply.status == 201, reply.text
        stack: dict[str, Any] = reply.json
        return stack

    async def stacks(self) -> list[dict[str, Any]]:
        """All stacks."""
        reply = await self.call("GET", "/stacks")
        assert reply.status == 200, reply.text
        stacks: list[dict[str, Any]] = reply.json["stacks"]
        return stacks

    async def journal(self, *matches: str) -> list[dict[str, Any]]:
        """Records of the journal, oldest first."""
        await self.do("journalctl", "--sync")
        out = await self.do("journalctl", "--no-pager", "--output=json", "--all", *matches)
        return [json.loads(line) for line in out.splitlines()]

    async def messages(self, *matches: str) -> list[str]:
        """The messages of the journal about this unit."""
        return [str(record["MESSAGE"]) for record in await self.journal(*(matches or (f"--unit={UNIT}",)))]


@asynccontextmanager
async def on(machine: Machine, folder: Path) -> AsyncIterator[Service]:
    """The service of a machine, with ports of its own; it is stopped at the end."""
    # with keep-alive connections, each stop could wait one second for a last request
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        service = Service(
            machine=machine, folder=folder, api_port=free_port(), cluster_port=free_port(), session=session
        )
        yield service
        await service.try_to("systemctl", "stop", UNIT)
        if service.cluster is not None:
            await service.cluster.stop()


# ---- clients that read, create and delete all the time, and what they saw


READERS = 12
CREATORS = 3


@dataclass(slots=True)
class Load:
    """What the clients saw: methods and statuses, failures as texts, and the longest wait in seconds."""

    answers: set[tuple[str, int]] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    ended: bool = False


async def under_load(service: Service, meanwhile: Awaitable[None]) -> Load:
    """Keep the clients busy until ``meanwhile`` is done."""
    load, first = Load(), await service.create()
    url = f"http://127.0.0.1:{service.api_port}/stacks"
    body = json.dumps(seed()).encode()
    async with aiohttp.ClientSession(headers={"X-API-KEY": service.key}) as session, asyncio.TaskGroup() as group:

        async def read(headers: dict[str, str]) -> None:
            while not load.ended:
                await _ask(load, session, "GET", f"{url}/{first['stack_id']}/status", headers=headers)
                await asyncio.sleep(0.005)

        async def create_and_delete() -> None:
            while not load.ended:
                stack = await _ask(load, session, "POST", url, data=body)
                if "stack_id" in stack:
                    await _ask(load, session, "DELETE", f"{url}/{stack['stack_id']}")

        for number in range(READERS):
            group.create_task(read({} if number % 3 else {"Connection": "close"}))
        for _ in range(CREATORS):
            group.create_task(create_and_delete())
        await asyncio.sleep(0.3)
        try:
            await meanwhile
            await asyncio.sleep(0.3)
        finally:
            load.ended = True
    return load


async def _ask(load: Load, session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Any:
    began = time.monotonic()
    try:
        async with session.request(method, url, **options) as answer:
            text = await answer.text()
    except (aiohttp.ClientError, OSError) as error:
        load.failures.append(f"{method}: {error!r}")
        return {}
    load.longest = max(load.longest, time.monotonic() - began)
    load.answers.add((method, answer.status))
    if answer.status >= 400:
        load.failures.append(f"{method}: {answer.status}: {text}")
    return json.loads(text)
