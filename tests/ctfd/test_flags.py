"""A player's path to the flag: of the own stack only, hashed, and sharing is seen."""

from __future__ import annotations

import sqlite3

from tests.ctfd.conftest import API, Ctfd, flag_of
from tests.harness import Harness


async def test_somebody_elses_flag_is_wrong_and_listed(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    for player in (ada, bob):
        await player.start(challenge)
    owners = {(await stackd.stack(one))["labels"]["player"].split("-")[1]: one for one in await stackd.listed()}
    flags = {name: await flag_of(stackd, owners[number]) for name, number in (("ada", "2"), ("bob", "3"))}
    attempt = {"challenge_id": challenge, "submission": flags["ada"]}
    for person in (ctfd.admin, bob):
        answer = await person.data("POST", "/api/v1/challenges/attempt?preview=true", attempt)
        assert answer["status"] == "incorrect"
    report = await ctfd.admin.data("GET", f"{API}/sharing")
    (seen,) = report["rows"]  # a preview of a player, too, but not that of an organiser
    assert (seen["user"], seen["owner"], seen["challenge"]) == ("bob", "ada", "Web")
    with sqlite3.connect(ctfd.folder / "ctfd.db") as file:
        assert not any(
            flag in "\n".join(file.iterdump()).replace(f"'{flags['ada']}'", "", 2) for flag in flags.values()
        ), "only what CTFd itself keeps of bob's answers has the flag"
    assert await bob.submit(challenge, flags["ada"]) == "incorrect"
    assert (await ctfd.admin.data("GET", f"{API}/sharing"))["total"] == 1, "once"
    await bob.press(challenge, "stop")
    await stackd.until_listed(1)
    assert await bob.submit(challenge, flags["bob"]) == "correct", "it was found while the stack ran"
    assert (await ada.press(challenge))["status"] == "running", "ada's instance is not touched"
    assert await ada.submit(challenge, flags["ada"]) == "correct"
    await stackd.until_listed(0)


async def test_ctfds_own_flags_and_a_dynamic_value(ctfd: Ctfd, stackd: Harness) -> None:
    fields = {
        "stackd_flag_source": "ctfd", "function": "linear", "initial": 500, "decay": 50, "minimum": 100,
        "stackd_stop_when_solved": "false",
    }  # fmt: skip
    challenge = await ctfd.challenge(**fields)
    for content in ("flag{static}", ""):
        flag = {"challenge": challenge, "content": content, "type": "static"}
        await ctfd.admin.data("POST", "/api/v1/flags", flag)
    for name in ("ada", "bob"):
        player = await ctfd.player(name)
        await player.start(challenge)
        assert await player.submit(challenge, " ") == "incorrect", "although CTFd has an empty flag"
        assert await player.submit(challenge, "flag{static}") == "correct"
        assert (await player.press(challenge))["status"] == "running"
    assert (await ctfd.admin.data("GET", f"/api/v1/challenges/{challenge}"))["value"] == 450
    assert len(await stackd.listed()) == 2
