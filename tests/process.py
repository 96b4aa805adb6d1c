"""``stackd serve`` as a process of its own, which can be sent signals and killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import aiohttp

from tests.harness import Client, eventually, lose_file

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
        """All that the daemon has written so far."""
        return (self.folder / "daemon.log").read_text()

    async def ended(self) -> int:
        """The exit code of the daemon, once it has ended."""
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, 30)

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
