"""``stacks watch`` follows the event stream, and stays correct when connections are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from rich.console import Console

from stackd.cli.stacks.watch import WatchedStacks, view
from stackd.client import AsyncClient
from tests.harness import KEY, Harness, eventually, seed
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


async def test_watch_ends_with_a_sentence_where_there_is_no_daemon(shell: Shell) -> None:
    result = await shell.run("watch", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
