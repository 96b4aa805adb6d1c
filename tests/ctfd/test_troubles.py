"""A stackd that hangs, refuses or talks rubbish is never in CTFd's way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import pytest

from tests.ctfd.conftest import API, PASSWORD, Person, Source, ctfd_running, set_up
from tests.ctfd.misbehaving import Misbehaving
from tests.harness import Harness, eventually

PROBLEMS = {
    "401": "closed", "422": "idempotency_key_reused", "hang": "silent", "page": "silent", "409": "label_limit_reached",
    "503": "no_room",
}  # fmt: skip
AT_ONCE = ("401", "422")
"""The others are tried again."""


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
        await ctfd.configure(stackd_instances_per_account=100)
        player = await ctfd.player("ada")
        for behaviour, problem in PROBLEMS.items():
            server.behaviour = behaviour
            challenge = await ctfd.challenge(name=behaviour)
            await player.press(challenge, "start")
            status = "none" if behaviour in AT_ONCE else "starting"
            await player.until(challenge, status=status, problem=problem)
            lines = await ctfd.admin.data("POST", f"{API}/test", {})
            assert lines[0]["ok"] is False, behaviour
            assert (lines[-1]["ok"], lines[-1]["starts"]) == (False, False), "each challenge has its line"
            assert "limits." not in (await player.press(challenge))["problem"]["player_message"]
        assert "limits.stacks_per_label" in ctfd.log(), "the log has the detail"


@pytest.mark.parametrize("worker", ["gevent", "gthread"])
async def test_thirty_hanging_starts_slow_no_page_and_no_solve(source: Source, tmp_path: Path, worker: str) -> None:
    gunicorn = ("--worker-class", worker, "--threads", "4")
    async with (
        Misbehaving("hang") as server,
        ctfd_running(source, tmp_path / "ctfd", stackd=server.url, gunicorn=gunicorn) as ctfd,
    ):
        await set_up(ctfd)
        await ctfd.configure(stackd_instances_per_account=100)
        player = await ctfd.player("ada")
        challenges = [await ctfd.challenge(name=f"C{number}", stackd_flag_source="ctfd") for number in range(30)]
        flag = {"challenge": challenges[0], "content": "flag{x}", "type": "static"}
        await ctfd.admin.data("POST", "/api/v1/flags", flag)
        starts = [await timed(player, "POST", f"/api/v1/stackd/challenges/{one}", {}) for one in challenges]
        await eventually(lambda: len(server.requests) >= 8)
        pages = [await timed(player, "GET", page) for page in ("/scoreboard", "/api/v1/challenges", "/users") * 5]
        answer = {"challenge_id": challenges[0], "submission": "flag{x}"}
        solve = await timed(player, "POST", "/api/v1/challenges/attempt", answer)
        solves = await player.data("GET", "/api/v1/users/me/solves")
        assert [one["challenge_id"] for one in solves] == [challenges[0]]
        assert median([*starts, *pages, solve]) < 4, "a call of stackd hangs for five seconds"
        assert "QueuePool" not in ctfd.log()


async def test_both_survive_an_end_of_the_other_one(source: Source, stackd: Harness, tmp_path: Path) -> None:
    folder = tmp_path / "ctfd"
    async with Misbehaving("closed") as server, ctfd_running(source, folder, stackd=server.url) as ctfd:
        await set_up(ctfd)
        challenge, player = await ctfd.challenge(), await ctfd.player("ada")
        await player.press(challenge, "start")
        await eventually(lambda: server.requests)
        ctfd.process.kill()
        await ctfd.process.wait()
    async with ctfd_running(source, folder, stackd=stackd.url) as ctfd:
        player = await ctfd.person("/login", name="ada", password=PASSWORD)
        await player.until(challenge, status="running")
    async with Misbehaving("503") as server, ctfd_running(source, folder, stackd=server.url) as ctfd:
        player = await ctfd.person("/login", name="ada", password=PASSWORD)
        stopped = await player.press(challenge, "stop")
        assert (stopped["status"], stopped["used"]) == ("none", 0), "its place is free at once"
        await eventually(lambda: any(line.startswith("DELETE") for line in server.requests))
        assert len(await stackd.listed()) == 1
    async with ctfd_running(source, folder, stackd=stackd.url):
        await asyncio.wait_for(stackd.until_listed(0), 40)
