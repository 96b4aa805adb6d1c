"""Instances that organisers make beforehand: one for each team, whatever dies in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio

from stackd.embedded import EmbeddedCluster
from tests.ctfd.conftest import API, KEYS, PASSWORD, Ctfd, Source, ctfd_running, flag_of, set_up
from tests.gate import gate
from tests.harness import Harness, Machine, eventually, fast_cluster, until
from tests.templates import WEB, folder_with


@pytest_asyncio.fixture
async def teams(source: Source, stackd: Harness, tmp_path: Path) -> AsyncIterator[Ctfd]:
    async with ctfd_running(source, tmp_path / "ctfd", stackd=stackd.url) as running:
        await set_up(running, "teams")
        yield running


async def make(ctfd: Ctfd, challenge: int, *names: str, **more: str) -> Any:
    """Press the button of the organisers' page."""
    listed = (await ctfd.admin.data("GET", f"{API}/instances"))["challenges"]
    name = (await ctfd.admin.data("GET", f"/api/v1/challenges/{challenge}"))["name"]
    (key,) = [key for key, each in listed if each == name]
    return await ctfd.admin.data("POST", f"{API}/batches", {"challenge": key, "accounts": names, **more})


async def instances(ctfd: Ctfd) -> Any:
    return (await ctfd.admin.data("GET", f"{API}/instances"))["instances"]


async def done(ctfd: Ctfd, made: int, refused: int, total: int) -> None:
    """Return once of the only batch so many are made, and could not be."""

    async def is_done() -> bool:
        (batch,) = (await ctfd.admin.data("GET", f"{API}/instances"))["batches"]
        return (batch["done"], batch["refused"], batch["total"]) == (made, refused, total)

    await eventually(is_done, ctfd.log, 60, pause=0.2)


async def test_each_team_finds_its_own(teams: Ctfd, stackd: Harness) -> None:
    challenge, other = await teams.challenge(), await teams.challenge(name="Other")
    ada, bob, eve, tom = [await teams.player(name) for name in ("ada", "bob", "eve", "tom")]
    for team, member in (("red", ada), ("blue", bob), ("green", eve), ("grey", tom)):
        await teams.team(team, member)
    theirs = (await bob.start(challenge))["name"]
    await eve.start(other)
    answer = await make(teams, challenge, ttl="3h")
    assert answer == {"count": 2, "skipped": {"has one": ["blue"], "has no room for it": ["green"]}}
    assert (await ada.press(challenge))["status"] == "none"
    seen = await ada.data("GET", "/api/v1/stackd/instances")
    assert (seen["instances"], seen["used"]) == ([], 0), "nobody reads of a hidden challenge"
    pressed = await ada.press(challenge, "start")
    found = await ada.until(challenge, status="running", pending=False)
    assert (found["name"], found["used"]) == (pressed["name"], 1)
    assert found["seconds_left"] > 2 * 3600
    await tom.start(other)
    assert (await tom.press(challenge))["status"] == "none", "it has made way for what was pressed"
    assert (await bob.press(challenge))["name"] == theirs
    await done(teams, 2, 0, 2)
    assert len({one["labels"]["player"] for one in await stackd.stacks()}) == len(await stackd.until_listed(4)) == 4
    (mine,) = [one for one in await stackd.stacks() if one["labels"]["instance"] == found["name"]]
    assert await ada.submit(challenge, await flag_of(stackd, mine["stack_id"])) == "correct"
    (key, _), *_ = (await teams.admin.data("GET", f"{API}/instances"))["challenges"]
    for wrong in ({"accounts": ["pink"]}, {"ttl": "soon"}):
        assert (await teams.admin.call("POST", f"{API}/batches", {"challenge": key, **wrong}))[0] == 400


async def test_what_dies_in_the_middle_makes_no_second_one(source: Source, tmp_path: Path) -> None:
    settings = folder_with(tmp_path, web_1=WEB)
    async with EmbeddedCluster(fast_cluster()) as cluster:
        machine = Machine(folder=tmp_path / "stackd", cluster=cluster, options={"settings": settings})
        at = await machine.start()
        at.put_keys_in_force(*KEYS)
        async with AsyncExitStack() as end, gate(at.port) as way:
            end.push_async_callback(machine.stop)
            async with ctfd_running(source, tmp_path / "ctfd", stackd=way.url) as ctfd:
                await set_up(ctfd)
                challenge = await ctfd.challenge()
                player, *_ = [await ctfd.player(name) for name in ("tom", "ada", "bob", "eve")]
                async with at.no_create_slots():
                    answers = await asyncio.gather(*(make(ctfd, challenge) for _ in range(3)))
                    assert sorted(answer["count"] for answer in answers) == [0, 0, 4]
                    await eventually(lambda: at.rows("SELECT total FROM jobs") == [(4,)], ctfd.log, pause=0.1)
                    assert (await player.press(challenge, "start"))["status"] == "starting"
                    assert (await player.press(challenge, "stop"))["status"] == "none"
                    ctfd.process.kill()
                    await ctfd.process.wait()
                    await machine.stop()
            at = await machine.start()
            at.put_keys_in_force(*KEYS)
            way.behind = at.port
            async with ctfd_running(source, tmp_path / "ctfd", stackd=way.url) as ctfd:
                ctfd.admin = await ctfd.person("/login", name="admin", password=PASSWORD)
                await done(ctfd, 4, 0, 4)
                await at.until_listed(3)
                ada = await ctfd.person("/login", name="ada", password=PASSWORD)
                assert (await ada.press(challenge, "start"))["used"] == 1
                await ada.until(challenge, status="running")
                assert len(await at.listed()) == 3


async def test_what_the_job_refuses_says_why(ctfd: Ctfd, stackd: Harness) -> None:
    challenge = await ctfd.challenge(stackd_template="web-9", stackd_flag_source="ctfd")
    player = await ctfd.player("ada")
    assert (await make(ctfd, challenge, "ada"))["count"] == 1

    (row,) = await until(lambda: instances(ctfd), lambda rows: rows[0]["problem"])
    assert row["problem"]["key"] == "template_not_found"
    assert (await player.press(challenge))["problem"] is None, "nobody has pressed"
    await done(ctfd, 1, 1, 1)


async def test_a_flag_of_an_earlier_team_is_not_shared(teams: Ctfd, stackd: Harness) -> None:
    challenge = await teams.challenge()
    ada, bob, eve = [await teams.player(name) for name in ("ada", "bob", "eve")]
    red, blue = await teams.team("red", ada, eve), await teams.team("blue", bob)
    await ada.start(challenge)
    (stack_id,) = await stackd.listed()
    flag = await flag_of(stackd, stack_id)
    eves = {"user_id": (await eve.data("GET", "/api/v1/users/me"))["id"]}
    await teams.admin.data("DELETE", f"/api/v1/teams/{red}/members", eves)
    await teams.admin.data("POST", f"/api/v1/teams/{blue}/members", eves)
    for player in (eve, bob):
        assert await player.submit(challenge, flag) == "incorrect"
    (seen,) = (await teams.admin.data("GET", f"{API}/sharing"))["rows"]
    assert (seen["user"], seen["sender"], seen["owner"]) == ("bob", "blue", "red"), "eve knew it from the red team"
    await bob.start(challenge)
    theirs = next(one for one in await stackd.listed() if one != stack_id)
    assert await ada.submit(challenge, await flag_of(stackd, theirs)) == "incorrect"
    rows = (await teams.admin.data("GET", f"{API}/sharing"))["rows"]
    assert [row["user"] for row in rows] == ["ada", "bob"], "nobody of the red team was in the blue one"
