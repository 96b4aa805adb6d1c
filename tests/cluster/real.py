"""A client of the daemon that also sees its cluster, and the daemon as a process that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from stackd.errors import StackdError
from stackd.kube.client import Cluster
from stackd.kube.credentials import ClusterTarget
from stackd.kube.wire import HTTP_ROUTES, TLS_ROUTES
from tests.harness import Client, eventually, lose_file

LOST = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises when no response comes."""

AT_ONCE = 20
ROUTES = (HTTP_ROUTES, TLS_ROUTES)


@dataclass(slots=True, kw_only=True)
class Real(Client):
    """The daemon under test and its cluster, seen from outside of the daemon."""

    outside: Cluster

    async def create_many(self, count: int, **more: Any) -> list[dict[str, Any]]:
        """Create ``count`` stacks, up to twenty at once."""
        stacks: list[dict[str, Any]] = []
        while (left := count - len(stacks)) > 0:
            stacks += await asyncio.gather(*(self.create(**more) for _ in range(min(AT_ONCE, left))))
        return stacks

    async def stacks(self) -> list[dict[str, Any]]:
        """All stacks as the list returns them."""
        stacks: list[dict[str, Any]] = (await self.get("/stacks"))["stacks"]
        return stacks

    async def requests(self) -> dict[str, str]:
        """How often the daemon has sent each kind of request to the cluster, without watches and the Lease."""
        lines = (await self.call("GET", "/metrics")).text.splitlines()
        counted = (line.rsplit(" ", 1) for line in lines if line.startswith("stackd_kubernetes_requests_total{"))
        return {
            what: count for what, count in counted if 'verb="watch"' not in what and 'resource="leases"' not in what
        }

    async def objects(self, kind: str) -> dict[str, dict[str, Any]]:
        """The objects of the test's stackd, as the API server has them."""
        return {raw["metadata"]["name"]: raw for raw in await self.outside.list_raw(kind)}

    async def uids(self) -> dict[str, str]:
        """The uid of each pod and Service."""
        every = {**await self.objects("pods"), **await self.objects("services")}
        return {name: one["metadata"]["uid"] for name, one in every.items()}

    async def settled(self) -> None:
        """Return once every stack is running or stopped."""

        async def are() -> bool:
            return {stack["status"] for stack in await self.stacks()} <= {"running", "stopped"}

        await eventually(are, pause=0.1)

    async def agreed(self, waiting: int = 0) -> None:
        """Return once the cluster has the objects of the listed stacks, and of those ``waiting`` in a pool, alone."""

        async def do() -> bool:
            stacks = {stack["stack_id"]: stack["status"] for stack in await self.stacks()}
            pods, services = set(await self.objects("pods")), set(await self.objects("services"))
            in_pool = pods - stacks.keys()
            running = {stack_id for stack_id, status in stacks.items() if status != "stopped"}
            if len(in_pool) != waiting or pods != running | in_pool:
                return False
            return services == {f"svc-{stack_id}" for stack_id in stacks.keys() | in_pool}

        await eventually(do, lambda: "the cluster has other objects than the file", pause=0.1)

    async def remove_everything(self) -> None:
        """Delete all objects that the test has left in the cluster, but not the namespace."""
        for kind in ROUTES:
            with suppress(StackdError):  # a cluster without the Gateway API
                for name in await self.objects(kind):
                    await self.outside.delete(kind, name)
        for name in await self.objects("pods"):
            await self.outside.delete("pods", name)
        for name in await self.objects("services"):
            await self.outside.delete("services", name)


@asynccontextmanager
async def outside_of(environment: Mapping[str, str]) -> AsyncIterator[Cluster]:
    """A client of the cluster beside that of the daemon with these settings."""
    cluster = await Cluster.connect(
        ClusterTarget(
            kubeconfig=environment["STACKD_CLUSTER__KUBECONFIG"],
            instance=environment["STACKD_CLUSTER__INSTANCE"],
            namespace=environment["STACKD_STACKS__NAMESPACE"],
        )
    )
    try:
        yield cluster
    finally:
        await cluster.close()


# ---- ``stackd serve`` as a process of its own


STACKD = [sys.executable, str(Path(__file__).parents[2] / "stackd.py")]


class Process:
    """One daemon with one file; a test may start and kill it several times."""

    def __init__(self, real: Real, environment: Mapping[str, str], folder: Path) -> None:
        self.real = real
        self.environment = {**os.environ, **environment}
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *, role: str = "owner") -> None:
        """Start the daemon; return when it has this role, and an owner is ready."""
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen([*STACKD, "serve"], env=self.environment, stdout=log, stderr=log)
        await self.until(role)

    async def until(self, role: str) -> None:
        """Return once the daemon has this role, and an owner is ready."""
        log = self.folder / "daemon.log"

        async def has() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, log.read_text()[-2000:]
            try:
                is_ready = (await self.real.call("GET", "/readyz")).status == 200
                return await self.real.role() == role and is_ready is (role == "owner")
            except LOST:
                return False

        await eventually(has, lambda: log.read_text()[-2000:], 120, pause=0.1)

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose_file(self) -> None:
        """Move all state files away."""
        lose_file(self.folder)

    async def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """The exit code and output of a command; ``settings`` override the daemon's."""
        run = await asyncio.create_subprocess_exec(
            *STACKD, *words, env=self.environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await run.communicate()
        return run.returncode or 0, output.decode()
