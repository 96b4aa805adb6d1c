"""Teams mode on MariaDB with two workers of CTFd, as an event runs it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.ctfd.conftest import ctfd_running, flag_of, set_up
from tests.harness import Harness, eventually
from tests.ports import free_port


@pytest_asyncio.fixture
async def mariadb(source: object, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    server = shutil.which("mariadbd", path="/usr/sbin:/usr/bin")
    if server is None:
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server)")
    folder, port = tmp_path / "mariadb", free_port()
    options = ["--no-defaults", f"--datadir={folder}", "--user=root"]
    create = await asyncio.create_subprocess_exec(
        "mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await create.wait() == 0
    process = await asyncio.create_subprocess_exec(
        server, *options, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/sock", "--skip-log-bin",
        "--loose-innodb-snapshot-isolation=OFF",  # as in the releases that CTFd is made for; with it CTFd's own tracking fails
        "--character-set-server=utf8mb4", "--collation-server=utf8mb4_unicode_ci",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def created() -> bool:
        client = await asyncio.create_subprocess_exec(
            "mariadb", "--no-defaults", f"--socket={folder}/sock", "--user=root",
            "-e", "CREATE DATABASE IF NOT EXISTS ctfd; CREATE USER IF NOT EXISTS ctfd@'%' IDENTIFIED BY 'ctfd'; "
            "GRANT ALL ON ctfd.* TO ctfd@'%'",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await client.wait() == 0

    await eventually(created, lambda: "MariaDB does not start", 60, pause=0.5)
    yield f"mysql+pymysql://ctfd:ctfd@127.0.0.1:{port}/ctfd"
    process.kill()
    await process.wait()


async def test_a_team_has_one_instance(
    source: tuple[Path, Path], mariadb: str, stackd: Harness, tmp_path: Path
) -> None:
    gunicorn = ("--worker-class", "gevent", "--workers", "2")
    async with ctfd_running(
        source, tmp_path / "ctfd", stackd=stackd.url, gunicorn=gunicorn, DATABASE_URL=mariadb
    ) as ctfd:
        await set_up(ctfd, "teams")
        challenge = await ctfd.challenge()
        ada, bob, eve = [await ctfd.player(name) for name in ("ada", "bob", "eve")]
        status, answer = await ada.call("POST", f"/api/v1/stackd/challenges/{challenge}", {})
        assert (status, answer["errors"]) == (403, {"": ["Join a team first."]})
        ids = {}
        for team, members in (("red", (ada, bob)), ("blue", (eve,))):
            fields = {"name": team, "email": f"{team}@example.com", "password": "password1"}
            ids[team] = (await ctfd.admin.data("POST", "/api/v1/teams", fields))["id"]
            for member in members:
                user = (await member.data("GET", "/api/v1/users/me"))["id"]
                await ctfd.admin.data("POST", f"/api/v1/teams/{ids[team]}/members", {"user_id": user})
        presses = [player.press(challenge, "start") for player in (ada, bob) * 4]
        assert len({shown["name"] for shown in await asyncio.gather(*presses)}) == 1
        await ada.until(challenge, status="running")
        assert await bob.press(challenge) == await ada.press(challenge)
        (stack_id,) = await stackd.listed()
        assert (await stackd.stack(stack_id))["labels"]["player"].startswith(f"team-{ids['red']}-")
        await eve.start(challenge)
        flag = await flag_of(stackd, stack_id)
        assert await eve.submit(challenge, flag) == "incorrect"
        assert await bob.submit(challenge, flag) == "correct"
        await stackd.until_listed(1)
        async with ctfd.admin.session.get("/admin/stackd") as page:
            text = await page.text()
        assert "eve (blue)" in text
        assert "<td>red</td>" in text
        names = [(await eve.press(challenge))["name"]]
        counted = await ctfd.admin.data("POST", "/api/v1/stackd/admin/instances", {"action": "extend", "names": names})
        assert counted == {"count": 1}
        longer = await eve.until(challenge, pending=False)
        assert longer["seconds_left"] > 2000
        await ctfd.admin.data("POST", "/api/v1/stackd/admin/instances", {"action": "stop", "names": names})
        await stackd.until_listed(0)
        status, answer = await eve.call("POST", "/api/v1/stackd/admin/instances", {"action": "stop", "names": names})
        assert (status, answer["errors"]) == (403, {"": ["Only organisers may do this."]})
