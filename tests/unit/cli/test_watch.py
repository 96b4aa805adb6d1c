"""``stacks watch`` follows the event stream; and an interrupted command says what continues without it."""

from __future__ import annotations

import asyncio
import signal
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

Changes = list[tuple[str, str]]


@asynccontextmanager
async def following(at: Harness, **chosen: Any) -> AsyncIterator[tuple[WatchedStacks, Changes]]:
    changes: Changes = []
    async with AsyncClient(at.url, KEY) as client:
        watched = WatchedStacks(
            client, chosen, lambda kind, stack: changes.append((kind, f"{stack['stack_id']} {stack['status']}"))
        )
        task = asyncio.create_task(watched.follow())
        try:
            await eventually(lambda: at.daemon.api.feed.followers == 1)
            yield watched, changes
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_only_what_was_chosen_is_reported_and_each_change_once(shell: Shell) -> None:
    async with following(shell.at, labels=["team=7"], statuses=["running"]) as (watched, changes):
        other = await shell.at.create(seed() | {"labels": {"team": "8"}})
        mine, gone = [(await shell.at.create(seed() | {"labels": {"team": "7"}}))["stack_id"] for _ in range(2)]
        await eventually(lambda: {("stack", f"{one} running") for one in (mine, gone)} <= set(changes))
        await shell.at.call("POST", f"/stacks/{mine}/stop")
        await eventually(lambda: changes[-1] == ("left", f"{mine} stopped"))
        await shell.at.call("DELETE", f"/stacks/{gone}")
        await eventually(lambda: changes[-1][0] in ("deleted", "left") and gone in changes[-1][1])
        assert changes.count(("stack", f"{mine} running")) == 1
        assert not [line for _, line in changes if other["stack_id"] in line]
        assert watched.stacks == {}


async def test_a_cut_stream_resumes_without_a_list(shell: Shell) -> None:
    feed = shell.at.daemon.api.feed
    async with following(shell.at) as (watched, changes):
        first = (await shell.at.create())["stack_id"]
        await eventually(lambda: ("stack", f"{first} running") in changes)
        feed.closed = True
        second = (await shell.at.create())["stack_id"]
        await eventually(lambda: feed.followers == 0)
        feed.closed = False
        await eventually(lambda: second in watched.stacks)
        assert changes.count(("stack", f"{first} running")) == 1


async def test_a_screen_shows_the_newest_and_says_how_many_it_does_not(shell: Shell) -> None:
    async with following(shell.at) as (watched, _):
        ids = [(await shell.at.create())["stack_id"] for _ in range(4)]
        await eventually(lambda: len(watched.stacks) == 4)
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(view(watched, height=6, width=160))
        console.file.close()
        text = console.export_text()
    assert (ids[3] in text, ids[0] in text, "2 older ones not shown" in text) == (True, False, True)


@pytest.mark.parametrize(
    ("words", "continues", "answered"),
    [
        ("create -f POD", "the stack may have been created; see: stackd stacks list", ()),
        ("delete {}", "{} is still being deleted", ()),
        ("restart {}", "the restart of {} continues", ()),
        ("batch-delete {}", "continues to delete 1 stack", ("GET", "/stacks/batch-delete/{job_id}", "200", 1)),
        (
            "create -f SLOW --wait",
            "still exists; delete it with: stackd stacks delete stack-",
            ("POST", "/stacks", "201", 2),
        ),
    ],
)
async def test_ctrl_c_says_what_continues(
    shell: Shell, tmp_path: Path, words: str, continues: str, answered: Any
) -> None:
    stack_id = await shell.at.running()
    (tmp_path / "POD").write_text(seed()["pod_spec"])
    (tmp_path / "SLOW").write_text(request_for("registry.example/slowpull")["pod_spec"])
    if "--wait" not in words:  # while the daemon waits for the cluster
        shell.at.cluster.faults.pause()
    named = words.replace("POD", f"{tmp_path}/POD").replace("SLOW", f"{tmp_path}/SLOW").format(stack_id)
    process = await shell.process("stacks", *named.split())
    if answered:
        method, route, code, times = answered
        await shell.at.until_at_least("stackd_http_requests_total", times, method=method, route=route, code=code)
    else:
        await eventually(lambda: shell.at.cluster.counts.in_flight > 0, lambda: "nothing was asked for", deadline=20)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    shell.at.cluster.faults.resume()
    assert (process.returncode, "Traceback" in err.decode()) == (130, False), err.decode()
    assert continues.format(stack_id) in err.decode()
