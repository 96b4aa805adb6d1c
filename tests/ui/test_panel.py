"""The panel covers the table without moving it, has its own address, and closes with Back."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.harness import KEY
from tests.ui.conftest import DESKTOP, PHONE, Board, Boards

pytestmark = pytest.mark.ui

PLACES = """() => [...document.querySelectorAll(".bar > *, main > .line, .filters > *, thead th, tbody tr[data-id] td, #count")]
  .map((e) => { const b = e.getBoundingClientRect(); return [e.className || e.id, b.x, b.y, b.width, b.height]; })"""


async def sign_in(board: Board) -> None:
    await board.page.get_by_label("API key").fill(KEY)
    await board.page.keyboard.press("Enter")
    await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")


@pytest.mark.parametrize("width", [1024, 1440, 1920])
async def test_opening_it_moves_nothing(boards: Boards, width: int) -> None:
    async with boards(viewport={"width": width, "height": 900}) as board:
        ids = [(await board.at.create())["stack_id"] for _ in range(3)]
        for stack_id in ids:
            await board.at.until_status(stack_id, "running")
        await board.open()
        await expect(board.rows).to_have_count(3)
        await expect(board.page.locator("#glance")).to_contain_text("1,764 more fit")
        before = await board.page.evaluate(PLACES)
        await board.open_panel(ids[1])
        assert await board.page.evaluate(PLACES) == before


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_it_leaves_the_bar_of_the_selection_in_reach(boards: Boards, viewport: dict[str, int]) -> None:
    async with boards(viewport=viewport) as board:
        ids = [(await board.at.create())["stack_id"] for _ in range(2)]
        await board.open()
        await board.row(ids[0]).get_by_role("checkbox").check()
        await board.open_panel(ids[1])
        bar = board.page.locator("#selection")
        await bar.get_by_role("button", name="Delete 1…").click()
        await board.page.keyboard.press("Escape")
        await expect(board.dialog).to_have_count(0)
        last = board.panel.locator("details").last
        await last.scroll_into_view_if_needed()
        panel, foot = await board.panel.bounding_box(), await bar.bounding_box()
        assert panel is not None
        assert foot is not None
        assert panel["y"] + panel["height"] <= foot["y"] + 1
        await bar.get_by_role("button", name="Clear").click()
        await expect(bar).to_be_hidden()


async def test_a_link_opens_it_after_signing_in(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.page.goto(f"{board.at.url}/dashboard#stack={stack_id}")
    await sign_in(board)
    await expect(board.panel.get_by_role("heading", name=stack_id)).to_be_visible()
    await board.page.reload()
    await expect(board.panel.get_by_role("heading", name=stack_id)).to_be_visible()
    await board.panel.get_by_role("button", name="Close the panel").click()
    await expect(board.panel).to_be_hidden()
    assert "stack=" not in board.page.url


async def test_back_closes_it_and_forward_opens_it_again(board: Board) -> None:
    first, second = [(await board.at.create())["stack_id"] for _ in range(2)]
    await board.open()
    await board.open_panel(first)
    assert board.page.url.endswith(f"#stack={first}")
    await board.open_panel(second)
    await board.page.go_back()
    await expect(board.panel).to_be_hidden()
    assert board.page.url == f"{board.at.url}/dashboard"
    await expect(board.row(second)).to_be_focused()
    await board.page.go_forward()
    await expect(board.panel.get_by_role("heading", name=second)).to_be_visible()
    await board.page.keyboard.press("Escape")
    await expect(board.panel).to_be_hidden()
    assert board.page.url == f"{board.at.url}/dashboard"


async def test_closing_it_keeps_the_filter_that_was_set_meanwhile(board: Board) -> None:
    first, second = [(await board.at.create())["stack_id"] for _ in range(2)]
    await board.open()
    await board.open_panel(first)
    await board.page.get_by_label("Find in").fill(second)
    await expect(board.rows).to_have_count(1)
    await board.page.go_back()
    await expect(board.panel).to_be_hidden()
    await expect(board.page.get_by_label("Find in")).to_have_value(second)
    await expect(board.rows).to_have_count(1)
    assert board.page.url.endswith(f"#find={second}")


async def test_another_link_of_the_page_changes_what_is_looked_at(board: Board) -> None:
    first, second = [(await board.at.create())["stack_id"] for _ in range(2)]
    await board.open()
    await expect(board.rows).to_have_count(2)
    await board.page.evaluate("(id) => { location.hash = `#find=${id}&stack=${id}`; }", first)
    await expect(board.rows).to_have_count(1)
    await expect(board.panel.get_by_role("heading", name=first)).to_be_visible()
    await board.page.go_back()
    await expect(board.panel).to_be_hidden()
    await expect(board.row(second)).to_be_visible()
