"""What tenants write cannot affect the terminal of whoever looks at it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from stackd.client import Client
from tests.harness import KEY, request_for
from tests.unit.cli.conftest import Shell

EVIL = "\x1b]0;taken\x07\x1b[2J\x9b31m\u202egnp"
OBEYED = "\x1b\x07\x9b\u202e"
ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; from stackd.cli import main; main(sys.argv[1:])"


async def on_terminal(shell: Shell, *words: str, **more: str) -> str:
    """What the command writes to a terminal: standard output and standard error."""
    master, slave = pty.openpty()
    environment = os.environ | {
        "STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY, "HOME": str(shell.home), "TERM": "dumb", "COLUMNS": "400",
        **more,
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *words, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=ROOT
    )
    os.close(slave)
    said = await asyncio.to_thread(_everything, master)
    await process.wait()
    return said


def _everything(master: int) -> str:
    found = b""
    try:
        while chunk := os.read(master, 65536):
            found += chunk
    except OSError:
        pass  # the other side has closed the terminal
    os.close(master)
    return found.decode()


async def hostile_stack(shell: Shell) -> str:
    """A stack whose pod cannot start, with the tenant's own text in the reason."""
    body = request_for("registry.example/nostart")
    body["pod_spec"] += f"\n      command: [{json.dumps(f'/gone{EVIL}')}]"
    stack = await shell.at.create(body)
    await shell.at.until_status(stack["stack_id"], "failed")
    return str(stack["stack_id"])


async def test_no_view_of_a_stack_lets_its_text_through(shell: Shell) -> None:
    stack_id = await hostile_stack(shell)
    for shown, *words in (
        ("taken", "show", stack_id),
        ("taken", "show", stack_id, "--spec"),
        ("taken", "show", stack_id, "--json"),
        (stack_id, "list"),
        (stack_id, "list", "--json"),
        ("StartError", "timeline", stack_id),
        ("taken", "timeline", stack_id, "--json"),
    ):
        said = await on_terminal(shell, "stacks", *words)
        assert shown in said, words
        assert not set(OBEYED) & set(said), words
    document = json.loads(await shell.good("show", stack_id, "--json"))
    assert document == await shell.at.stack(stack_id), "for another program, it is the same document"
    assert EVIL in document["status_message"]


async def test_an_error_of_the_apis_is_one_harmless_line(shell: Shell, tmp_path: Path) -> None:
    body: dict[str, Any] = request_for("nginx")
    body["pod_spec"] += f"\n      {json.dumps(f'evil{EVIL}')}: 1"
    (tmp_path / "request.json").write_text(json.dumps(body))
    said = await on_terminal(shell, "stacks", "create", "-f", str(tmp_path / "request.json"))
    assert "Error: " in said
    assert "evil" in said
    assert not set(OBEYED) & set(said)


async def test_the_plan_of_a_reconciliation_is_harmless(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"blocked": "", "held": [], "actions": [{"action": "end", "name": "stack-1", "why": f"end: {EVIL}"}]}

    def answer(*_: object, **__: object) -> dict[str, Any]:
        return plan

    monkeypatch.setattr(Client, "reconcile", answer)
    result = await shell.any_command("reconcile")
    assert "stack-1" in result.output
    assert not set(OBEYED) & set(result.output)
