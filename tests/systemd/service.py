"""stackd as a service on a machine, with the embedded cluster beside it, and a client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from stackd.embedded import EmbeddedCluster
from stackd.embedded.cluster import render_kubeconfig
from stackd.keys import new_key
from tests.harness import Client, eventually, fast_cluster
from tests.ports import free_port
from tests.systemd.machine import Machine

UNIT = "stackd.service"
COMMAND = "stackd"
START_SECONDS = 60.0
LOOK_SECONDS = 0.1
"""Pause between two polls that run commands: without it, they would keep a CPU busy and delay the daemon."""


@dataclass(slots=True, kw_only=True)
class Service(Client):
    """One stackd; ``api_port`` and ``cluster_port`` are its own, and ``key`` is the API key of its key file."""

    machine: Machine
    folder: Path
    api_port: int
    cluster_port: int
    cluster: EmbeddedCluster | None = None

    async def run(self, *command: str, stdin: str = "") -> str:
        """Run a command, which must succeed, without blocking the cluster that runs in this process."""
        return await asyncio.to_thread(self.machine.must, *command, stdin=stdin)

    async def try_to(self, *command: str) -> int:
        return (await asyncio.to_thread(self.machine.run, *command)).code

    async def fresh(self) -> None:
        """Delete state, credentials and drop-ins, and write a configuration with the ports of this test run."""
        await self.try_to("systemctl", "stop", UNIT)
        await self.run("bash", "-c", "rm -rf /var/lib/stackd/* /etc/stackd/* /etc/systemd/system/stackd.*")
        await self.run("systemctl", "daemon-reload")
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
        await self.run("bash", "-c", "chgrp stackd /etc/stackd/config.toml; chmod 640 /etc/stackd/config.toml")

    async def credentials(self, token: str | None = None) -> None:
        """Write the key and a kubeconfig for the embedded cluster, readable by root only."""
        kubeconfig = render_kubeconfig(f"http://127.0.0.1:{self.cluster_port}", token)
        await asyncio.to_thread(self.machine.write, "/etc/stackd/api-key", self.key + "\n", "0600")
        await asyncio.to_thread(self.machine.write, "/etc/stackd/kubeconfig", kubeconfig, "0600")

    async def drop_in(self, text: str) -> None:
        """Change the unit as an operator does."""
        await asyncio.to_thread(self.machine.write, f"/etc/systemd/system/{UNIT}.d/test.conf", text)
        await self.run("systemctl", "daemon-reload")

    async def start_cluster(self, **options: Any) -> EmbeddedCluster:
        state = self.folder / "cluster"
        self.cluster = EmbeddedCluster(fast_cluster(port=self.cluster_port, state_path=state, **options))
        await self.cluster.start()
        return self.cluster

    async def start_on_a_cluster(self) -> None:
        await self.credentials()
        await self.start_cluster()
        await self.start()

    async def start(self) -> None:
        await self.run("systemctl", "start", UNIT)

    async def state(self) -> dict[str, str]:
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

    async def journal(self, *matches: str) -> list[dict[str, Any]]:
        await self.run("journalctl", "--sync")
        out = await self.run("journalctl", "--no-pager", "--output=json", "--all", *matches)
        return [json.loads(line) for line in out.splitlines()]

    async def messages(self, *matches: str) -> list[str]:
        """The messages of the journal about this unit."""
        return [str(record["MESSAGE"]) for record in await self.journal(*(matches or (f"--unit={UNIT}",)))]


@asynccontextmanager
async def on(machine: Machine, folder: Path) -> AsyncIterator[Service]:
    """The service of a machine, with ports of its own; it is stopped at the end."""
    # with keep-alive connections, each stop could wait one second for a last request
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        port, key = free_port(), new_key()[0]
        service = Service(
            session=session, url=f"http://127.0.0.1:{port}", key=key,
            machine=machine, folder=folder, api_port=port, cluster_port=free_port(),
        )  # fmt: skip
        yield service
        await service.try_to("systemctl", "stop", UNIT)
        if service.cluster is not None:
            await service.cluster.stop()


async def doctor(service: Service) -> tuple[int, list[str]]:
    """The exit code, and a line ``LEVEL SUBJECT: TEXT`` for each finding."""
    ran = await asyncio.to_thread(service.machine.run, "env", "COLUMNS=1000", COMMAND, "doctor")
    findings: list[str] = []
    for line in ran.out.splitlines():
        level, subject, text = line[:4].strip(), line[6:19].strip(), line[21:].strip()
        if level:
            findings.append(f"{level} {subject}: {text}")
        elif findings and text:
            findings[-1] += f" {text}"
    return ran.code, findings
