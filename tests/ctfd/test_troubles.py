"""A stackd that hangs, refuses or talks rubbish is never in CTFd's way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import pytest

from tests.ctfd.conftest import Person, ctfd_running, set_up
from tests.ctfd.misbehaving import Misbehaving
from tests.harness import Harness, eventually

Source = tuple[Path, Path]
AT_ONCE = {
    "400": "The organisers have to look at this challenge. Please tell them.",
    "401": "Instances cannot be started at the moment. Please tell the organisers.",
    "403": "Instances cannot be started at the moment. Please tell the organisers.",
    "422": "The organisers have to look at this challenge. Please tell them.",
}
LATER = {
    "hang": "The instance server does not answer. Please try again in a minute.",
    "noise": "The instance server does not answer. Please try again in a minute.",
    "page": "The instance server does not answer. Please try again in a minute.",
    "500": "The instance server does not answer. Please try again in a minute.",
    "409": "You have as many instances as you may. Stop one first.",
    "429": "Too many instances start at the moment. Please try again in a minute.",
    "503": "There is no room for your instance at the moment. Please try again in a minute.",
}


async def timed(person: Person, method: str, path: str, body: object = None) -> float:
    began = time.monotonic()
    async with person.session.request(
        method, path, json=body, headers={"CSRF-Token": person.nonce, "Content-Type": "application/json"}
    ) as answer:
        await answer.read()
        assert answer.status == 200, await answer.text()
    return time.monotonic() - began


async def test_players_read_a_sentence_whatever_stackd_answers(source: Source, tmp_path: Path) -> None:
    async with Misbehaving("401") as server, ctfd_running(source, tmp_path / "ctfd", stackd=server.url) as ctfd:
        await set_up(ctfd)
        await ctfd.admin.data("PATCH", "/api/v1/stackd/admin/settings", {"stackd_instances_per_account": 100})
        player = await ctfd.player("ada")
        for behaviour, sentence in {**AT_ONCE, **LATER}.items():
            server.behaviour = behaviour
            challenge = await ctfd.challenge(name=behaviour)
            await player.press(challenge, "start")
            status = "none" if behaviour in AT_ONCE else "starting"
            await player.until(challenge, status=status, message=sentence)
            lines = await ctfd.admin.data("POST", "/api/v1/stackd/admin/test", {})
            assert lines[0]["ok"] is False, behaviour
            names = {"401": "Key:", "403": "Scope:", "hang": "Address:", "noise": "Address:", "page": "Address:"}
            assert lines[0]["text"].startswith(names.get(behaviour, "")), lines
            assert "limits." not in (await player.press(challenge))["message"]
        assert "limits.stacks_per_label" in ctfd.log(), "the log has the detail"


@pytest.mark.parametrize("worker", ["gevent", "gthread"])
async def test_thirty_hanging_starts_slow_no_page_and_no_solve(source: Source, tmp_path: Path, worker: str) -> None:
    gunicorn = ("--worker-class", worker, "--threads", "4")
    async with (
        Misbehaving("hang") as server,
        ctfd_running(source, tmp_path / "ctfd", stackd=server.url, gunicorn=gunicorn) as ctfd,
    ):
        await set_up(ctfd)
        await ctfd.admin.data("PATCH", "/api/v1/stackd/admin/settings", {"stackd_instances_per_account": 100})
        player = await ctfd.player("ada")
        challenges = [await ctfd.challenge(name=f"C{number}", stackd_flag_source="ctfd") for number in range(30)]
        await ctfd.admin.data(
            "POST", "/api/v1/flags", {"challenge": challenges[0], "content": "flag{x}", "type": "static"}
        )
        starts = [await timed(player, "POST", f"/api/v1/stackd/challenges/{one}", {}) for one in challenges]
        await eventually(lambda: len(server.requests) >= 8)
        pages = [await timed(player, "GET", page) for page in ("/scoreboard", "/api/v1/challenges", "/users") * 5]
        solve = await timed(
            player, "POST", "/api/v1/challenges/attempt", {"challenge_id": challenges[0], "submission": "flag{x}"}
        )
        solves = await player.data("GET", "/api/v1/users/me/solves")
        assert [one["challenge_id"] for one in solves] == [challenges[0]]
        print(
            f"{worker}: start {median(starts):.3f} s, page {median(pages):.3f} s, at most {max(pages):.3f} s, solve {solve:.3f} s"
        )
        assert max(*starts, *pages, solve) < 4, "a call of stackd hangs for five seconds"
        assert "QueuePool" not in ctfd.log()


async def test_a_start_survives_a_ctfd_that_is_killed_and_a_stackd_that_is_down(
    source: Source, stackd: Harness, tmp_path: Path
) -> None:
    async with Misbehaving("closed") as server, ctfd_running(source, tmp_path / "ctfd", stackd=server.url) as ctfd:
        await set_up(ctfd)
        challenge, player = await ctfd.challenge(), await ctfd.player("ada")
        await player.press(challenge, "start")
        await eventually(lambda: server.requests)
        ctfd.process.kill()
        await ctfd.process.wait()
    async with ctfd_running(source, tmp_path / "ctfd", stackd=stackd.url) as ctfd:
        player = await ctfd.person("/login", name="ada", password="password1")
        await player.until(challenge, status="running")
        assert len(await stackd.listed()) == 1


async def test_a_stop_is_repeated_until_stackd_is_back(source: Source, stackd: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "ctfd"
    async with ctfd_running(source, folder, stackd=stackd.url) as ctfd:
        await set_up(ctfd)
        challenge, player = await ctfd.challenge(), await ctfd.player("ada")
        await player.press(challenge, "start")
        await player.until(challenge, status="running")
    async with Misbehaving("503") as server, ctfd_running(source, folder, stackd=server.url) as ctfd:
        player = await ctfd.person("/login", name="ada", password="password1")
        assert (await player.press(challenge, "stop"))["status"] == "none"
        await eventually(lambda: any(line.startswith("DELETE") for line in server.requests))
        assert len(await stackd.listed()) == 1
    async with ctfd_running(source, folder, stackd=stackd.url):
        await asyncio.wait_for(stackd.until_listed(0), 40)
