"""The commands and examples of the pages work as they stand."""

from __future__ import annotations

import asyncio
import os
import runpy
import shlex
import sys
from asyncio.subprocess import PIPE, STDOUT
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stackd.client import Client, Stack, StackEnded
from tests.docs.markdown import PAGES, ROOT, blocks, script
from tests.harness import KEY, Harness, eventually, harness
from tests.templates import folder_with

RUNNABLE = [page for page in PAGES if script(page)]
assert ROOT / "docs" / "api-guide.md" in RUNNABLE
SECONDS = 100.0


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
async def test_the_commands_of_a_page_run_as_they_stand(at: Harness, tmp_path: Path, page: Path) -> None:
    folder = tmp_path / "reader"
    (folder / "bin").mkdir(parents=True)
    command = folder / "bin" / "stackd"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(ROOT / "stackd.py"))} "$@"\n')
    command.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if not key.startswith("STACKD_")}
    env |= {"PATH": f"{folder / 'bin'}:{env['PATH']}", "HOME": str(folder), "STACKD_URL": at.url, "STACKD_API_KEY": KEY}
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script(page), cwd=folder, env=env, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(SECONDS):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert "error" not in out.decode(), out.decode()


# ---- the integration example does what its page says


EXAMPLE = ROOT / "examples" / "integrate.py"
PAGE = ROOT / "docs" / "integrate.md"


async def test_a_player_has_one_stack_with_a_flag_of_their_own(one_each: Harness) -> None:
    example = runpy.run_path(str(EXAMPLE))

    async def do(what: str, *words: str) -> Any:
        return await asyncio.to_thread(example[what], *words)

    first, again, other = [await do("start", player) for player in ("alice", "alice", "bob")]
    assert first.stack_id == again.stack_id != other.stack_id
    assert (first.status, first.address) == ("running", f"127.0.0.1:{first.ports[0].node_port}")
    pods, flag = await one_each.objects("pods"), example["flag"]
    for player, stack in (("alice", first), ("bob", other)):
        env = pods[stack.stack_id]["spec"]["containers"][0]["env"]
        assert env == [{"name": "FLAG", "value": flag(player)}]
    (longer,) = await do("extend", "alice")
    assert (longer.ttl_expires_at - first.ttl_expires_at).total_seconds() == 600
    assert not await do("solve", "alice", flag("bob"))
    assert await one_each.listed() == [first.stack_id, other.stack_id]
    assert await do("solve", "alice", flag("alice"))
    await one_each.until_listed(1)
    names, good = example["start"].__globals__, example["POD"]
    names["POD"] = good.replace("nginx:stable", "challenge/nostart")
    with pytest.raises(StackEnded, match="failed"):
        await do("start", "alice")
    names["POD"] = good
    assert (await do("start", "alice")).status == "running", "what failed is not in the way"


async def test_the_live_page_begins_with_what_is_there(one_each: Harness) -> None:
    (program,) = (one.text for one in blocks(PAGE) if "live" in one.marks)
    first = await one_each.running(labels={"player": "alice"})
    shown: dict[str, str] = {}

    def show_all(stacks: list[Stack]) -> None:
        shown.update({stack.labels["player"]: stack.status for stack in stacks})

    def show(player: str, status: str, address: str) -> None:
        shown[player] = f"{status} {address}"

    def hide(stack_id: str) -> None:
        raise SystemExit

    with Client(one_each.url, KEY) as client:
        names = {"client": client, "show_all": show_all, "show": show, "hide": hide}

        def run() -> None:
            with suppress(SystemExit):
                exec(program, names)

        page = Thread(target=run, daemon=True)
        page.start()
        await eventually(lambda: shown == {"alice": "running"})
        second = await one_each.stack(await one_each.running(labels={"player": "bob"}))
        await eventually(lambda: shown.get("bob") == f"running 127.0.0.1:{second['ports'][0]['node_port']}")
        await one_each.delete(first)
        await eventually(lambda: not page.is_alive())


async def test_with_a_template_the_flag_is_told_once_and_again_for_the_same_press(tmp_path: Path) -> None:
    template, program = (
        next(one.text for one in blocks(PAGE) if one.language == language and "template" in one.marks)
        for language in ("yaml", "python")
    )
    flags: list[tuple[str, str]] = []
    async with harness(tmp_path, folder_with(tmp_path, web_1=template)) as at:
        names: dict[str, Any] = {
            "Stack": Stack,
            "client": Client(at.url, KEY),
            "save_flag": lambda *saved: flags.append(saved),
        }
        exec(program, names)
        presses = (("alice", "press-1"), ("alice", "press-1"), ("bob", "press-2"))
        first, again, other = [await asyncio.to_thread(names["start"], *press) for press in presses]
    assert first.stack_id == again.stack_id != other.stack_id
    assert [player for player, _ in flags] == ["alice", "alice", "bob"]
    assert flags[0] == flags[1]
    assert flags[0][1] != flags[2][1]
