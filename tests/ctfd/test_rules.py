"""CTFd's own rules decide who may start; an instance that runs can always be stopped."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

from tests.ctfd.conftest import Ctfd, Person
from tests.harness import Harness, eventually


async def refusal(person: Person, challenge: int) -> tuple[int, str]:
    """The status and the sentence of a start that CTFd does not allow."""
    status, answer = await person.call("POST", f"/api/v1/stackd/challenges/{challenge}", {})
    assert answer["success"] is False
    return status, answer["errors"][""][0]


async def stops(ctfd: Ctfd, stackd: Harness) -> None:
    """Return once no instance runs any more."""

    async def none() -> bool:
        return await stackd.listed() == []

    await eventually(none, ctfd.log, 45, pause=0.5)


async def configure(ctfd: Ctfd, **values: object) -> None:
    await ctfd.admin.call("PATCH", "/api/v1/configs", values)


async def test_who_may_not_open_a_challenge_may_not_start_it(ctfd: Ctfd, stackd: Harness) -> None:
    first, player = await ctfd.challenge(name="First"), await ctfd.player("ada")
    hidden = await ctfd.challenge(name="Hidden", state="hidden")
    later = await ctfd.challenge(name="Later", requirements={"prerequisites": [first]})
    unseen = await ctfd.challenge(name="Unseen", requirements={"prerequisites": [first], "anonymize": True})
    plain = {"name": "Other", "category": "web", "value": 1, "state": "visible", "type": "standard"}
    other = (await ctfd.admin.data("POST", "/api/v1/challenges", plain))["id"]
    assert await refusal(player, hidden) == (404, "There is no such challenge.")
    assert await refusal(player, 999) == (404, "There is no such challenge.")
    assert await refusal(player, later) == (403, "You may not start this challenge yet.")
    assert await refusal(player, unseen) == (403, "You may not start this challenge yet.")
    assert await refusal(player, other) == (404, "This challenge has no instances.")
    anonymous = await ctfd.person("/login", name="nobody", password="wrong")
    assert await refusal(anonymous, first) == (401, "Log in first.")
    now = int(time.time())
    for setting, why in (
        ({"paused": True}, "The event is paused."),
        ({"start": now + 3600}, "The event has not started yet."),
        ({"start": now - 60, "end": now - 30}, "The event has ended."),
        ({"challenge_visibility": "admins"}, "You may not start this challenge yet."),
    ):
        await configure(ctfd, **setting)
        assert await refusal(player, first) == (403, why)
        await configure(ctfd, paused=False, start=None, end=None, challenge_visibility="private")
    await configure(ctfd, verify_emails=True)
    await ctfd.admin.data("PATCH", "/api/v1/users/2", {"verified": False})
    assert await refusal(player, first) == (403, "Confirm your email address first.")
    await configure(ctfd, verify_emails=False)
    assert await stackd.listed() == []
    await ctfd.admin.start(hidden)
    assert await refusal(ctfd.admin, first) == (409, "You have as many instances as you may (1). Stop one first.")


async def test_an_instance_can_be_stopped_whatever_happened_to_its_challenge(ctfd: Ctfd, stackd: Harness) -> None:
    player = await ctfd.player("ada")
    hidden, deleted = await ctfd.challenge(name="Hidden"), await ctfd.challenge(name="Deleted")
    await player.start(hidden)
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{hidden}", {"state": "hidden"})
    await player.press(hidden, "extend")
    await player.until(hidden, extensions_left=1)
    await player.press(hidden, "stop")
    await stackd.until_listed(0)
    name = (await player.start(deleted))["name"]
    status, _ = await ctfd.admin.call("DELETE", f"/api/v1/challenges/{deleted}", {})
    assert status == 200
    assert await ctfd.challenge(name="Another") == deleted, "SQLite gives the id again"
    assert (await player.press(deleted))["status"] == "none", "and the new challenge has no instance"
    await stops(ctfd, stackd)
    seen = await player.data("GET", f"/api/v1/stackd/instances/{name}")
    assert (seen["status"], seen["problem"]["key"]) == ("none", "organiser")


async def test_presses_at_the_same_time_make_one_stack(ctfd: Ctfd, stackd: Harness) -> None:
    player = await ctfd.player("ada")
    challenges = [await ctfd.challenge(name=f"Challenge {number}") for number in range(2)]
    calls = [player.call("POST", f"/api/v1/stackd/challenges/{challenges[index % 2]}", {}) for index in range(8)]
    statuses = sorted(status for status, _ in await asyncio.gather(*calls))
    assert statuses == [200] * 4 + [409] * 4, "one challenge has the only slot"
    (instance,) = [challenge for challenge in challenges if (await player.press(challenge))["status"] != "none"]
    await player.until(instance, status="running")
    await asyncio.gather(*(player.press(instance, "extend") for _ in range(4)))
    seen = await player.until(instance, pending=False)
    assert seen["extensions_left"] == 1, "four clicks at once are one extension"
    await player.press(instance, "restart")
    await player.until(instance, status="running", pending=False)
    assert len(await stackd.listed()) == 1


async def test_instances_of_banned_or_deleted_accounts_are_stopped(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    for player in (ada, bob):
        await player.start(challenge)
    (id_of_bob,) = [(await bob.data("GET", "/api/v1/users/me"))["id"]]
    await ctfd.admin.data("PATCH", "/api/v1/users/2", {"banned": True})
    status, _ = await ctfd.admin.call("DELETE", f"/api/v1/users/{id_of_bob}", {})
    assert status == 200
    await asyncio.sleep(1.1)  # registrations are kept in whole seconds on MariaDB
    eve = await ctfd.player("eve")
    assert (await eve.data("GET", "/api/v1/users/me"))["id"] == id_of_bob, "SQLite gives the id again"
    assert (await eve.press(challenge))["status"] == "none", "the instance is not inherited"
    await stops(ctfd, stackd)


def moment(seconds: float) -> str:
    """So many seconds from now, as an organiser in Berlin writes it."""
    return f"{datetime.now(timezone(timedelta(hours=1))) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S%z}"


async def test_a_challenge_opens_and_closes_at_its_own_times(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, player = (
        await ctfd.challenge(stackd_opens=moment(7200), stackd_closes=moment(9000)),
        await ctfd.player("ada"),
    )
    path = f"/api/v1/challenges/{challenge}"
    seen = await player.press(challenge)
    assert (seen["status"], seen["problem"]["key"]) == ("none", "template_closed")
    assert 7100 < seen["opens_in"] <= 7200
    opens = f"{datetime.now(UTC) + timedelta(seconds=seen['opens_in']):%Y-%m-%d %H:%M}"
    assert await refusal(player, challenge) == (409, seen["problem"]["player_message"])
    assert seen["problem"]["player_message"].startswith(f"This opens at {opens[:-3]}")
    await ctfd.admin.start(challenge)  # who tries it before
    status, answer = await ctfd.admin.call("PATCH", path, {"stackd_closes": moment(3600)})
    assert (status, answer["errors"][""]) == (500, ["Closes: it must be after Opens"])
    await ctfd.admin.data("PATCH", path, {"stackd_opens": moment(-60), "stackd_closes": moment(900)})
    shown = await player.start(challenge)
    assert (shown["notice"], shown["extensions_left"]) == (600, 0)
    assert shown["seconds_left"] <= 900
    await ctfd.admin.data("PATCH", path, {"stackd_closes": moment(-1)})
    seen = await player.until(challenge, status="none", problem="template_closed")
    assert -60 < seen["opens_in"] < 0
    await stops(ctfd, stackd)
    assert (await refusal(player, challenge))[1].startswith("This closed at ")
    assert (await refusal(ctfd.admin, challenge))[0] == 409, "nor an organiser: the worker would stop it again"
    (kept,) = (await player.data("GET", "/api/v1/stackd/instances"))["instances"]
    assert (kept["status"], kept["problem"]["key"]) == ("none", "over")


async def test_a_wrong_end_of_the_event_can_be_corrected_before_it_stops_anything(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, player = await ctfd.challenge(), await ctfd.player("ada")
    await player.start(challenge)
    await configure(ctfd, start=int(time.time()) - 7200, end=int(time.time()) - 3600)

    async def is_seen() -> bool:
        status, answer = await ctfd.admin.call("GET", "/api/v1/configs/stackd_over_since")
        return status == 200 and int(answer["data"]["value"]) > 0

    await eventually(is_seen, ctfd.log, pause=0.2)
    said = (await ctfd.admin.data("GET", "/api/v1/stackd/admin/instances"))["last_refusal"]
    assert "The instances of players are stopped in 15 minutes." in said
    seen = await player.press(challenge)
    assert (seen["status"], seen["notice"]) == ("running", 600)
    assert 800 < seen["seconds_left"] <= 900
    await configure(ctfd, end=int(time.time()) + 7200)

    async def is_forgotten() -> bool:
        return not await is_seen()

    await eventually(is_forgotten, ctfd.log, pause=0.2)
    assert (await ctfd.admin.data("GET", "/api/v1/stackd/admin/instances"))["last_refusal"] == ""
    assert (await player.press(challenge))["seconds_left"] > 900
    await ctfd.admin.data("PATCH", "/api/v1/stackd/admin/settings", {"stackd_minutes_after_the_end": 0})
    await configure(ctfd, end=int(time.time()) - 1)
    await stops(ctfd, stackd)
    seen = await player.until(challenge, status="none", problem="template_closed")
    assert seen["opens_in"] < 0


async def test_each_account_has_limits_of_its_own(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    await ctfd.admin.data("PATCH", "/api/v1/stackd/admin/settings", {"stackd_starts_per_minute": 2})
    answers = set()
    for _ in range(5):  # two minutes may be touched
        status, answer = await ada.call("POST", f"/api/v1/stackd/challenges/{challenge}", {})
        answers.add((status, answer.get("errors", {}).get("", [""])[0]))
        if status == 200:
            await ada.press(challenge, "stop")
    assert answers == {(200, ""), (429, "You start instances too often. Please wait a minute.")}
    await bob.start(challenge)


async def test_a_scheduled_challenge_is_hidden_until_then(ctfd: Ctfd, source: tuple[Path, Path]) -> None:
    player, now = await ctfd.player("ada"), datetime.now(UTC)
    later = f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000Z"  # as the admin's page sends it
    if "scheduled_at" not in (source[0] / "CTFd" / "models" / "__init__.py").read_text():
        assert (await ctfd.challenge(scheduled_at=None)) == 1
        status, answer = await ctfd.admin.call("PATCH", "/api/v1/challenges/1", {"scheduled_at": later})
        assert (status, answer["errors"][""]) == (500, ["Scheduled At: this CTFd cannot schedule challenges"])
        return
    created, edited = await ctfd.challenge(name="Created", scheduled_at=later), await ctfd.challenge(name="Edited")
    for changes, visible in (
        ({"scheduled_at": later}, False),
        ({"scheduled_at": f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}+00:00"}, True),
        ({"scheduled_at": f"{now + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}+02:00"}, False),
        ({"scheduled_at": None}, True),
        ({"scheduled_at": later, "state": "visible"}, False),
    ):
        await ctfd.admin.data("PATCH", f"/api/v1/challenges/{edited}", changes)
        listed = [one["name"] for one in await player.data("GET", "/api/v1/challenges")]
        assert listed == ["Edited"] * visible, changes
    assert await refusal(player, created) == (404, "There is no such challenge.")
    shown = await ctfd.admin.data("GET", f"/api/v1/challenges/{created}?view=admin")
    assert shown["scheduled_at"] == later.removesuffix(".000Z")
