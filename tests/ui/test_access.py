"""The pages can be used without a mouse, with a screen reader, in light and dark, and on a phone."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

WRONG = "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: true\n  containers: 3\n"


async def three(board: Board) -> list[str]:
    kinds = (("nginx:stable", "running"), ("registry.example/fail", "failed"), ("registry.example/exit0", "stopped"))
    return [await board.create(image, status, labels={"team": "7"}) for image, status in kinds]


async def test_the_keyboard_does_all_without_losing_the_focus(board: Board) -> None:
    ids = (await three(board))[::-1]  # the newest first
    await board.open()
    await expect(board.rows).to_have_count(3)
    grid = board.page.get_by_role("grid", name="Stacks")
    await expect(grid.get_by_role("row")).to_have_count(4)
    await expect(board.page.locator("#count-said")).to_have_text("3 stacks")
    keys = board.page.keyboard
    for key, row in (("j", 0), ("j", 1), ("k", 0)):
        await keys.press(key)
        await expect(board.row(ids[row])).to_be_focused()
    await keys.press("x")
    await expect(board.row(ids[0])).to_have_attribute("aria-selected", "true")
    await keys.press("j")
    await keys.press("Enter")
    await expect(board.panel).to_be_focused()
    await expect(board.panel.get_by_role("heading")).to_have_text(ids[1])
    await keys.press("Escape")
    await expect(board.panel).to_be_hidden()
    await expect(board.row(ids[1])).to_be_focused()
    new = await board.create()
    await expect(board.page.locator("#fresh")).to_contain_text("1 new")
    await expect(board.row(ids[1])).to_be_focused()
    await keys.press("Escape")
    await expect(board.row(ids[0])).to_have_attribute("aria-selected", "false")
    await keys.press("/")
    await expect(board.row(new)).to_be_visible()
    await keys.type("j/k?nx")
    await expect(board.find()).to_have_value("j/k?nx")


async def test_a_phone_shows_what_is_wrong_first(boards: Boards) -> None:
    width, height = 360, 740
    async with boards(viewport={"width": width, "height": height}, has_touch=True) as board:
        failed = (await three(board))[1]
        other = await board.create(labels={"team": "8"})
        await board.open()
        await expect(board.rows.first).to_have_attribute("data-id", failed)
        for text in ("needs attention", "failed", "more fit"):
            await expect(board.page.locator("#glance").get_by_text(text)).to_be_in_viewport(ratio=1)
        await board.page.locator("#attention summary").tap()
        restart = board.page.locator("#attention tbody tr").get_by_role("button", name="Restart 1…")
        await expect(restart).to_be_in_viewport(ratio=1)
        await board.fits_a_finger()
        await board.row(other).get_by_role("checkbox").locator("..").tap()
        await expect(board.selection).to_contain_text("1 selected")
        await board.row(failed).locator(".c-status").tap()
        await expect(board.panel.get_by_role("button", name="Delete")).to_be_visible()
        await board.fits_a_finger()
        await board.page.set_viewport_size({"width": width, "height": 320})  # the keyboard is open
        await board.selection.get_by_role("button", name="Extend…").tap()
        for name in ("Extend 1", "Cancel"):
            await expect(board.dialog.get_by_role("button", name=name, exact=True)).to_be_in_viewport(ratio=1)


async def test_axe_finds_nothing_in_any_state_of_the_page(boards: Boards) -> None:
    async with boards(refused={"400"}) as board:
        await board.page.goto(board.url + "/dashboard")
        await expect(board.page.get_by_label("API key")).to_be_visible()
        await board.audit("the login")
        await board.open()
        await expect(board.page.get_by_text("There are no stacks.")).to_be_visible()
        await board.audit("no stacks")
        ids = await three(board)
        await expect(board.rows).to_have_count(3)
        await board.audit("the table")
        await board.page.get_by_label("Group").select_option("label:team")
        await board.page.locator("tr.group button").first.click()
        await board.audit("groups")
        await board.page.get_by_label("Group").select_option("")
        await board.row(ids[0]).get_by_role("checkbox").check()
        await board.open_panel(ids[1])
        for name in ("Timeline", "Logs", "Pod spec"):
            part = await board.open_part(name)
            await expect(part.locator(":is(li, pre:not(:empty))").first).to_be_visible()
        await board.audit("the panel")
        await board.page.keyboard.press("Escape")
        await board.button("Delete 1…").click()
        await board.audit("the question")
        await board.page.keyboard.press("Escape")
        await board.page.keyboard.press("?")
        await board.audit("the help")
        await board.page.keyboard.press("Escape")
        await board.button("New").click()
        await board.dialog.get_by_label("Pod, as YAML").fill(WRONG)
        await board.dialog.get_by_label("Ports").fill("x")
        await board.confirm("Check")
        await expect(board.dialog.locator(".mistakes li").nth(1)).to_be_visible()
        await board.audit("the create dialog with mistakes")
