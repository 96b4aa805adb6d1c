"""CTFd's own rules decide who may start; an instance that runs can always be stopped."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone

from tests.ctfd.conftest import API, Ctfd, Person, Source, flag_of, set_up
from tests.harness import Harness, eventually


async def refusal(person: Person, challenge: int) -> tuple[int, str]:
    """The status and the code of a start that CTFd does not allow."""
    status, answer = await person.call("POST", f"/api/v1/stackd/challenges/{challenge}", {})
    assert answer["success"] is False
    return status, answer["code"]


async def stops(ctfd: Ctfd, stackd: Harness) -> None:

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
    for challenge in (hidden, 999):
        assert await refusal(player, challenge) == (404, "no_challenge")
    secret = await ctfd.challenge(name="Secret", state="hidden", stackd_opens=moment(3600))
    assert await player.press(secret) == await player.press(999), "nor is it read when that opens"
    for challenge in (later, unseen):
        assert await refusal(player, challenge) == (403, "not_yet")
    assert await refusal(player, other) == (404, "no_instances")
    anonymous = await ctfd.person("/login", name="nobody", password="wrong")
    assert await refusal(anonymous, first) == (401, "login")
    now = int(time.time())
    of_the_event: dict[str, dict[str, object]] = {
        "paused": {"paused": True},
        "not_started": {"start": now + 3600},
        "event_over": {"start": now - 60, "end": now - 30},
        "not_yet": {"challenge_visibility": "admins"},
    }
    for why, setting in of_the_event.items():
        await configure(ctfd, **setting)
        assert await refusal(player, first) == (403, why)
        await configure(ctfd, paused=False, start=None, end=None, challenge_visibility="private")
    await configure(ctfd, verify_emails=True)
    await ctfd.admin.data("PATCH", "/api/v1/users/2", {"verified": False})
    assert await refusal(player, first) == (403, "verify_email")
    await configure(ctfd, verify_emails=False)
    assert await stackd.listed() == []
    await ctfd.admin.start(hidden)
    assert await refusal(ctfd.admin, first) == (409, "limit")


async def test_an_instance_can_be_stopped_whatever_happened_to_its_challenge(ctfd: Ctfd, stackd: Harness) -> None:
    player = await ctfd.player("ada")
    hidden, deleted = await ctfd.challenge(name="Hidden"), await ctfd.challenge(name="Deleted")
    await player.start(hidden)
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{hidden}", {"state": "hidden"})
    await asyncio.gather(*(player.press(hidden, "extend") for _ in range(4)))
    await player.until(hidden, pending=False, extensions_left=1)  # four clicks at once are one extension
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


async def test_instances_of_banned_or_deleted_accounts_are_stopped(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    for player in (ada, bob):
        await player.start(challenge)
    id_of_bob = (await bob.data("GET", "/api/v1/users/me"))["id"]
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
    challenge = await ctfd.challenge(stackd_opens=moment(7200), stackd_closes=moment(9000))
    player = await ctfd.player("ada")
    path = f"/api/v1/challenges/{challenge}"
    seen = await player.press(challenge)
    assert (seen["status"], seen["problem"]["key"]) == ("none", "template_closed")
    assert 7100 < seen["opens_in"] <= 7200
    assert await refusal(player, challenge) == (409, "template_closed")
    await ctfd.admin.start(challenge)  # who tries it before
    status, answer = await ctfd.admin.call("PATCH", path, {"stackd_closes": moment(3600)})
    assert (status, "Closes" in answer["errors"][""][0]) == (500, True)
    await ctfd.admin.data("PATCH", path, {"stackd_opens": moment(-60), "stackd_closes": moment(900)})
    shown = await player.start(challenge)
    assert (shown["notice"], shown["extensions_left"]) == (600, 0)
    assert shown["seconds_left"] <= 900
    await ctfd.admin.data("PATCH", path, {"stackd_closes": moment(-1)})
    seen = await player.until(challenge, status="none", problem="template_closed")
    assert -60 < seen["opens_in"] < 0
    await stops(ctfd, stackd)
    for person in (player, ctfd.admin):  # nor an organiser: the worker would stop it again
        assert await refusal(person, challenge) == (409, "template_closed")
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
    assert (await ctfd.admin.data("GET", f"{API}/instances"))["last_refusal"]
    seen = await player.press(challenge)
    assert (seen["status"], seen["notice"]) == ("running", 600)
    assert 800 < seen["seconds_left"] <= 900
    await configure(ctfd, end=int(time.time()) + 7200)

    async def is_forgotten() -> bool:
        return not await is_seen()

    await eventually(is_forgotten, ctfd.log, pause=0.2)
    assert (await ctfd.admin.data("GET", f"{API}/instances"))["last_refusal"] == ""
    assert (await player.press(challenge))["seconds_left"] > 900
    await ctfd.configure(stackd_minutes_after_the_end=0)
    await configure(ctfd, end=int(time.time()) - 1)
    await stops(ctfd, stackd)
    seen = await player.until(challenge, status="none", problem="template_closed")
    assert seen["opens_in"] < 0


async def test_each_account_has_limits_of_its_own(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    await ctfd.configure(stackd_starts_per_minute=2)
    answers = set()
    for _ in range(5):  # two minutes may be touched
        status, answer = await ada.call("POST", f"/api/v1/stackd/challenges/{challenge}", {})
        answers.add((status, answer.get("code", "")))
        if status == 200:
            await ada.press(challenge, "stop")
    assert answers == {(200, ""), (429, "too_often")}
    await bob.start(challenge)


async def test_a_scheduled_challenge_is_hidden_until_then(ctfd: Ctfd, source: Source) -> None:
    player, now = await ctfd.player("ada"), datetime.now(UTC)
    later = f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000Z"  # as the admin's page sends it
    if "scheduled_at" not in (source[0] / "CTFd" / "models" / "__init__.py").read_text():
        assert (await ctfd.challenge(scheduled_at=None)) == 1
        status, answer = await ctfd.admin.call("PATCH", "/api/v1/challenges/1", {"scheduled_at": later})
        assert (status, "Scheduled At" in answer["errors"][""][0]) == (500, True)
        return
    created, edited = await ctfd.challenge(name="Created", scheduled_at=later), await ctfd.challenge(name="Edited")
    for changes, visible in (
        ({"scheduled_at": later}, False),
        ({"scheduled_at": f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}+00:00"}, True),
        ({"scheduled_at": f"{now + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}+02:00"}, False),
        ({"scheduled_at": later, "state": "visible"}, False),
    ):
        await ctfd.admin.data("PATCH", f"/api/v1/challenges/{edited}", changes)
        listed = [one["name"] for one in await player.data("GET", "/api/v1/challenges")]
        assert listed == ["Edited"] * visible, changes
    assert await refusal(player, created) == (404, "no_challenge")
    shown = await ctfd.admin.data("GET", f"/api/v1/challenges/{created}?view=admin")
    assert shown["scheduled_at"] == later.removesuffix(".000Z")


async def test_a_team_has_one_instance(two_workers: Ctfd, stackd: Harness) -> None:
    ctfd = two_workers
    await set_up(ctfd, "teams")
    challenge = await ctfd.challenge()
    ada, bob, eve = [await ctfd.player(name) for name in ("ada", "bob", "eve")]
    assert await refusal(ada, challenge) == (403, "team")
    red, _ = await ctfd.team("red", ada, bob), await ctfd.team("blue", eve)
    presses = [player.press(challenge, "start") for player in (ada, bob) * 4]
    assert len({shown["name"] for shown in await asyncio.gather(*presses)}) == 1
    await ada.until(challenge, status="running")
    (stack_id,) = await stackd.listed()
    assert (await stackd.stack(stack_id))["labels"]["player"] == f"team-{red}"
    await eve.start(challenge)
    flag = await flag_of(stackd, stack_id)
    assert await eve.submit(challenge, flag) == "incorrect"
    assert await bob.submit(challenge, flag) == "correct"
    await stackd.until_listed(1)
    (seen,) = (await ctfd.admin.data("GET", f"{API}/sharing"))["rows"]
    assert (seen["user"], seen["sender"], seen["owner"]) == ("eve", "blue", "red")
