"""Ctrl-C: the command says what continues without it, and exits with 130."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.harness import KEY, eventually, request_for, seed
from tests.unit.cli.conftest import Shell

ROOT = Path(__file__).parents[3]


async def interrupted(shell: Shell, *words: str) -> str:
    """What the command prints when it is interrupted while the daemon waits for the cluster."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "stackd.py"), "stacks", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY, "HOME": str(shell.home)},
    )  # fmt: skip
    await eventually(lambda: shell.at.cluster.counts.in_flight > 0, lambda: "nothing was asked for", deadline=20)
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == 130, said.decode()
    assert "Traceback" not in said.decode()
    return said.decode()


async def test_a_create_that_is_left_says_where_to_look(shell: Shell, tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(seed()["pod_spec"])
    shell.at.cluster.faults.pause()
    said = await interrupted(shell, "create", "-f", str(pod))
    shell.at.cluster.faults.resume()
    assert "the stack may have been created; see: stackd stacks list" in said


async def test_a_wait_that_is_left_names_the_stack(shell: Shell, tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(request_for("registry.example/slowpull")["pod_spec"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "stackd.py"), "stacks", "create", "-f", str(pod), "--wait",
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"STACKD_URL": shell.at.url, "STACKD_API_KEY": KEY, "HOME": str(shell.home)},
    )  # fmt: skip
    found: list[str] = []

    async def waits() -> bool:
        found[:] = [one["stack_id"] for one in (await shell.at.call("GET", "/stacks")).json["stacks"]]
        return bool(found) and len(shell.at.daemon.context.rows) > 0

    await eventually(waits, lambda: "nobody waits", deadline=20)
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert process.returncode == 130
    assert f"{found[0]} still exists; delete it with: stackd stacks delete {found[0]}" in said.decode()


@pytest.mark.parametrize(
    ("verb", "said"), [("delete", "{} is still being deleted"), ("restart", "the restart of {} continues")]
)
async def test_a_change_that_is_left_says_that_it_goes_on(shell: Shell, verb: str, said: str) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    await shell.at.until_status(stack_id, "running")
    shell.at.cluster.faults.pause()
    assert said.format(stack_id) in await interrupted(shell, verb, stack_id)
    shell.at.cluster.faults.resume()


async def test_a_batch_delete_that_is_left_names_its_job(shell: Shell) -> None:
    stack_id = (await shell.at.create())["stack_id"]
    shell.at.cluster.faults.pause()
    said = await interrupted(shell, "batch-delete", stack_id)
    shell.at.cluster.faults.resume()
    assert "continues to delete 1 stack" in said
    assert "job-" in said
