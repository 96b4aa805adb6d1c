"""The table follows the event stream, holds its rows still for a reader, and has few of thousands of stacks in the page."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Route, expect

from tests.harness import eventually
from tests.ui.conftest import Board

pytestmark = pytest.mark.ui

MANY = 1_000
ORDER = "() => [...document.querySelectorAll('tbody tr[aria-rowindex]')].map((e) => e.dataset.group ?? e.dataset.id)"
PLACE = """() => [...document.querySelectorAll("tbody tr[data-id]")]
  .map((row) => [row.dataset.id, Math.round(row.getBoundingClientRect().top)]).find(([, top]) => top > 200 && top < 400)"""


async def test_a_stack_appears_changes_and_goes_without_the_list_being_read_again(board: Board) -> None:
    await board.open()
    board.requests.clear()
    stack_id = await board.create(labels={"team": "7"})
    row = board.row(stack_id)
    stack = await board.at.stack(stack_id)
    for text in ("running", "team=7", f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"):
        await expect(row).to_contain_text(text)
    await board.at.call("POST", f"/stacks/{stack_id}/stop")
    await expect(row).to_contain_text("stopped")
    running = asyncio.Event()

    async def delayed(route: Route) -> None:
        answer = await route.fetch()
        await running.wait()
        await route.fulfill(response=answer)

    await board.page.route("**/start", delayed)
    await board.open_panel(stack_id)
    await board.panel.get_by_role("button", name="Start", exact=True).click()
    await expect(row).to_contain_text("running")
    running.set()
    await expect(board.toast).to_contain_text("is starting")
    await expect(row).to_contain_text("running")
    await board.at.call("DELETE", f"/stacks/{stack_id}")
    await expect(row).to_contain_text("gone")
    await board.button("1 gone").click()
    await expect(row).to_have_count(0)
    assert not [url for url in board.requests if url.startswith("/stacks?")]


async def test_rows_stay_where_they_are_until_the_reader_wants_it_and_what_waits_is_said(board: Board) -> None:
    await board.several(*({"team": str(number)} for number in range(6)))
    await board.open(path="/dashboard#sort=status")
    await expect(board.rows).to_have_count(6)
    before, waits = await board.page.evaluate(ORDER), board.page.locator("#fresh button")
    for by in ("eyes", "pointer", "focus"):
        row = board.row(before[2])
        if by != "eyes":
            await (row.locator(".c-status").hover() if by == "pointer" else row.focus())
        meant = await row.bounding_box()
        stopped, gone = before[-1], before[0]
        await board.at.do("stop", stopped)
        await board.at.delete(gone)
        new = await board.create(status="running")
        await expect(waits).to_contain_text("1 new, 1 gone")
        await expect(board.row(stopped)).to_contain_text("stopped")
        await expect(board.row(gone)).to_contain_text("gone")
        assert await board.page.evaluate(ORDER) == [*before, new], "what is new moves nothing"
        assert await row.bounding_box() == meant
        await waits.click()
        await expect(board.row(gone)).to_have_count(0)
        await expect(waits).to_have_count(0)
        assert (await board.page.evaluate(ORDER))[-1] == stopped
        await board.at.do("start", stopped)
        await expect(board.row(stopped)).to_contain_text("running")
        before = await board.page.evaluate(ORDER)


async def test_a_row_that_was_chosen_before_the_hand_moved_is_the_one_that_opens(board: Board) -> None:
    await board.several(*({"team": str(number)} for number in range(12)))
    await board.open()
    await expect(board.rows).to_have_count(12)
    waits = board.page.locator("#fresh button")
    for number in range(4):
        meant = (await board.page.evaluate(ORDER))[3 + number]
        box = await board.row(meant).locator(".c-status").bounding_box()
        assert box is not None
        await board.create()
        await expect(waits).to_contain_text(f"{number + 1} new")  # meanwhile nothing was touched
        await board.page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2, steps=5)
        await board.page.mouse.down()
        await board.page.mouse.up()
        await expect(board.panel.get_by_role("heading")).to_have_text(meant)
        await board.page.keyboard.press("Escape")
    await board.page.evaluate("performance.now = () => 3600e3")  # nobody has touched the page for so long
    await board.page.mouse.move(5, 5)
    await board.page.evaluate("performance.now = () => 7200e3")
    await board.page.evaluate("document.activeElement.blur()")
    await expect(waits).to_have_count(0)
    await expect(board.rows).to_have_count(16)


async def test_a_thousand_stacks_are_few_rows_in_the_page_and_stay_in_place(board: Board) -> None:
    stack = await board.at.stack(await board.create())
    copies = [stack | {"stack_id": f"stack-{n:016x}", "labels": {"team": str(n % 40)}} for n in range(MANY)]

    async def many(route: Route) -> None:
        await route.fulfill(json={"stacks": copies})

    await board.page.route("**/stacks?*", many)
    await board.open()
    table = board.page.locator("#table")
    await expect(table).to_have_attribute("aria-rowcount", str(MANY + 1))
    for part in (0.3, 0.6, 1.0, 0.5, 0.0):
        await board.page.evaluate("(part) => scrollTo(0, document.body.scrollHeight * part)", part)
        await board.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")
        assert 10 <= await board.rows.count() < 60
    await board.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    await expect(board.rows.last).to_have_attribute("aria-rowindex", str(MANY + 1))
    await expect(board.rows.last).to_be_in_viewport()
    await board.page.evaluate("scrollTo(0, 500)")
    await eventually(lambda: board.page.evaluate(PLACE))
    stack_id, top = await board.page.evaluate(PLACE)
    await board.create()
    await expect(table).to_have_attribute("aria-rowcount", str(MANY + 2))
    box = await board.row(stack_id).bounding_box()
    assert box is not None
    assert abs(box["y"] - top) <= 1, "what is being read stays where it is while stacks arrive above"
    await board.find().fill("team=39")
    await expect(table).to_have_attribute("aria-rowcount", str(MANY // 40 + 1))
