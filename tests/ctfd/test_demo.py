"""The demo with a CTFd beside it: one command, and a player plays."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp

from tests.ctfd.conftest import Ctfd, Person
from tests.harness import eventually

DEMO = Path(__file__).parents[2] / "integrations" / "ctfd" / "demo.py"


async def test_one_command_gives_three_challenges_and_players(source: tuple[Path, Path], tmp_path: Path) -> None:
    environment = os.environ | {"CTFD": str(source[0]), "CTFD_PYTHON": str(source[1]), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, DEMO, cwd=DEMO.parents[2], env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = ""
    try:
        async with asyncio.timeout(120):
            while "Stop with" not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
        url = re.search(r"CTFd +(http://\S+)", said)
        assert url is not None
        ctfd = Ctfd(url=url.group(1), folder=tmp_path, process=process)
        people: dict[str, Person] = {}
        for name, password in re.findall(r"name (\w+), password (\w+)", said):
            people[name] = await ctfd.person("/login", name=name, password=password)
        assert list(people) == ["admin", "alice", "bob"]
        lines = await people["admin"].data("POST", "/api/v1/stackd/admin/test", {})
        assert [line["ok"] for line in lines] == [True] * 4, lines
        shown = await people["alice"].start(1)
        async with aiohttp.ClientSession() as session, session.get(shown["addresses"][0]["url"]) as page:
            assert page.status == 200
        await people["bob"].press(3, "start")
        await people["bob"].until(3, status="failed", problem="crash")
        for session in ctfd.sessions:
            await session.close()
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 60)

    async def gone() -> bool:
        return not list(tmp_path.glob("stackd-demo*"))

    await eventually(gone)
