"""The players' page in a browser: a link is enough to start, extend, restart and stop, on a phone and by keyboard."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.async_api import Locator, Route, expect

from tests.players import make_link, settings, token_of
from tests.templates import PLAIN
from tests.ui.conftest import PHONE, TOO_WIDE, Board, Boards

pytestmark = pytest.mark.ui

HOSTILE = """title: "<img src=x onerror=alert(1)>"
description: "See [here](javascript:alert(1)), **<b>bold</b>** and [there](https://example.com/a).\\n\\n- `one`\\n- 2 * 3 * 4"
"""

RUNS = {
    "addresses": [{"text": "203.0.113.7:31001", "url": "http://203.0.113.7:31001", "port": 80}],
    "status": "running",
}
MORE = {"extension_seconds": 5400, "extensions_left": 1}
STATES: tuple[tuple[dict[str, Any], str, str, list[str]], ...] = (
    ({"status": "starting", "doing": {"key": "prepare", "seconds": 12}}, "", "Pulling the image and starting it, 12 s", ["Stop"]),
    (RUNS | {"problem": {"key": "silent"}}, "does not answer. Try again in a minute.", "", ["Restart", "Stop"]),
    (RUNS | MORE | {"seconds_left": 7194}, "", "1:59:5", ["Extend", "Restart", "Stop"]),
    (RUNS | {"seconds_left": 500, "notice": 600}, "", "It closes soon, for everybody.", ["Restart", "Stop"]),
    ({"status": "failed", "problem": {"key": "image", "restart": False}}, "It never worked", "", ["Stop"]),
    ({"status": "failed", "problem": {"key": "crash", "restart": True}}, "Restart it.", "", ["Restart", "Stop"]),
    ({"status": "none", "problem": {"key": "expired"}}, "", "Your instance has ended: its time was over.", ["Start"]),
    (
        {"status": "failed", "members": [{"name": "db", "status": "running"}, {"name": "mail", "status": "failed"}]},
        "", "mail does not work.", ["Restart", "Stop"],
    ),
    (RUNS | {"status": "shared", "since": 7200}, "", "Running for 2 hours.", []),
)  # fmt: skip
"""A state, what an alert says about it, what else it says, and its buttons."""


async def enter(board: Board, behind: str = "", **link: Any) -> dict[str, Any]:
    made = await make_link(board.at, **link)
    await board.page.goto(f"{board.url}/play#{token_of(made)}{behind}")
    return made


def card(board: Board, title: str) -> Locator:
    return board.page.get_by_role("region", name=title, exact=True)


def button(box: Locator, name: str) -> Locator:
    return box.get_by_role("button", name=name, exact=True)


async def confirm(box: Locator, name: str) -> None:
    """Press a button that asks whether it is meant."""
    await button(box, name).click()
    await box.get_by_role("button", name="Yes").click()


async def test_a_link_is_enough(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), viewport=PHONE, has_touch=True) as board:
        await enter(board, behind=".%20…")  # as a mail program may end it
        lab = card(board, "Lab one")
        await expect(button(lab, "Start")).to_be_visible()
        assert await board.page.evaluate("location.href") == f"{board.url}/play", "the token is out of the address bar"
        await board.audit("templates to start")
        await button(lab, "Start").focus()
        await board.page.keyboard.press("Enter")
        await expect(lab.get_by_role("status")).to_have_text("Your instance is running.")
        await expect(lab.locator("#status")).to_be_focused()
        (stack,) = (await board.at.get("/stacks"))["stacks"]
        address = f"http://{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"
        link = lab.get_by_role("link", name=address.removeprefix("http://"))
        await expect(link).to_have_attribute("href", address)
        await expect(lab.get_by_text("flag{")).to_be_hidden()
        await lab.get_by_role("button", name="Reveal").tap()
        await expect(lab.get_by_text("flag{")).to_be_visible()
        await button(lab, "Extend").tap()
        await expect(lab.get_by_role("timer")).to_contain_text(re.compile(r"1:2\d:"))
        await board.audit("a running instance")
        await board.fits_a_finger()
        await button(lab, "Restart").tap()
        await expect(button(lab, "Keep it")).to_be_focused()
        await board.audit("a question")
        await board.page.keyboard.press("Escape")
        await expect(button(lab, "Restart")).to_be_focused()
        async with board.page.expect_response(re.compile("/restart$")):
            await confirm(lab, "Restart")
        await board.at.until_status(stack["stack_id"], "running")
        await board.page.reload()
        await confirm(lab, "Stop")
        await expect(lab.get_by_role("status")).to_have_text("No instance is running.")
        await board.at.until_listed(0)


async def test_two_tabs_agree_and_the_limit_names_what_can_make_room(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path)) as board:
        await enter(board)
        other = await board.page.context.new_page()
        await other.goto(f"{board.url}/play")
        second = other.get_by_role("region", name="Lab two")
        await expect(button(second, "Start")).to_be_visible()
        await button(card(board, "Lab one"), "Start").evaluate("button => { button.click(); button.click(); }")
        await expect(card(board, "Lab one").get_by_role("status")).to_have_text("Your instance is running.")
        await expect(second.get_by_text("You may have 1 at a time: Lab one.")).to_be_visible()
        await confirm(second, "Stop Lab one and start this one")
        await expect(second.get_by_role("status")).to_have_text("Your instance is running.")
        await expect(button(card(board, "Lab one"), "Stop")).to_be_hidden()
        await board.at.until_listed(1)


async def test_a_code_is_enough_on_a_computer_that_another_student_has_used(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), refused={"401"}) as board:
        page, field = board.page, board.page.get_by_label("Code", exact=True)
        ada = await make_link(board.at, labels={"player": "ada"}, name="Ada")
        mia = await make_link(board.at, labels={"player": "mia"}, name="Mia")
        await page.goto(f"{board.url}/play")
        await board.audit("no link")
        await field.fill("0000-0000")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("This code does not work.")
        await board.audit("a wrong code")
        await field.fill(ada["code"].lower().replace("-", " "))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Ada")).to_be_visible()
        await expect(button(card(board, "Lab one"), "Start")).to_be_visible()
        await page.get_by_text("Open a link by its code").click()
        await field.fill(mia["code"])
        await button(page.locator("form"), "Open").click()
        await expect(page.get_by_role("heading", name="Mia")).to_be_visible()


async def test_a_word_to_all_is_read_once_and_what_an_organiser_does_is_said(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path) | {"STACKD_PLAY__HOST_NAME": "your <teacher>"}, faster=True) as board:
        await enter(board)
        lab, said = card(board, "Lab one"), board.page.locator("#messages")
        await button(lab, "Start").click()
        await expect(lab.get_by_role("status")).to_have_text("Your instance is running.")
        await expect(said).to_have_attribute("aria-live", "polite")
        await said.evaluate(
            "region => { region.read = 0; new MutationObserver(() => region.read++).observe(region, { childList: true }) }"
        )
        message = await board.at.post("/messages", {"text": "Ten <b>minutes</b> left."}, 201)
        await expect(said).to_have_text("Ten <b>minutes</b> left.")
        name = (await board.at.listed())[0]
        await board.at.post(f"/stacks/{name}/extend", {"ttl": "5m"})
        status = lab.get_by_role("status")
        await expect(status).to_contain_text("Its time was extended by your <teacher>.")
        await board.at.post(f"/stacks/{name}/restart")
        await expect(status).to_contain_text("It was restarted by your <teacher>.")
        await expect(status).to_contain_text("Your instance is running.")
        assert await said.evaluate("region => region.read") == 1, "a screen reader reads each message once"
        await board.audit("a message")
        await board.at.call("DELETE", f"/messages/{message['message_id']}")
        await expect(said).to_be_empty()


async def test_a_lab_that_opens_later_says_when_in_the_readers_zone_and_language(
    boards: Boards, tmp_path: Path
) -> None:
    async def open_at(opens: datetime) -> None:
        text = f"{PLAIN}title: Lab nine\nopens: {opens.isoformat()!r}\n"
        assert (await board.at.call("PUT", "/templates/lab-9", text.encode())).status in (200, 201)

    async with boards(settings(tmp_path), locale="de-AT", timezone_id="Asia/Tokyo") as board:
        opens = (datetime.now(UTC) + timedelta(days=1)).replace(second=0, microsecond=0)
        await open_at(opens)
        await enter(board, templates=["lab-9"])
        lab, there = card(board, "Lab nine"), opens.astimezone(ZoneInfo("Asia/Tokyo"))
        await expect(lab.get_by_role("alert")).to_have_text(re.compile(rf"^Öffnet am {there:%d}.*{there:%H:%M}\.$"))
        await expect(lab.get_by_role("button")).to_have_count(0)
        await board.audit("a lab that is not open")
        await open_at(datetime.now(UTC) + timedelta(seconds=2))
        await expect(button(lab, "Starten")).to_be_visible()
        await expect(lab.get_by_role("alert")).to_be_hidden()


async def test_a_link_that_ends_says_so(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), refused={"401"}, faster=True) as board:
        link = await enter(board)
        await expect(button(card(board, "Lab one"), "Start")).to_be_visible()
        await board.at.call("DELETE", f"/links/{link['link_id']}")
        notice = board.page.locator("#notice")
        await expect(notice).to_contain_text("This link was withdrawn.")
        await expect(board.page.get_by_role("region")).to_have_count(0)
        await board.page.evaluate("location.hash = 'nonsense'")  # as somebody pastes another link into the address bar
        await expect(notice).to_contain_text("Open it again as you got it")
        assert await board.page.evaluate("location.href") == f"{board.url}/play"
        await board.audit("a link that does not work")


async def test_a_press_that_stackd_refuses_is_not_said_to_be_tried_again(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), refused={"503"}) as board:
        presses: list[str] = []

        async def refuse(route: Route) -> None:
            if route.request.method == "GET":
                return await route.continue_()
            presses.append(route.request.url)
            return await route.fulfill(status=503, json={"error": "", "code": "cluster_unavailable"})

        await board.page.route("**/play/stacks", refuse)
        await enter(board)
        lab = card(board, "Lab one")
        await button(lab, "Start").click()
        await expect(lab.get_by_role("alert")).to_contain_text("Try again in a minute.")
        assert len(presses) == 1


async def test_another_students_link_in_a_second_tab_leaves_the_first_tab_alone(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), refused={"401"}) as board:
        await enter(board)
        lab, notice = card(board, "Lab one"), board.page.locator("#notice")
        replaced = re.compile("^Another link was opened in this browser.")
        await expect(button(lab, "Start")).to_be_visible()
        other = await board.page.context.new_page()
        link = await make_link(board.at, labels={"player": "seat-13"}, name="Seat 13")
        await other.goto(f"{board.url}/play#{token_of(link)}")
        await expect(other.get_by_role("heading", name="Seat 13")).to_be_visible()
        await button(lab, "Start").click()
        await expect(notice).to_have_text(replaced)
        assert await board.at.listed() == [], "nobody starts as somebody else"
        await board.page.reload()
        await expect(notice).to_have_text(replaced)
        await other.reload()
        await expect(other.get_by_role("heading", name="Seat 13")).to_be_visible()


async def test_the_page_outlives_a_stackd_that_is_away(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), gated=True, refused=None, faster=True) as board:
        await enter(board)
        lab = card(board, "Lab one")
        await button(lab, "Start").click()
        await expect(lab.get_by_role("status")).to_have_text("Your instance is running.")
        await board.gate.shut()
        await button(lab, "Extend").click()
        await expect(lab.get_by_role("alert")).to_contain_text("No answer.")
        await expect(board.page.locator("#notice")).to_contain_text("No answer.")
        await board.gate.open()
        await expect(board.page.locator("#notice")).to_be_hidden()
        await button(lab, "Extend").click()
        await expect(lab.get_by_role("timer")).to_contain_text(re.compile(r"1:2\d:"))


async def test_a_start_and_a_read_of_texts_that_get_no_answer_are_repeated(boards: Boards, tmp_path: Path) -> None:
    keys: list[str] = []
    texts: list[str] = []

    async def lose_the_answer(route: Route) -> None:
        if route.request.method == "POST":
            keys.append(route.request.headers["idempotency-key"])
            response = await route.fetch()
            if len(keys) == 1:
                return await route.abort()
            return await route.fulfill(response=response)
        return await route.continue_()

    async def fail_once(route: Route) -> None:
        texts.append(route.request.url)
        await (route.fulfill(status=503, json={"error": "starting"}) if len(texts) == 1 else route.continue_())

    async with boards(settings(tmp_path), refused=None, reports=True, faster=True) as board:
        await board.page.route("**/play/stacks", lose_the_answer)
        await board.page.route("**/play/en.json", fail_once)
        await enter(board)
        lab = card(board, "Lab one")
        await button(lab, "Start").click()
        await expect(lab.get_by_role("status")).to_have_text("Your instance is running.")
        await confirm(lab, "Stop")
        await button(lab, "Start").click()
        await expect(button(lab, "Stop")).to_be_visible()
        assert keys[0] == keys[1] != keys[2], "the same for a press, another one for the next press"
        await board.at.until_listed(1)


async def test_what_tenants_write_stays_text(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path, lab_2=PLAIN + HOSTILE)) as board:
        await enter(board)
        text = board.page.locator("article", has_text="See [here]")
        await expect(text).to_contain_text("See [here](javascript:alert(1)), <b>bold</b> and there.")
        assert [await link.get_attribute("href") for link in await text.locator("a").all()] == ["https://example.com/a"]


async def test_each_state_says_what_is_and_offers_only_what_can_be_done(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path), viewport={"width": 360, "height": 800}) as board:
        stacks = [{"template": f"t{n}", "title": f"State {n}", **state} for n, (state, *_) in enumerate(STATES)]
        body = {"link": {"name": "Seat 12", "seconds_left": 60, "stacks": 1}, "stacks": stacks}
        await board.page.route("**/play/stacks", lambda route: route.fulfill(json=body))
        await board.page.goto(f"{board.url}/play")
        for number, (_, alert, text, buttons) in enumerate(STATES):
            box = card(board, f"State {number}")
            await expect(box).to_contain_text(text)
            await expect(box.locator("#problem")).to_contain_text(alert)
            await expect(box.locator("button:not(.line button)")).to_have_text(buttons)
        await board.audit("every state")
        assert not await board.page.evaluate(TOO_WIDE)
