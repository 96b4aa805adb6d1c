"""The roster of a class: six questions of a teacher who is left alone with it, each in four interactions at most."""

from __future__ import annotations

import csv
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.players import browser, make_link, settings, token_of
from tests.templates import PLAIN, values_of
from tests.ui.conftest import DESKTOP, PHONE, Board, Boards
from tests.ui.test_access import SCROLL_WIDTH, TOO_SMALL

pytestmark = pytest.mark.ui

PEOPLE = ("Ada Lovelace", "Jürgen Müller", "Zoë Straße", "Emmy Noether")
STARTS = {"Ada Lovelace": "lab-1", "Jürgen Müller": "lab-1", "Zoë Straße": "lab-3"}
ZOOMED = {"width": 720, "height": 450}
"""A desktop at 200 %."""


def line(board: Board, name: str) -> Locator:
    return board.page.locator("#roster tbody tr").filter(has_text=name)


@asynccontextmanager
async def lesson(boards: Boards, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Board, dict[str, Any]]]:
    """A class of four: two at work, one whose stack does not run, and one who has not begun. Their links by name."""
    broken = PLAIN.replace("nginx:stable", "registry.example/oom:1")
    async with boards(settings(tmp_path, lab_3=broken), **options) as board:
        links = {}
        for number, name in enumerate(PEOPLE):
            links[name] = await make_link(board.at, labels={"player": f"seat-{number}"}, name=name)
            async with browser(board.at) as seat:
                if name in STARTS:
                    await seat.enter(links[name])
                    await seat.start(STARTS[name])
                    await seat.until("failed" if name == "Zoë Straße" else "running", STARTS[name])
        await board.open()
        yield board, links


class Hand:
    """Counts what a person does."""

    def __init__(self, board: Board) -> None:
        self.board, self.count = board, 0

    async def click(self, name: str, *, within: Locator | None = None, **options: Any) -> None:
        self.count += 1
        await (within or self.board.page).get_by_role("button", name=name, **options).click()

    async def type(self, text: str) -> None:
        self.count += 1
        await self.board.page.keyboard.type(text)

    async def press(self, key: str) -> None:
        self.count += 1
        await self.board.page.keyboard.press(key)

    async def back(self) -> None:
        """The answer was seen: the next question begins at the table of stacks."""
        assert self.count <= 4
        self.count = 0
        await self.board.page.goto("about:blank")
        await self.board.page.goto(f"{self.board.url}/dashboard")
        await self.board.is_live()


async def test_three_questions_are_answered_in_four_interactions_each(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, _):
        hand, names = Hand(board), board.page.locator("#roster .called")
        await hand.click("Players")
        await hand.click("not started")
        await expect(names).to_have_text(["Emmy Noether"])
        await hand.back()

        await hand.click("Players")
        await hand.click("1 stuck")
        await expect(names).to_have_text(["Zoë Straße"])
        await expect(line(board, "Zoë")).to_contain_text("OOMKilled container app was killed because it ran out of")
        await hand.back()

        stacks = {one["labels"]["player"]: one for one in (await board.at.get("/stacks"))["stacks"]}
        flag = (await values_of(board.at, stacks["seat-1"]["stack_id"]))[-1]["FLAG"]
        await hand.click("Players")
        await hand.click("Whose flag…")
        await hand.type(flag)
        await hand.press("Enter")
        await expect(board.dialog.get_by_role("status")).to_contain_text("Jürgen Müller")
        await hand.back()


async def test_three_deeds_take_four_interactions_each(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, links):
        hand, names = Hand(board), board.page.locator("#roster .called")
        stacks = {one["labels"]["player"]: one for one in (await board.at.get("/stacks"))["stacks"]}
        await hand.click("Players")
        await hand.click("New link for Emmy Noether")
        await hand.press("Enter")
        new = board.dialog.locator("code.said")
        await expect(new).to_contain_text("/play#")
        async with browser(board.at) as seat:
            assert (await seat.open(links["Emmy Noether"])).code == "link_revoked"
            assert (await seat.open({"url": await new.inner_text()})).status == 204
        await hand.back()

        await hand.click("Players")
        await hand.click("Extend 3…")
        await expect(board.dialog).to_contain_text("Their links work until")
        await hand.type("10m")
        await hand.press("Enter")
        await expect(board.page.locator(".toast")).to_contain_text("2 extended")
        for player in ("seat-0", "seat-1"):
            stack = await board.at.stack(stacks[player]["stack_id"])
            assert stack["ttl_expires_at"] > stacks[player]["ttl_expires_at"]
        await hand.back()

        await hand.click("Players")
        await hand.click("End lab 4…")
        await hand.click("End it", within=board.dialog)
        await board.at.until_listed(0)
        await expect(names).to_have_count(0)
        assert hand.count <= 4
        assert all(link["revoked"] for link in (await board.at.get("/links"))["links"])


async def test_players_are_found_sorted_chosen_and_exported(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, _):
        names = board.page.locator("#roster .called")
        await expect(board.page.locator("tbody .c-label").filter(has_text="Jürgen")).to_have_count(1)
        await board.find().fill("muller")
        await expect(board.rows).to_have_count(1)
        await board.button("Players").click()
        for text in ("muller", "MÜLLER", "mu\N{COMBINING DIAERESIS}ller", "player=seat-1"):
            await board.find().fill(text)
            await expect(names).to_have_text(["Jürgen Müller"])
        await board.find().fill("")
        await expect(names).to_have_text(["Ada Lovelace", "Emmy Noether", "Jürgen Müller", "Zoë Straße"])
        await board.button("Status").click()
        await expect(names.first).to_have_text("Zoë Straße")
        await board.page.get_by_label("Choose Ada Lovelace").check()
        async with board.page.expect_download() as downloading:
            await board.button("CSV").click()
        download = await downloading.value
        (row,) = csv.DictReader((Path(await download.path())).read_text("utf-8-sig").splitlines())
        assert (row["name"], row["labels"], row["status"]) == ("Ada Lovelace", "player=seat-0", "running")
        async with board.page.context.expect_page() as opening:
            await board.page.get_by_role("link", name="Page of Ada Lovelace").click()
        page = await opening.value
        await expect(page.get_by_text("page of a player, to read only")).to_be_visible()
        await expect(page.get_by_role("region", name="Lab one")).to_contain_text("Your instance is running.")
        await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        await page.close()
        await board.button("Revoke 1…").click()
        await board.confirm("Revoke")
        await expect(line(board, "Ada")).to_have_count(0)
        revoked = [link["name"] for link in (await board.at.get("/links"))["links"] if link["revoked"]]
        assert revoked == ["Ada Lovelace"]


async def test_a_message_reaches_those_chosen_or_everybody(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, _):
        await board.button("Players").click()
        for number in range(11):
            await make_link(board.at, labels={"player": f"late-{number}"}, name=f"Late {number}")
        await board.find().fill("late")
        await expect(board.page.locator("#roster .called")).to_have_count(11)
        await board.button("Message 11…").click()
        await board.page.keyboard.type("Five minutes.")
        await board.page.keyboard.press("Enter")
        await expect(board.page.locator(".toast").last).to_contain_text("the message to 11 chosen is on their pages")
        await board.find().fill("")
        await board.button("Message 15…").click()
        await board.page.keyboard.type("Well done.")
        await board.page.keyboard.press("Enter")
        await expect(board.page.locator(".toast").last).to_contain_text("the message to everybody")
        messages = (await board.at.get("/messages"))["messages"]
        assert [(each["text"], len(each.get("links", ()))) for each in messages] == [
            ("Five minutes.", 11),
            ("Well done.", 0),
        ]


async def test_a_name_that_is_the_label_has_one_column(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path)) as board:
        for number in range(2):
            await make_link(board.at, labels={"player": f"seat-{number}"}, name=f"Seat {number}")
            await board.create(labels={"player": f"seat-{number}"})
        await board.open()
        heads = board.page.locator("#table thead th").filter(has_text=re.compile("^player$", re.IGNORECASE))
        await expect(heads).to_have_text(["player"])
        await make_link(board.at, labels={"player": "seat-2"}, name="Ada")
        await board.create(labels={"player": "seat-2"})
        await board.page.reload()
        await expect(heads).to_have_text(["Player", "player"])


async def test_what_a_visitor_of_an_open_link_reads_out_finds_the_broken_instance(
    boards: Boards, tmp_path: Path
) -> None:
    async with lesson(boards, tmp_path) as (board, _):
        link = await make_link(board.at, labels={}, each="visitor", total=5, name="Workshop")
        visitor = await board.page.context.new_page()
        await visitor.goto(f"{board.url}/play#{token_of(link)}")
        await visitor.get_by_role("region", name="lab-3").get_by_role("button", name="Start").click()
        await expect(visitor.get_by_role("region", name="lab-3").get_by_role("button", name="Stop")).to_be_visible()
        (stack,) = (await board.at.get("/stacks?label=link"))["stacks"]
        await board.at.until_status(stack["stack_id"], "failed")
        await visitor.reload()
        await expect(visitor.get_by_role("region", name="lab-3").get_by_role("alert")).to_contain_text("memory")
        read_out = (await visitor.get_by_role("heading", level=1).inner_text()).removeprefix("Workshop ")
        await board.button("Players").click()
        await board.find().fill(read_out.lower())
        rows = board.page.locator("#roster tbody tr")
        # The four characters may be in the id of another player's link, too.
        await expect(rows.filter(has_text=f"Workshop {read_out}")).to_contain_text(["OOMKilled"])
        assert await rows.count() <= 2


@pytest.mark.parametrize(
    ("viewport", "locale"),
    [(DESKTOP, "en-GB"), (PHONE, "de-DE"), (ZOOMED, "fr-FR"), (PHONE, "es-ES")],
    ids=["desktop", "phone, German", "200 %, French", "phone, Spanish"],
)
async def test_the_roster_is_for_everybody(
    boards: Boards, tmp_path: Path, viewport: dict[str, int], locale: str
) -> None:
    async with lesson(boards, tmp_path, viewport=viewport, locale=locale) as (board, _):
        await board.button("Players").press("Enter")
        table = board.page.get_by_role("table", name="Players")
        await expect(table.get_by_role("row", name="Zoë Straße")).to_contain_text("OOMKilled")
        await board.audit("the roster")
        assert await board.page.evaluate(SCROLL_WIDTH) <= viewport["width"]
        if viewport is not DESKTOP:
            assert await board.page.evaluate(TOO_SMALL) == []
        for control in (board.button("not started"), board.page.get_by_label("Choose Emmy Noether")):
            await control.press("Space")
            await expect(control).to_be_focused()
        await expect(board.page.locator("#roster-deeds").get_by_role("status")).to_have_text("1 chosen")
        await board.button("New link 1…").press("Enter")
        await board.page.keyboard.press("Enter")
        await expect(board.dialog.get_by_role("button", name="Copy the link of Emmy Noether")).to_be_visible()
        await board.audit("a new link")
