"""The organisers' page: a whole event on it, and what it does to instances."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.api.test_members import MEMBERS
from tests.ctfd.conftest import PLUGIN, Ctfd
from tests.ctfd.pages import page_of
from tests.harness import Harness, eventually
from tests.templates import WEB, folder_with

API = "/api/v1/stackd/admin"
KINDS = (
    ("running", None, ""),
    ("creating", None, ""),
    ("failed", "image", "ImagePullBackOff: no such image\nlast line"),
)


def insert(file: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    file.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def hold_event(ctfd: Ctfd, players: range, challenges: dict[str, int]) -> None:
    """Write players with an instance each into CTFd's database. The worker waits with them, as after a busy answer."""
    now = int(time.time())
    created = datetime.fromtimestamp(now, UTC)
    with closing(sqlite3.connect(ctfd.folder / "ctfd.db", timeout=30)) as file, file:
        keys = dict(file.execute("SELECT id, stackd_key FROM stackd_challenge").fetchall())
        for number in players:
            user = {"id": number + 10, "name": f"Player {number}", "email": f"{number}@example.com", "type": "user"}
            more = {"created": f"{created:%Y-%m-%d %H:%M:%S.%f}", "banned": 0, "hidden": 0, "verified": 1}
            insert(file, "users", user | more)
            status, problem, detail = KINDS[2 if number % 10 == 9 else number % 5 == 4]
            name, challenge_id = list(challenges.items())[number % len(challenges)]
            recipe = {"stackd_key": keys[challenge_id], "name": name, "stackd_extension": "30m", "stackd_extensions": 2}
            text = f"http://192.0.2.7:{30000 + number}"
            row = {
                "name": f"{number:032x}", "account": f"user-{number + 10}-{int(created.timestamp())}",
                "account_name": user["name"], "slot": 0, "challenge_key": keys[challenge_id],
                "challenge_id": challenge_id, "recipe": json.dumps(recipe), "stack_id": f"stack-{number:016x}",
                "status": status, "problem": problem, "detail": detail, "expires": now + 3600 + 60 * number,
                "message": "This challenge's image cannot be loaded." if problem else "",
                "addresses": json.dumps([{"text": text, "href": text, "port": 80}]), "running_since": now - 60,
                "phase": "prepare", "phase_since": now - 5, "created": now - number, "since": now, "attempts": 0,
                "not_before": now + 9999, "claimed_until": 0, "extensions": 0, "once": "x", "todo": "extend",
            }  # fmt: skip
            insert(file, "stackd_instances", row)


async def test_the_health_of_an_event_counts_every_instance(ctfd: Ctfd) -> None:
    challenges = {name: await ctfd.challenge(name=name) for name in ("Web", "Pwn", "Crypto")}
    hold_event(ctfd, range(600), challenges)
    lines = await ctfd.admin.data("POST", f"{API}/test", {})
    (pwn,) = [line for line in lines if line["text"] == "Pwn: would start"]
    assert [pwn[name] for name in ("ok", "starts", "failed", "instances", "most")] == [False, True, 20, 200, "image"]


async def test_organisers_act_on_the_selected_and_on_all_of_a_challenge(
    ctfd: Ctfd, stackd: Harness, browser: Browser
) -> None:
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
    status, answer = await ctfd.admin.call("POST", f"{API}/instances", {"action": "extend", "names": [], "by": "soon"})
    assert (status, "such as 30m" in answer["errors"][""][0]) == (400, True)
    assert len((await ctfd.admin.data("GET", f"{API}/instances?status=running"))["instances"]) == 2


async def test_the_test_of_the_connection_names_every_challenge(ctfd: Ctfd, stackd: Harness) -> None:
    for name, template, ttl in (("ZZZ", "web-1", "30m"), ("AAA", "web-1", "9000h"), ("Typo", "web-9", "30m")):
        await ctfd.challenge(name=name, stackd_template=template, stackd_ttl=ttl)
    first, *lines = await ctfd.admin.data("POST", f"{API}/test", {})
    assert first["ok"]
    assert {line["text"].partition(":")[0]: line["ok"] for line in lines} == {"AAA": False, "Typo": False, "ZZZ": True}
    assert "web-9" in next(line["text"] for line in lines if line["text"].startswith("Typo"))
    warnings = await ctfd.admin.data("POST", f"{API}/check", {"stackd_template": "web-1", "stackd_ttl": "9000h"})
    assert "9000h" in warnings[0] or "at most" in warnings[0], warnings


HELPERS_MAY: dict[tuple[str, str], dict[str, Any] | None] = {
    ("GET", "instances"): None,
    ("GET", "templates"): None,
    ("GET", "test"): None,
    ("POST", "test"): {},
    ("POST", "instances"): {"action": "restart", "names": []},
}


async def test_a_helper_sees_restarts_and_extends_and_nothing_else(ctfd: Ctfd, stackd: Harness) -> None:
    challenge, ada, tom = await ctfd.challenge(), await ctfd.player("ada"), await ctfd.player("tom")
    name = (await ada.start(challenge))["name"]
    settings = {"stackd_helpers": "tom\n"}
    assert (await tom.call("GET", f"{API}/instances"))[0] == 403
    status, answer = await ctfd.admin.call("PATCH", f"{API}/settings", {"stackd_helpers": "tom\nnobody"})
    assert (status, "'nobody'" in answer["errors"][""][0]) == (400, True)
    await ctfd.admin.data("PATCH", f"{API}/settings", settings)
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
    await ctfd.admin.data("PATCH", f"{API}/settings", {"stackd_helpers": ""})
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


async def test_every_route_of_the_page_says_who_may_use_it() -> None:
    """A new route is the organisers' own, or named among those of helpers."""
    texts = [(PLUGIN / name).read_text() for name in ("admin.py", "health.py")]
    routes = [
        (method, path, who)
        for text in texts
        for path, methods, who in re.findall(
            r'^@blueprint.route\(f"{API}/(\S+)", methods=\[(.+)\]\)\n@(for_\w+)$', text, re.M
        )
        for method in re.findall(r"\w+", methods)
    ]
    assert len(routes) == sum(
        len(re.findall(r"\w+", each)) for text in texts for each in re.findall(r"{API}/.*methods=\[(.+)\]", text)
    )
    assert {(method, path) for method, path, who in routes if who == "for_helpers"} == {*HELPERS_MAY}


async def test_the_page_of_a_helper(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    challenge, ada = await ctfd.challenge(), await ctfd.player("ada")
    await ctfd.player("tom")
    await ada.start(challenge)
    await ctfd.admin.data("PATCH", f"{API}/settings", {"stackd_helpers": "tom"})
    page = await page_of(browser, ctfd, "tom")
    await page.get_by_role("link", name="Operations").click()
    await page.get_by_label("Select ada, Web").check()
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Restart").click()
    await expect(page.get_by_text("1 instances are being restarted.")).to_be_visible()
    assert await page.get_by_role("tab").all_text_contents() == ["Instances", "Health"]
    for link in ("Users", "Config", "ada"):
        await expect(page.get_by_role("link", name=link, exact=True)).to_have_count(0)
    await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    await page.get_by_role("tab", name="Health").click()
    await expect(page.locator("#stackd-health")).to_contain_text("would start")
    page = await page_of(browser, ctfd, "ada")
    await expect(page.get_by_role("link", name="My instances")).to_have_count(1)
    await expect(page.get_by_role("link", name="Operations")).to_have_count(0)
    await page.goto("/admin/stackd")
    await expect(page).to_have_url(re.compile("/login"))


async def test_the_page_says_why_in_the_words_of_the_box(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    challenge, ada = await ctfd.challenge(stackd_template="web-fail"), await ctfd.player("ada")
    await ada.press(challenge, "start")
    await ada.until(challenge, status="failed", problem="crash")
    page = await page_of(browser, ctfd, "admin")
    await page.goto("/admin/stackd")
    row = page.locator("#stackd-rows tr")
    for words in ("The program in it ends again and again.", "app ended with exit code 3", "boom"):
        await expect(row).to_contain_text(words)
    await expect(page.locator("#stackd-tiles")).to_contain_text("most: The program in it ends again and again.")
    await page.get_by_role("tab", name="Health").click()
    line = page.locator("#stackd-health tr")
    for words in ("✗ Web", "would start", "1 of 1 (most: The program in it ends again and again.)"):
        await expect(line).to_contain_text(words)


async def test_the_log_is_that_of_the_member_that_has_failed(ctfd: Ctfd, stackd: Harness, tmp_path: Path) -> None:
    folder_with(tmp_path, web_two=WEB + MEMBERS.replace("postgres:17", "registry.example/fail-7:1"))
    await stackd.reload_templates()
    challenge, ada = await ctfd.challenge(stackd_template="web-two"), await ctfd.player("ada")
    await ada.press(challenge, "start")
    await ada.until(challenge, status="failed", problem="crash")

    async def named() -> bool:
        (listed,) = (await ctfd.admin.data("GET", f"{API}/instances"))["instances"]
        return "db/db ended with exit code 7" in listed["detail"] and "boom" in listed["detail"]

    await eventually(named, ctfd.log, pause=0.2)
