"""``stackd serve`` as a process of its own, which can be sent signals and killed; its embedded cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Generic, TypeVar

import aiohttp

from stackd.embedded import EmbeddedCluster
from stackd.embedded.resources import LEASES
from tests.harness import Client, eventually, lose_file, until, variables
from tests.ports import free_port

LOST = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises when no response comes."""

STACKD = [sys.executable, str(Path(__file__).parents[1] / "stackd.py")]
C = TypeVar("C", bound=Client)


class Daemon(Generic[C]):
    """One daemon with one file; a test may start and kill it several times. ``real`` is a client of it."""

    def __init__(self, real: C, environment: Mapping[str, str], folder: Path) -> None:
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

        async def has() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log[-2000:]
            try:
                is_ready = (await self.real.call("GET", "/readyz")).status == 200
                return await self.real.role() == role and is_ready is (role == "owner")
            except LOST:
                return False

        await eventually(has, lambda: self.log[-2000:], 120, pause=0.1)

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text()

    async def ended(self) -> int:
        """The exit code of the daemon, once it has ended."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 30)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose_file(self) -> None:
        lose_file(self.folder)

    async def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """The exit code and output of a command; ``settings`` override the daemon's."""
        run = await asyncio.create_subprocess_exec(
            *STACKD, *words, env=self.environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await run.communicate()
        return run.returncode or 0, output.decode()


@asynccontextmanager
async def daemon(folder: Path, environment: Mapping[str, str]) -> AsyncIterator[Daemon[Client]]:
    """A daemon that is ready; it is killed at the end."""
    port = free_port()
    async with aiohttp.ClientSession() as session:
        client = Client(session=session, url=f"http://127.0.0.1:{port}")
        process = Daemon(client, {**environment, "STACKD_SERVER__PORT": str(port)}, folder)
        try:
            await process.start()
            yield process
        finally:
            process.kill()


def on(cluster: EmbeddedCluster, folder: Path) -> dict[str, str]:
    """The environment of a stackd on this cluster."""
    cluster.write_kubeconfig(folder / "kubeconfig")
    return variables(folder, folder / "kubeconfig")


def replace_owner(cluster: EmbeddedCluster) -> None:
    """Let vm9 take the Lease, which it never renews."""
    lease = cluster.store.of(LEASES).get("stacks", "stackd-default")
    spec = lease.obj["spec"] | {"holderIdentity": "vm9/0123456789abcdef"}
    cluster.store.update(lease, metadata=lease.obj["metadata"] | {"annotations": {}}, spec=spec)


async def until_leaving(at: Client) -> None:
    """Return once the daemon begins no change any more: an id that it cannot know is not looked for."""
    await until(lambda: at.call("DELETE", "/stacks/none"), lambda reply: "shutting down" in reply.error)
