"""``stacks watch`` follows the event stream, and stays correct when connections are cut."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stackd.cli.watch import WatchedStacks, view
from stackd.client import AsyncClient
from tests.harness import KEY, Harness, eventually, request_for, seed
from tests.unit.cli.conftest import Shell


@asynccontextmanager
async def following(at: Harness, **chosen: Any) -> AsyncIterator[tuple[WatchedStacks, list[tuple[str, str]]]]:
    told: list[tuple[str, str]] = []
    async with AsyncClient(at.url, KEY) as client:
        picture = WatchedStacks(
            client, chosen, lambda kind, stack: told.append((kind, f"{stack['stack_id']} {stack['status']}"))
        )
        task = asyncio.create_task(picture.follow())
        try:
            await eventually(lambda: at.daemon.api.feed.followers == 1)
            yield picture, told
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_changes_are_told_once(shell: Shell) -> None:
    async with following(shell.at) as (picture, told):
        stack_id = (await shell.at.create())["stack_id"]
        await eventually(lambda: ("stack", f"{stack_id} running") in told)
        await shell.at.call("DELETE", f"/stacks/{stack_id}")
        await eventually(lambda: told[-1][0] == "deleted")
        assert [told.count(each) for each in (("stack", f"{stack_id} running"), told[-1])] == [1, 1]
        assert picture.stacks == {}


async def test_only_what_was_chosen_is_told(shell: Shell) -> None:
    async with following(shell.at, labels=["team=7"], statuses=["running"]) as (picture, told):
        other = await shell.at.create(seed() | {"labels": {"team": "8"}})
        mine = await shell.at.create(seed() | {"labels": {"team": "7"}})
        await eventually(lambda: ("stack", f"{mine['stack_id']} running") in told)
        await shell.at.call("POST", f"/stacks/{mine['stack_id']}/stop")
        await eventually(lambda: told[-1] == ("left", f"{mine['stack_id']} stopped"))
        assert not [line for _, line in told if other["stack_id"] in line]
        assert picture.stacks == {}


async def test_a_cut_stream_goes_on_without_a_list(shell: Shell) -> None:
    feed = shell.at.daemon.api.feed
    async with following(shell.at) as (picture, told):
        first = (await shell.at.create())["stack_id"]
        await eventually(lambda: ("stack", f"{first} running") in told)
        feed.closed = True
        second = (await shell.at.create())["stack_id"]
        await eventually(lambda: feed.followers == 0)
        feed.closed = False
        await eventually(lambda: second in picture.stacks)
        assert told.count(("stack", f"{first} running")) == 1


async def test_a_screen_shows_the_newest_and_says_how_many_it_does_not(shell: Shell) -> None:
    async with following(shell.at) as (picture, _):
        ids = [(await shell.at.create())["stack_id"] for _ in range(4)]
        await eventually(lambda: len(picture.stacks) == 4)
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(view(picture, height=6, width=160))
        console.file.close()
        text = console.export_text()
    assert ids[3] in text
    assert ids[0] not in text
    assert "2 older ones not shown" in text


# ---- Ctrl-C: the command says what continues without it, and exits with 130


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


async def test_watch_ends_with_a_sentence_where_there_is_no_daemon(shell: Shell) -> None:
    result = await shell.run("watch", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
