"""The roster of a class: what a teacher asks and does who is left alone with it."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.players import browser, make_link, settings
from tests.templates import PLAIN, values_of
from tests.ui.conftest import PHONE, Board, Boards

pytestmark = pytest.mark.ui

PEOPLE = ("Ada Lovelace", "Jürgen Müller", "Zoë Straße", "Emmy Noether")
STARTS = {"Ada Lovelace": "lab-1", "Jürgen Müller": "lab-1", "Zoë Straße": "lab-3"}


def names(board: Board) -> Locator:
    return board.page.locator("#roster .called")


def line(board: Board, name: str) -> Locator:
    return board.page.locator("#roster tbody tr").filter(has_text=name)


@asynccontextmanager
async def lesson(boards: Boards, tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Board, dict[str, Any]]]:
    """A class of four: two at work, one whose stack fails, one who has not begun. Their links by name."""
    broken = PLAIN.replace("nginx:stable", "registry.example/oom:1")
    async with boards(settings(tmp_path, lab_3=broken), **options) as board:
        links = {}
        for number, name in enumerate(PEOPLE):
            called = "juergen@school.example" if number == 1 else None
            labels = {"player": f"seat-{number}"}
            links[name] = await make_link(board.at, labels=labels, name=name, player_name=called)
            async with browser(board.at) as seat:
                if name in STARTS:
                    await seat.enter(links[name])
                    await seat.start(STARTS[name])
                    await seat.until("failed" if name == "Zoë Straße" else "running", STARTS[name])
        await board.open()
        yield board, links


async def test_who_has_not_begun_is_stuck_or_has_this_flag_is_found(boards: Boards, tmp_path: Path) -> None:
    """A second link for somebody who has lost the first one shows the same stacks."""
    async with lesson(boards, tmp_path) as (board, _):
        await make_link(board.at, labels={"player": "seat-0"}, name="Ada again")
        await board.button("Players").click()
        for name in ("Ada Lovelace", "Ada again"):
            await expect(line(board, name)).to_contain_text("running")
        await board.button("not started").click()
        await expect(names(board)).to_have_text(["Emmy Noether"])
        await board.button("not started").click()
        await board.button("1 stuck").click()
        await expect(names(board)).to_have_text(["Zoë Straße"])
        await expect(line(board, "Zoë")).to_contain_text("OOMKilled")
        stacks = {one["labels"]["player"]: one for one in await board.at.stacks()}
        flag = (await values_of(board.at, stacks["seat-1"]["stack_id"]))[-1]["FLAG"]
        await board.button("Whose flag…").click()
        await board.page.keyboard.type(flag)
        await board.page.keyboard.press("Enter")
        await expect(board.dialog.get_by_role("status")).to_contain_text("Jürgen Müller")


async def test_a_long_reason_leaves_room_for_the_other_rows(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path, lab_3=PLAIN.replace("nginx:stable", "registry.example/nopull"))) as board:
        async with browser(board.at) as seat:
            await seat.enter(await make_link(board.at, name="Zoë"))
            await seat.start("lab-3")
        await board.open()
        await board.button("Players").click()
        await expect(line(board, "Zoë").get_by_title("no such host")).to_be_visible()
        box = await line(board, "Zoë").bounding_box()
        assert box is not None
        assert box["height"] < 80


async def test_a_new_link_replaces_the_old_one_and_all_are_extended_and_ended(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, links):
        before = {one["labels"]["player"]: one for one in await board.at.stacks()}
        await board.button("Players").click()
        await board.button("New link for Emmy Noether").click()
        await board.page.keyboard.press("Enter")
        new = board.dialog.locator("code.said")
        await expect(new).to_contain_text("/play#")
        async with browser(board.at) as seat:
            assert (await seat.open(links["Emmy Noether"])).code == "link_revoked"
            assert (await seat.open({"url": await new.inner_text()})).status == 204
        await board.page.keyboard.press("Escape")

        await make_link(board.at, labels={"player": "seat-0"}, name="Ada again")
        await expect(line(board, "Ada again")).to_be_visible()
        await board.button("Extend 3…").click()
        await board.page.keyboard.type("10m")
        await board.page.keyboard.press("Enter")
        await expect(board.toast).to_contain_text("2 extended")
        for player in ("seat-0", "seat-1"):
            stack = await board.at.stack(before[player]["stack_id"])
            assert stack["ttl_expires_at"] > before[player]["ttl_expires_at"]

        await board.button("End lab 5…").click()
        await board.confirm("End it")
        await board.at.until_listed(0)
        await expect(names(board)).to_have_count(0)
        assert all(link["revoked"] for link in (await board.at.get("/links"))["links"])


async def test_players_are_found_sorted_chosen_and_exported(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path) as (board, _):
        await board.find().fill("muller")
        await expect(board.rows).to_have_count(1)
        await board.button("Players").click()
        for text in ("mu\N{COMBINING DIAERESIS}ller", "player=seat-1", "juergen@school.example"):
            await board.find().fill(text)
            await expect(names(board)).to_have_text(["Jürgen Müller"])
        await board.find().fill("")
        await expect(names(board)).to_have_text(sorted(PEOPLE))
        await board.button("Status").click()
        await expect(names(board).first).to_have_text("Zoë Straße")
        await board.page.get_by_label("Choose Ada Lovelace").check()
        async with board.page.expect_download() as downloading:
            await board.button("CSV").click()
        download = await downloading.value
        (row,) = csv.DictReader((Path(await download.path())).read_text("utf-8-sig").splitlines())
        assert (row["name"], row["labels"], row["status"]) == ("Ada Lovelace", "player=seat-0", "running")
        async with board.page.context.expect_page() as opening:
            await board.page.get_by_role("link", name="Page of Ada Lovelace").click()
        page = await opening.value
        await expect(page.get_by_role("region", name="Lab one")).to_contain_text("Your instance is running.")
        await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        await page.close()
        await board.button("Revoke 1…").click()
        await board.confirm("Revoke")
        await expect(line(board, "Ada")).to_have_count(0)
        revoked = [link["name"] for link in (await board.at.get("/links"))["links"] if link["revoked"]]
        assert revoked == ["Ada Lovelace"]


async def test_a_message_reaches_those_chosen_or_everybody(boards: Boards, tmp_path: Path) -> None:
    async with boards(settings(tmp_path)) as board:
        for number in range(12):
            await make_link(board.at, labels={"player": f"seat-{number}"}, name=f"Late {number}" if number else "Ada")
        await board.open()
        await board.button("Players").click()
        await board.find().fill("late ")
        await expect(names(board)).to_have_count(11)
        for _ in range(2):
            await board.button("Message 11…").click()
            await expect(board.dialog.get_by_role("textbox")).to_be_focused()
            await board.page.keyboard.press("Escape")
            await expect(board.dialog).to_have_count(0)
        assert await board.page.locator(".toast").count() <= 1, "the same sentence is said once"
        for count, text, whom in ((11, "Five minutes.", "11 chosen"), (12, "Well done.", "everybody")):
            await board.button(f"Message {count}…").click()
            await board.page.keyboard.type(text)
            await board.page.keyboard.press("Enter")
            await expect(board.toast).to_contain_text(f"the message to {whom}")
            await board.find().fill("")
        sent = [(each["text"], len(each.get("links", ()))) for each in (await board.at.get("/messages"))["messages"]]
        assert sent == [("Five minutes.", 11), ("Well done.", 0)]


async def test_the_roster_is_for_everybody(boards: Boards, tmp_path: Path) -> None:
    async with lesson(boards, tmp_path, viewport=PHONE, locale="de-DE") as (board, _):
        await board.button("Players").press("Enter")
        table = board.page.get_by_role("table", name="Players")
        await expect(table.get_by_role("row", name="Zoë Straße")).to_contain_text("OOMKilled")
        await board.audit("the roster")
        await board.fits_a_finger()
        await board.button("Status").press("Enter")
        await expect(names(board).first).to_have_text("Zoë Straße")
        for control in (board.button("not started"), board.page.get_by_label("Choose Emmy Noether")):
            await control.press("Space")
            await expect(control).to_be_focused()
        await board.button("New link 1…").press("Enter")
        await board.page.keyboard.press("Enter")
        await expect(board.dialog.get_by_role("button", name="Copy the link of Emmy Noether")).to_be_visible()
        await board.audit("a new link")
