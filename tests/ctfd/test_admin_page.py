"""The organisers' page: a whole event on it, and what it does to instances."""

from __future__ import annotations

import re
from typing import Any

from playwright.async_api import Browser, expect

from tests.ctfd.conftest import API, Ctfd, page_of
from tests.harness import Harness


async def test_organisers_act_on_the_selected_and_on_all(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    web, pwn = await ctfd.challenge(name="Web"), await ctfd.challenge(name="Pwn")
    players = [await ctfd.player(name) for name in ("ada", "bob", "eve")]
    for player, challenge in zip(players, (web, web, pwn), strict=True):
        await player.start(challenge)
    page = await page_of(browser, ctfd, "admin")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.goto("/admin/stackd")
    await page.get_by_label("Select ada, Web").check()
    await page.get_by_label("Extend by", exact=True).last.fill("20m")
    await page.get_by_role("button", name="Extend by").click()
    await expect(page.get_by_text("1 instances are being extended.")).to_be_visible()
    seen = await players[0].until(web, pending=False)
    assert (seen["seconds_left"] > 2500, seen["extensions_left"]) == (True, 2), "not one of the player's own"
    await page.get_by_label("Challenge", exact=True).select_option("Web")
    await expect(page.locator("#stackd-rows tr")).to_have_count(2)
    await page.get_by_label("Select this page").check()
    await page.get_by_role("button", name="Restart").click()
    await expect(page.get_by_text("2 instances are being restarted.")).to_be_visible()
    await players[1].until(web, status="running", pending=False)
    await players[0].until(web, status="running", pending=False)
    (eve,) = (await ctfd.admin.data("GET", f"{API}/instances?account=eve"))["instances"]
    wanted = {"action": "stop", "filter": {"account": eve["account_key"]}}
    assert await ctfd.admin.data("POST", f"{API}/instances", wanted) == {"count": 1}
    await players[2].until(pwn, status="none", problem="organiser")
    status, _ = await ctfd.admin.call("POST", f"{API}/instances", {"action": "extend", "names": [], "by": "soon"})
    assert status == 400
    assert len((await ctfd.admin.data("GET", f"{API}/instances?status=running"))["instances"]) == 2


async def test_the_test_of_the_connection_names_every_challenge(ctfd: Ctfd, stackd: Harness) -> None:
    await ctfd.challenge(name="ZZZ")
    wrong = {"AAA": {"stackd_ttl": "9000h"}, "Typo": {"stackd_template": "web-9"}, "Value": {"stackd_value": "OTHER"}}
    ids = [await ctfd.challenge(name=name, **fields) for name, fields in wrong.items()]
    first, *lines = await ctfd.admin.data("POST", f"{API}/test", {})
    assert first["ok"]
    assert {line["name"]: line["ok"] for line in lines} == dict.fromkeys(wrong, False) | {"ZZZ": True}
    player = await ctfd.player("ada")
    await player.press(ids[-1], "start")
    seen = await player.until(ids[-1], status="none", pending=False)
    assert seen["problem"], "a template without the value is the organisers' mistake"
    await stackd.until_listed(0)


HELPERS_MAY: dict[tuple[str, str], dict[str, Any] | None] = {
    ("GET", "instances"): None,
    ("GET", "templates"): None,
    ("GET", "test"): None,
    ("POST", "test"): {},
    ("POST", "instances"): {"action": "restart", "names": []},
}


async def test_a_helper_restarts_and_extends_and_no_more(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    challenge, ada, tom = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("tom")
    name = (await ada.start(challenge))["name"]
    settings = {"stackd_helpers": "tom\n"}
    assert (await tom.call("GET", f"{API}/instances"))[0] == 403
    assert (await ctfd.admin.call("PATCH", f"{API}/settings", {"stackd_helpers": "tom\nnobody"}))[0] == 400
    await ctfd.configure(**settings)
    for (method, path), body in HELPERS_MAY.items():
        assert (await tom.call(method, f"{API}/{path}", body))[0] == 200, path
        assert (await ada.call(method, f"{API}/{path}", body))[0] == 403, path
    (seen,) = (await tom.data("GET", f"{API}/instances"))["instances"]
    assert [seen[page] for page in ("account_page", "challenge_page", "stack_page")] == ["", "", ""]
    for action in ("extend", "restart"):
        assert await tom.data("POST", f"{API}/instances", {"action": action, "names": [name]}) == {"count": 1}
        await ada.until(challenge, status="running", pending=False)
    refused: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", f"{API}/instances", {"action": "stop", "names": [name]}),
        ("POST", f"{API}/batches", {"challenge": seen["challenge_key"]}),
        ("PATCH", f"{API}/settings", settings),
        ("PUT", f"{API}/templates/web-2", {"text": ""}),
        ("POST", f"{API}/check", {}),
        ("GET", f"{API}/sharing", None),
        ("GET", "/api/v1/flags", None),
        ("GET", f"/api/v1/challenges/{challenge}/flags", None),
        ("PATCH", f"/api/v1/challenges/{challenge}", {"name": "Mine"}),
        ("POST", "/api/v1/challenges", {}),
        ("PATCH", "/api/v1/configs", settings),
    ]
    for method, path, body in refused:
        status, _ = await tom.call(method, path, body)
        assert status == 403, path
    async with tom.session.post(f"{API}/instances", json={"action": "restart", "names": [name]}) as answer:
        assert answer.status == 403, "a form of another site has no nonce"
    page = await page_of(browser, ctfd, "tom")
    await page.get_by_role("link", name="Operations").click()
    await page.get_by_label("Select ada, Web").check()
    assert await page.get_by_role("tab").all_text_contents() == ["Instances", "Health"]
    for link in ("Users", "Config", "ada"):
        await expect(page.get_by_role("link", name=link, exact=True)).to_have_count(0)
    await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    page = await page_of(browser, ctfd, "ada")
    await page.goto("/admin/stackd")
    await expect(page).to_have_url(re.compile("/login"))
    await ctfd.configure(stackd_helpers="")
    assert (await tom.call("GET", f"{API}/instances"))[0] == 403


async def test_what_cannot_be_read_is_refused_and_changes_nothing(ctfd: Ctfd, stackd: Harness) -> None:
    tom = await ctfd.player("tom")
    for method, path, body in (
        ("POST", "instances", []),
        ("POST", "instances", {"action": "stop", "names": 5}),
        ("POST", "instances", {"action": "stop", "filter": "all"}),
        ("POST", "batches", "all"),
        ("POST", "check", []),
        ("PATCH", "settings", []),
        ("PATCH", "settings", {"stackd_helpers": "tom", "stackd_starts_per_minute": "many"}),
        ("PATCH", "settings", {"stackd_starts_per_minute": 7, "stackd_url": "nowhere"}),
    ):
        status, answer = await ctfd.admin.call(method, f"{API}/{path}", body)
        assert (status, answer["code"]) == (400, "refused"), (method, path, body)
    assert (await tom.call("GET", f"{API}/instances"))[0] == 403, "tom is no helper"
    async with ctfd.admin.session.get("/admin/stackd") as answer:
        page = await answer.text()
    assert not re.search(r'name="stackd_starts_per_minute"[^>]* value="7"', page)
