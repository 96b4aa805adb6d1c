"""``stackd serve`` as a process of its own, so that it can be killed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.real import Real

ROOT = Path(__file__).parents[2]
STACKD = [sys.executable, str(ROOT / "stackd.py")]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """One daemon, started and killed as often as the test likes, with one file."""

    def __init__(self, real: Real, environment: Mapping[str, str], folder: Path) -> None:
        self.real = real
        self._environment = {**os.environ, **environment}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when it is ready."""
        with (self._folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen([*STACKD, "serve"], env=self._environment, stdout=log, stderr=log)
        await self.real.until(self._ready, "readiness")

    async def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "daemon.log").read_text()[-2000:]
        try:
            status, _ = await self.real.call("GET", "/readyz")
        except self.real.lost:
            return False
        return status == 200

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def lose_file(self) -> None:
        """Nothing is left of the state."""
        for file in self._folder.glob("stackd.db*"):
            file.unlink()

    async def command(self, name: str) -> str:
        """Run a command of ``stackd`` with the same configuration; what it said."""
        run = await asyncio.create_subprocess_exec(
            *STACKD, name, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said, complained = await run.communicate()
        assert run.returncode == 0, complained.decode()
        return said.decode()
