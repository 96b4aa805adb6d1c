"""Teams mode on MariaDB with two workers of CTFd, as an event runs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.ctfd.conftest import ctfd_running, flag_of, set_up
from tests.harness import Harness


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
        red, _ = await ctfd.team("red", ada, bob), await ctfd.team("blue", eve)
        presses = [player.press(challenge, "start") for player in (ada, bob) * 4]
        assert len({shown["name"] for shown in await asyncio.gather(*presses)}) == 1
        await ada.until(challenge, status="running")
        assert await bob.press(challenge) == await ada.press(challenge)
        (stack_id,) = await stackd.listed()
        assert (await stackd.stack(stack_id))["labels"]["player"] == f"team-{red}"
        await eve.start(challenge)
        flag = await flag_of(stackd, stack_id)
        assert await eve.submit(challenge, flag) == "incorrect"
        assert await bob.submit(challenge, flag) == "correct"
        await stackd.until_listed(1)
        (seen,) = (await ctfd.admin.data("GET", "/api/v1/stackd/admin/sharing"))["rows"]
        assert (seen["user"], seen["sender"], seen["owner"]) == ("eve", "blue", "red")
        names = [(await eve.press(challenge))["name"]]
        counted = await ctfd.admin.data("POST", "/api/v1/stackd/admin/instances", {"action": "extend", "names": names})
        assert counted == {"count": 1}
        longer = await eve.until(challenge, pending=False)
        assert longer["seconds_left"] > 2000
        await ctfd.admin.data("POST", "/api/v1/stackd/admin/instances", {"action": "stop", "names": names})
        await stackd.until_listed(0)
        status, answer = await eve.call("POST", "/api/v1/stackd/admin/instances", {"action": "stop", "names": names})
        assert (status, answer["errors"]) == (403, {"": ["Only organisers may do this."]})
