"""The demo with a CTFd beside it: one command, and a player plays."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp

from tests.ctfd.conftest import API, Ctfd, Source
from tests.harness import eventually

DEMO = Path(__file__).parents[2] / "integrations" / "ctfd" / "demo.py"


async def test_one_command_gives_three_challenges_and_players(source: Source, tmp_path: Path) -> None:
    environment = os.environ | {"CTFD": str(source[0]), "CTFD_PYTHON": str(source[1]), "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, DEMO, cwd=DEMO.parents[2], env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        said = (await asyncio.wait_for(process.stdout.readuntil(b"Stop with"), 120)).decode()
        url = re.search(r"CTFd +(http://\S+)", said)
        assert url is not None
        ctfd = Ctfd(url=url.group(1), folder=tmp_path, process=process)
        accounts = re.findall(r"name (\w+), password (\w+)", said)
        admin, alice, bob = [await ctfd.person("/login", name=name, password=password) for name, password in accounts]
        lines = await admin.data("POST", f"{API}/test", {})
        assert [line["ok"] for line in lines] == [True] * 4, lines
        shown = await alice.start(1)
        async with aiohttp.ClientSession() as session, session.get(shown["addresses"][0]["url"]) as page:
            assert page.status == 200
        await bob.press(3, "start")
        await bob.until(3, status="failed", problem="crash")
        for session in ctfd.sessions:
            await session.close()
    finally:
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 60)

    await eventually(lambda: not list(tmp_path.glob("stackd-demo*")))
