"""What players and organisers read about instances that start, fail, wait and end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.ctfd.conftest import API, Ctfd, Person, Source, ctfd_running, open_challenge, page_of, set_up
from tests.gate import gate
from tests.harness import Harness, until
from tests.templates import PLAIN, folder_with


async def refused(person: Person, path: str, body: dict[str, object] | None = None) -> tuple[int, str, dict[str, Any]]:
    status, answer = await person.call("POST", f"/api/v1/stackd/{path}", body or {})
    assert answer["success"] is False, answer
    return status, answer["code"], answer["values"]


async def test_a_player_reads_what_failed_and_what_is_tried_again(ctfd: Ctfd, stackd: Harness) -> None:
    await ctfd.configure(stackd_instances_per_account=9)
    player = await ctfd.player("ada")
    for template, problem, restart in (("web-fail", "crash", True), ("web-name", "image", False)):
        challenge = await ctfd.challenge(name=template, stackd_template=template)
        await player.press(challenge, "start")
        seen = await player.until(challenge, status="failed", problem=problem)
        assert seen["problem"]["restart"] is restart
    challenge = await ctfd.challenge(stackd_template="web-pull")
    await player.press(challenge, "start")
    await player.until(challenge, status="starting", doing="pull_again", seconds_left=None, pending=False)


async def test_what_an_organiser_does_is_said_until_the_player_acts(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, player = await ctfd.challenge(), await ctfd.player("ada")
    name = (await player.start(challenge))["name"]
    (stack_id,) = await stackd.until_listed(1)
    for action in ("extend", "restart"):
        await ctfd.act(action, name)
        await player.until(challenge, status="running", pending=False, organiser=action)
    await player.press(challenge, "extend")
    await player.until(challenge, pending=False, organiser=None)
    for body, said in (({}, "restart"), ({"template": "latest"}, "renew")):
        await stackd.post(f"/stacks/{stack_id}/restart", body, 200)  # past CTFd
        await player.until(challenge, status="running", organiser=said)
    await player.press(challenge, "restart")
    await player.until(challenge, status="running", pending=False, organiser=None)
    await ctfd.act("stop", name)
    await player.until(challenge, status="none", problem="organiser")
    await player.start(challenge)
    await stackd.delete(*await stackd.until_listed(1))
    await player.until(challenge, status="none", problem="lost")
    await player.press(challenge, "start")
    await player.until(challenge, status="running", problem=None)


async def test_at_the_limit_the_named_instance_makes_room(ctfd: Ctfd, stackd: Harness) -> None:
    challenges = [await ctfd.challenge(name=f"C{number}") for number in range(3)]
    player, eve = await ctfd.player("ada"), await ctfd.player("eve")
    first = await player.start(challenges[0])
    assert (first["used"], first["limit"], first["others"]) == (1, 1, [])
    seen = await player.press(challenges[1])
    assert seen["others"] == [{"name": first["name"], "challenge": "C0", "challenge_id": challenges[0]}]
    path = f"challenges/{challenges[1]}"
    assert await refused(player, path) == (409, "limit", {"limit": 1})
    theirs = (await eve.start(challenges[0]))["name"]
    assert (await refused(player, path, {"instead_of": theirs}))[1] == "limit", "nobody stops somebody else's"
    swap = [player.call("POST", f"/api/v1/stackd/{path}", {"instead_of": first["name"]}) for _ in range(4)]
    assert {status for status, _ in await asyncio.gather(*swap)} == {200}
    await player.until(challenges[1], status="running")
    await player.until(challenges[0], status="none", problem="replaced")
    assert (await eve.press(challenges[0]))["status"] == "running"
    await ctfd.configure(stackd_stop_the_oldest=1)
    await player.press(challenges[2], "start")
    await player.until(challenges[2], status="running", used=1)
    await player.until(challenges[1], status="none", problem="replaced")
    await stackd.until_listed(2)


async def test_instances_cost_no_more_than_an_account_may_spend(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    small, large, third = [await ctfd.challenge(name=f"C{cost}", stackd_cost=cost) for cost in (2, 6, 5)]
    await ctfd.configure(stackd_instances_per_account=9, stackd_cost_per_account=10)
    player = await ctfd.player("ada")
    await player.start(small)
    await player.start(large)
    organisers = await page_of(browser, ctfd, "admin")
    await organisers.goto("/admin/stackd")
    await expect(organisers.get_by_role("cell", name="ada 8 of 10", exact=True)).to_have_count(2)
    seen = await player.press(third)
    assert [seen[name] for name in ("spent", "budget", "cost")] == [8, 10, 5]
    assert [one["challenge"] for one in seen["others"]] == ["C6"], "the other one does not make enough room"
    path, spending = f"challenges/{third}", {"spent": 8, "budget": 10, "cost": 5}
    assert await refused(player, path) == (409, "cost", spending)
    box = await open_challenge(await page_of(browser, ctfd, "ada"), "C5")
    await expect(box.get_by_text("You use 8 of 10; this one costs 5.")).to_be_visible()
    await box.get_by_role("button", name="Stop C6 and start this one").click()
    await box.get_by_role("button", name="Yes, stop it").click()
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")
    await player.until(third, status="running", spent=7)
    await player.until(large, status="none", problem="replaced")
    await player.press(third, "stop")
    await player.until(third, status="none", spent=2)
    both = [player.call("POST", f"/api/v1/stackd/challenges/{one}", {}) for one in (large, third)]
    assert max(status for status, _ in await asyncio.gather(*both)) == 409
    assert (await player.press(small))["spent"] <= 10


async def test_of_presses_that_cost_too_much_together_one_wins(two_workers: Ctfd) -> None:
    ctfd = two_workers
    await set_up(ctfd)
    challenges = [await ctfd.challenge(name=f"C{number}", stackd_cost=6) for number in range(4)]
    await ctfd.configure(stackd_instances_per_account=9, stackd_cost_per_account=10)
    keys = [key for key, _ in (await ctfd.admin.data("GET", f"{API}/instances"))["challenges"]]
    for number in range(4):
        player = await ctfd.player(f"player-{number}")
        for key in keys[3:] if number % 2 else ():  # what was made beforehand counts when it is pressed
            body = {"challenge": key, "accounts": [f"player-{number}"]}
            assert (await ctfd.admin.data("POST", f"{API}/batches", body))["count"] == 1
        presses = [player.call("POST", f"/api/v1/stackd/challenges/{each}", {}) for each in challenges]
        answers = await asyncio.gather(*presses)
        assert sorted(status for status, _ in answers) == [200, 409, 409, 409], answers
        said = [(answer["code"], answer["values"]) for status, answer in answers if status == 409]
        assert said == [("cost", {"spent": 6, "budget": 10, "cost": 6})] * 3
        assert (await player.press(challenges[0]))["spent"] == 6


async def test_a_failed_instance_uses_up_no_place(ctfd: Ctfd, stackd: Harness) -> None:
    broken, works = await ctfd.challenge(name="Broken", stackd_template="web-name"), await ctfd.challenge(name="Works")
    third, player = await ctfd.challenge(name="Third"), await ctfd.player("ada")
    await player.press(broken, "start")
    await player.until(broken, status="failed", used=0)
    assert (await player.press(works))["others"] == [], "nothing has to make room"
    assert (await player.start(works))["used"] == 1
    await player.until(broken, status="none", problem="replaced")
    await stackd.until_listed(1)
    assert (await refused(player, f"challenges/{third}"))[1] == "limit", "one that works does count"
    assert (await player.press(works))["status"] == "running"


async def test_a_press_without_an_answer_is_said_for_a_while(source: Source, stackd: Harness, tmp_path: Path) -> None:
    async with (
        gate(int(stackd.url.rpartition(":")[2])) as way,
        ctfd_running(source, tmp_path / "ctfd", stackd=way.url) as ctfd,
    ):
        await set_up(ctfd)
        challenge, player = await ctfd.challenge(), await ctfd.player("ada")
        await player.start(challenge)
        await way.shut()
        await player.press(challenge, "restart")
        await player.until(challenge, status="running", problem="silent", pending=False)
        await way.open()
        seen = await until(lambda: player.press(challenge), lambda shown: not shown["problem"], 90)
        assert seen["status"] == "running"


async def test_a_shared_challenge_has_an_address_and_no_start(ctfd: Ctfd, stackd: Harness, tmp_path: Path) -> None:
    await stackd.create({"template": "web-1", "labels": {"shared": "web-1", "event": "a"}})
    folder_with(tmp_path, web_shared=PLAIN.replace("ttl: 1h", "shared: true"))
    await stackd.reload_templates()
    shared = {"stackd_template": "web-shared", "stackd_flag_source": "ctfd"}
    challenge, player = await ctfd.challenge(**shared), await ctfd.player("ada")
    seen = await until(lambda: player.press(challenge), lambda shown: shown["addresses"])
    assert seen["status"] == "shared"
    assert seen["addresses"][0]["text"].startswith("http://127.0.0.1:")
    assert (seen["problem"], seen["since"] >= 0) == (None, True)
    assert (await refused(player, f"challenges/{challenge}"))[:2] == (409, "shared")
    own = await ctfd.challenge(name="Own", stackd_template="web-1")
    assert (await player.press(own))["status"] == "none", "a label makes no stack everybody's"
    await player.start(own)
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"state": "hidden"})
    assert await player.press(challenge) == await player.press(999), "its address is hidden, too"


async def test_ctfds_reset_takes_instances_flags_and_the_report_along(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, bob = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("bob")
    await ada.start(challenge)
    async with ctfd.admin.session.post("/admin/reset", data={"nonce": ctfd.admin.nonce, "challenges": "on"}) as page:
        assert page.status == 200
    await stackd.until_listed(0)
    assert (await ada.data("GET", "/api/v1/stackd/instances"))["used"] == 0
    again = await ctfd.challenge()
    assert (await bob.press(again))["problem"] is None


async def test_a_generated_flag_is_listed_and_matches_nothing_and_the_last_attempt_ends_starts(ctfd: Ctfd) -> None:
    challenge, player = await ctfd.challenge(max_attempts=1), await ctfd.player("ada")

    async def flags() -> Any:
        return await ctfd.admin.data("GET", f"/api/v1/challenges/{challenge}/flags")

    (flag,) = await flags()
    assert (await ctfd.admin.data("GET", f"/api/v1/flags/{flag['id']}"))["type"] == "stackd"
    assert await player.submit(challenge, flag["content"]) == "incorrect"
    assert (await refused(player, f"challenges/{challenge}"))[:2] == (403, "no_attempts")
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_flag_source": "ctfd"})
    assert await flags() == []
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_flag_source": "stack"})
    assert len(await flags()) == 1
