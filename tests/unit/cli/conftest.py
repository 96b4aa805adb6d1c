"""The commands against a whole stackd; they run in a thread, since the daemon's event loop has to keep running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stackd.cli import stackd
from tests.harness import KEY, Harness, harness

ENVIRONMENT = {"STACKD_URL": "", "STACKD_API_KEY": "", "XDG_CONFIG_HOME": "", "COLUMNS": "200"}


@dataclass(slots=True, kw_only=True)
class Shell:
    """Runs ``stackd stacks …`` with an address and a key in the environment."""

    at: Harness
    home: Path

    async def run(self, *words: str, stdin: str | None = None, **environment: str) -> Result:
        """The command's result, whatever its exit code."""
        return await self.any_command("stacks", *words, stdin=stdin, **environment)

    async def any_command(self, *words: str, stdin: str | None = None, **environment: str) -> Result:
        """The same for ``stackd …``."""
        given = ENVIRONMENT | {"STACKD_URL": self.at.url, "STACKD_API_KEY": KEY, "HOME": str(self.home)} | environment
        runner = CliRunner(env=given)
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


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with harness(tmp_path) as at:
        yield Shell(at=at, home=tmp_path)
