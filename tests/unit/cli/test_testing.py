"""``stackd test``: each template with a fresh stack, its check, and its deletion."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stackd.cli import testing
from stackd.lifecycle import checks
from tests.harness import harness
from tests.templates import CHECK, PLAIN, WEB, folder_with
from tests.unit.cli.conftest import Shell

FAILS = CHECK.replace("solved in 3 steps; exit 0", "no flag; exit 1")
SOLVER = """\
#!/bin/sh
echo "$TEMPLATE at $HOST:$PORT $URL_80 with $FLAG"
test "$TEMPLATE" = good
"""


@pytest.fixture
async def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)
    monkeypatch.setattr(testing, "FORWARDING_SECONDS", 0.0)
    monkeypatch.setattr(testing, "SETTLED_SECONDS", 1.0)
    settings = folder_with(tmp_path, good=WEB + CHECK, bad=WEB + FAILS, plain=PLAIN)
    async with harness(tmp_path, settings) as at:
        yield Shell(at=at, home=tmp_path)


async def tried(shell: Shell, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    result = await shell.any_command("test", *words, "--json")
    return result.exit_code, {one["template"]: one for one in json.loads(result.stdout)["results"]}


async def test_what_passes_and_what_fails(shell: Shell) -> None:
    assert (await tried(shell, "good"))[0] == 0
    code, every = await tried(shell, "--all")
    assert code == 1
    assert {name: (one["result"], one["message"]) for name, one in every.items()} == {
        "good": ("passed", "solved in 3 steps"),
        "bad": ("failed", "no flag"),
        "plain": ("passed", "it runs; the template has no check"),
    }
    assert await shell.at.listed() == []


async def test_a_solver_on_this_machine(shell: Shell) -> None:
    solver = shell.home / "solve"
    solver.write_text(SOLVER)
    solver.chmod(0o755)
    code, seen = await tried(shell, "good", "plain", "--solver", str(solver))
    assert (code, seen["good"]["result"], seen["plain"]["result"]) == (1, "passed", "failed")
    assert seen["good"]["message"].startswith("good at ")
    assert "flag{" in seen["good"]["message"]
    code, seen = await tried(shell, "good", "--solver", str(shell.home / "{}.sh"))
    assert (code, "good.sh" in seen["good"]["message"]) == (1, True)


async def test_one_that_does_not_run_or_ends_as_soon_as_it_runs_fails(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "SETTLED_SECONDS", 60.0)
    images = {"good": "registry.example/notready", "plain": "registry.example/fail"}
    folder_with(shell.home, **{name: PLAIN.replace("nginx:stable", image) for name, image in images.items()})
    await shell.at.reload_templates()
    assert (await tried(shell, "good", "--timeout", "1s"))[1]["good"]["result"] == "failed"
    code, seen = await tried(shell, "plain")
    assert (code, seen["plain"]["result"], "is failed" in seen["plain"]["message"]) == (1, "failed", True)
    assert await shell.at.listed() == []


async def test_four_are_tried_at_a_time_and_an_interruption_leaves_no_stack(shell: Shell) -> None:
    never = PLAIN.replace("nginx:stable", "registry.example/notready")
    folder_with(shell.home, **dict.fromkeys(("good", "bad", "plain", "d", "e", "f"), never))
    await shell.at.reload_templates()
    process = await shell.process("test", "--all")
    await shell.at.until_listed(4)
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130
    assert await shell.at.listed() == []
