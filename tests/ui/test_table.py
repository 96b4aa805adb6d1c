"""The table follows the event stream, and stays fast with thousands of stacks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Route, expect

from tests.harness import eventually, request_for
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

MANY = 1_000
LONG_TASKS = """
globalThis.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask" });
"""


async def made(board: Board, image: str = "nginx:stable", **more: Any) -> str:
    body = request_for(image, cpu="1m", memory="1Mi") | more
    stack_id: str = (await board.at.create(body))["stack_id"]
    return stack_id


async def test_a_stack_appears_changes_and_goes_without_the_list_being_read_again(board: Board) -> None:
    await board.open()
    board.requests.clear()
    stack_id = await made(board, labels={"team": "7"})
    row = board.row(stack_id)
    await expect(row).to_contain_text("running")
    await expect(row).to_contain_text("team=7")
    stack = await board.at.stack(stack_id)
    await expect(row).to_contain_text(f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}")
    await expect(board.page.locator("#count")).to_have_text("1 stack")
    await board.at.call("POST", f"/stacks/{stack_id}/stop")
    await expect(row).to_contain_text("stopped")
    await expect(row).to_contain_text("StoppedByUser")
    await board.at.call("DELETE", f"/stacks/{stack_id}")
    await expect(row).to_have_count(0)
    assert not [url for url in board.requests if url.startswith("/stacks?")]


async def test_only_the_row_that_changed_is_touched(board: Board) -> None:
    first, second = await made(board), await made(board)
    for stack_id in (first, second):
        await board.at.until_status(stack_id, "running")
    await board.open()
    await expect(board.rows).to_have_count(2)
    await board.page.evaluate(
        """(id) => {
          globalThis.touched = [];
          const row = document.querySelector(`tr[data-id="${id}"]`);
          const cells = ".c-status, .c-id, .c-address, .c-node, .c-labels";
          for (const cell of row.querySelectorAll(cells))
            new MutationObserver(() => touched.push(cell.className))
              .observe(cell, { subtree: true, childList: true, characterData: true });
        }""",
        first,
    )
    await board.at.call("POST", f"/stacks/{second}/stop")
    await expect(board.row(second)).to_contain_text("stopped")
    assert await board.page.evaluate("touched") == []


async def test_filters_narrow_the_list_and_outlive_a_reload(board: Board) -> None:
    ids = {team: await made(board, labels={"team": team}) for team in ("7", "77")}
    failed = await made(board, "registry.example/fail")
    await board.at.until_status(failed, "failed")
    await board.open()
    await expect(board.rows).to_have_count(3)
    label = board.page.get_by_label("Find in")
    await label.fill("team=7")
    await label.press("Enter")
    await expect(board.rows).to_have_count(1)
    await expect(board.row(ids["7"])).to_be_visible()
    await expect(board.page.locator("#count")).to_have_text("1 of 3 stacks")
    await board.page.get_by_role("button", name="Clear filters").click()
    await board.page.get_by_role("button", name="failed").click()
    await expect(board.rows).to_have_count(1)
    await expect(board.row(failed)).to_be_visible()
    await board.page.reload()
    await expect(board.rows).to_have_count(1)
    await expect(board.page.get_by_role("button", name="failed")).to_have_attribute("aria-pressed", "true")
    await board.page.get_by_role("button", name="Clear filters").click()
    await board.page.get_by_label("Find in").fill(ids["77"][-6:])
    await expect(board.rows).to_have_count(1)
    await expect(board.row(ids["77"])).to_be_visible()
    await board.page.get_by_label("Find in").fill("nothing is like this")
    await expect(board.page.get_by_text("No stack matches the filter.")).to_be_visible()


async def test_a_node_can_be_chosen(board: Board) -> None:
    nodes = [(await board.at.stack(await made(board)))["node_id"] for _ in range(6)]
    await board.open()
    await expect(board.rows).to_have_count(6)
    for node in sorted(set(nodes)):
        await board.page.locator("#node").select_option(node)
        await expect(board.page.locator("tbody .c-node")).to_have_text([node] * nodes.count(node))


async def test_columns_sort_both_ways(board: Board) -> None:
    for ttl in ("40m", "10m", "20m"):
        await made(board, ttl=ttl)
    await board.open()
    await expect(board.rows).to_have_count(3)
    left = board.page.locator("thead").get_by_role("button", name="Time left")
    times = board.page.locator("tbody .left")

    async def minutes() -> list[str]:
        return [text[:1] for text in await times.all_inner_texts()]

    await left.click()
    await expect(board.page.locator("th.c-left")).to_have_attribute("aria-sort", "ascending")
    assert await minutes() in (["9", "1", "3"], ["1", "2", "4"])
    await left.click()
    await expect(board.page.locator("th.c-left")).to_have_attribute("aria-sort", "descending")
    assert await minutes() in (["3", "1", "9"], ["4", "2", "1"])


async def test_a_thousand_stacks_are_few_rows_in_the_page_and_scroll_smoothly(boards: Boards) -> None:
    async with boards() as board:
        slots = asyncio.Semaphore(24)

        async def one(number: int) -> None:
            async with slots:
                await made(board, labels={"team": str(number % 40)})

        await asyncio.gather(*(one(number) for number in range(MANY)))
        await board.page.add_init_script(LONG_TASKS)
        await board.open()
        table = board.page.locator("#table")
        await expect(table).to_have_attribute("aria-rowcount", str(MANY + 1))
        await board.page.evaluate("longTasks.length = 0")
        for part in (0.3, 0.6, 1.0, 0.5, 0.0):
            await board.page.evaluate("(part) => scrollTo(0, document.body.scrollHeight * part)", part)
            await board.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")
            assert 10 <= await board.rows.count() < 60
        await board.page.evaluate("scrollTo(0, document.body.scrollHeight)")
        last = board.rows.last
        await expect(last).to_have_attribute("aria-rowindex", str(MANY + 1))
        await expect(last).to_be_in_viewport()
        await board.page.get_by_label("Find in").fill("team=39")
        await expect(table).to_have_attribute("aria-rowcount", str(MANY // 40 + 1))
        tasks = await board.page.evaluate("longTasks")
        assert max(tasks, default=0) < 400, tasks
        assert sum(tasks) < 1_500, tasks


async def test_what_is_being_read_stays_where_it_is_while_stacks_arrive_above(board: Board) -> None:
    for _ in range(40):
        await made(board)
    await board.open()
    await expect(board.page.locator("#table")).to_have_attribute("aria-rowcount", "41")
    await board.page.evaluate("scrollTo(0, 500)")

    async def scrolled() -> bool:
        return bool(await board.page.evaluate("scrollY === 500 && document.querySelector('tbody tr').offsetHeight > 0"))

    await eventually(scrolled)
    place = """() => {
      const rows = [...document.querySelectorAll("tbody tr[data-id]")];
      const row = rows.find((each) => each.getBoundingClientRect().top > 200);
      return [row.dataset.id, Math.round(row.getBoundingClientRect().top)];
    }"""
    stack_id, top = await board.page.evaluate(place)
    await made(board)
    await expect(board.page.locator("#table")).to_have_attribute("aria-rowcount", "42")
    box = await board.row(stack_id).bounding_box()
    assert box is not None
    assert abs(box["y"] - top) <= 1


async def test_an_answer_that_comes_late_does_not_undo_what_the_stream_has_told(board: Board) -> None:
    stack_id = await made(board)
    await board.at.until_status(stack_id, "running")
    await board.at.call("POST", f"/stacks/{stack_id}/stop")
    await board.open()
    await board.row(stack_id).locator(".c-status").click()
    running = asyncio.Event()

    async def late(route: Route) -> None:
        answer = await route.fetch()
        await running.wait()
        await route.fulfill(response=answer)

    await board.page.route("**/start", late)
    await board.panel.get_by_role("button", name="Start", exact=True).click()
    await expect(board.row(stack_id)).to_contain_text("running")
    running.set()
    await expect(board.page.locator(".toast")).to_contain_text("is starting")
    await expect(board.row(stack_id)).to_contain_text("running")
