"""The commands against a real daemon; they run in a thread, since the daemon's event loop has to keep running."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import stackd
from tests.harness import KEY, Harness, harness

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "stackd.py"
UNWANTED = (
    "STACKD_URL", "STACKD_API_KEY", "STACKD_AUTH__KEY", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "CREDENTIALS_DIRECTORY",
)  # fmt: skip
ENVIRONMENT = {"STACKD_URL": "", "STACKD_API_KEY": "", "XDG_CONFIG_HOME": "", "COLUMNS": "200"}


@dataclass(slots=True, kw_only=True)
class Shell:
    """Runs ``stackd stacks …`` with an address and a key in the environment."""

    at: Harness
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"STACKD_URL": self.at.url, "STACKD_API_KEY": KEY, "HOME": str(self.home)}

    async def run(self, *words: str, stdin: str | None = None, **environment: str) -> Result:
        """The command's result, whatever its exit code."""
        return await self.any_command("stacks", *words, stdin=stdin, **environment)

    async def any_command(self, *words: str, stdin: str | None = None, **environment: str) -> Result:
        """The same for ``stackd …``."""
        runner = CliRunner(env=ENVIRONMENT | self.environment | environment)
        return await asyncio.to_thread(runner.invoke, stackd, list(words), input=stdin)

    async def good(self, *words: str, stdin: str | None = None) -> str:
        """The output of a command that must succeed."""
        result = await self.run(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def failing(self, code: int, *words: str, stdin: str | None = None) -> str:
        """The errors of a command that must end with this exit code."""
        result = await self.run(*words, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.stderr

    async def process(self, *words: str) -> Process:
        """``stackd …`` as a process of its own."""
        env = os.environ | self.environment
        return await asyncio.create_subprocess_exec(sys.executable, SCRIPT, *words, stdout=PIPE, stderr=PIPE, env=env)

    async def on_terminal(self, *words: str, **more: str) -> str:
        """What ``stackd …`` writes to a terminal: standard output and standard error."""
        master, slave = pty.openpty()
        env = os.environ | self.environment | {"TERM": "dumb", "COLUMNS": "400"} | more
        process = await asyncio.create_subprocess_exec(
            sys.executable, SCRIPT, *words, stdin=slave, stdout=slave, stderr=slave, env=env
        )
        os.close(slave)
        out = await asyncio.to_thread(_everything, master)
        await process.wait()
        return out


def _everything(master: int) -> str:
    found = b""
    try:
        while chunk := os.read(master, 65536):
            found += chunk
    except OSError:
        pass  # the other side has closed the terminal
    os.close(master)
    return found.decode()


@pytest.fixture
def bare_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no stackd, no key and no cluster."""
    for name in UNWANTED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with harness(tmp_path) as at:
        yield Shell(at=at, home=tmp_path)
