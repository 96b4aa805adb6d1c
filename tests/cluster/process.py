"""``stackd serve`` as a process of its own, so that it can be killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.real import Real
from tests.harness import lose_file

ROOT = Path(__file__).parents[2]
STACKD = [sys.executable, str(ROOT / "stackd.py")]


class Process:
    """One daemon with one file; a test may start and kill it several times."""

    def __init__(self, real: Real, environment: Mapping[str, str], folder: Path) -> None:
        self.real = real
        self._environment = {**os.environ, **environment}
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, **settings: str) -> None:
        """Use these settings from the next start on."""
        self._environment.update(settings)

    async def start(self, *, standing_by: bool = False) -> None:
        """Start the daemon; return when it is ready, or stands by."""
        with (self.folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen([*STACKD, "serve"], env=self._environment, stdout=log, stderr=log)
        await (self.real.until(self._stands_by, "standing by") if standing_by else self.until_ready())

    async def until_ready(self) -> None:
        """Return when the daemon is ready."""
        await self.real.until(self._ready, "readiness")

    async def _stands_by(self) -> bool:
        try:
            status, answer = await self.real.call("GET", "/owner")
        except self.real.lost:
            return False
        return status == 200 and answer["role"] == "standby" and bool(answer["owner"])

    def send(self, number: signal.Signals) -> None:
        """Send the daemon a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "daemon.log").read_text()[-2000:]
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
        """Move all state files away."""
        lose_file(self.folder)

    def restore(self, copy: Path) -> None:
        """Put the copy in the place of the file, as an operator does; nothing else remains beside it."""
        for suffix in ("-wal", "-shm"):
            (self.folder / f"stackd.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, self.folder / "stackd.db")

    async def command(self, *words: str) -> str:
        """Run a command of ``stackd`` with the daemon's configuration; return its output."""
        code, said = await self.run(*words)
        assert code == 0, said
        return said

    async def run(self, *words: str, **settings: str) -> tuple[int, str]:
        """The exit code and output of a command; ``settings`` override the daemon's."""
        run = await asyncio.create_subprocess_exec(
            *STACKD, *words, env=self._environment | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await run.communicate()
        return run.returncode or 0, said.decode()
