"""The figures show what is true, and say when they do not know: no false zeros, no false bars."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import Route, expect

from tests.gate import gate
from tests.harness import KEY, eventually, request_for
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

NOW = "() => document.querySelector('#count').textContent"


async def made(board: Board, count: int) -> list[str]:
    ids = [
        (await board.at.create(request_for("nginx:stable", cpu="1m", memory="1Mi")))["stack_id"] for _ in range(count)
    ]
    for stack_id in ids:
        await board.at.until_status(stack_id, "running")
    return ids


async def sign_in(board: Board) -> None:
    await board.page.goto(board.url + "/dashboard")
    await board.page.get_by_label("API key").fill(KEY)
    await board.page.keyboard.press("Enter")


async def test_the_first_line_counts_statuses_and_says_what_fits(board: Board) -> None:
    ids = await made(board, 3)
    await board.at.call("POST", f"/stacks/{ids[0]}/stop")
    await board.open()
    glance = board.page.locator("#glance")
    await expect(glance).to_contain_text("3 stacks")
    await expect(glance.locator("[data-status=running]")).to_have_text("2running")
    await expect(glance.locator("[data-status=stopped]")).to_have_text("1stopped")
    await expect(glance).to_contain_text("1,764 more fit, limited by ports")
    await made(board, 1)
    await expect(glance.locator("[data-status=running]")).to_have_text("3running")
    await expect(glance).to_contain_text("1,763 more fit", timeout=8_000)


async def test_the_count_is_right_with_the_first_rows_and_read_out_later(board: Board) -> None:
    await made(board, 3)
    await board.open()
    await board.rows.first.wait_for()
    assert await board.page.evaluate(NOW) == "3 stacks"
    await expect(board.page.get_by_role("status").filter(has_text="3 stacks")).to_have_count(1)


async def test_there_are_no_zeros_while_the_list_is_on_its_way(board: Board) -> None:
    await made(board, 2)
    arrived = asyncio.Event()

    async def slow(route: Route) -> None:
        await arrived.wait()
        await route.continue_()

    for path in ("**/stacks?*", "**/capacity?*"):
        await board.page.route(path, slow)
    await sign_in(board)
    await expect(board.page.locator("#loading")).to_be_visible()
    await expect(board.page.locator("#glance")).to_contain_text("… stacks")
    text = await board.page.locator("#glance").inner_text()
    assert not any(character.isdigit() for character in text), text
    assert await board.page.evaluate(NOW) == ""
    arrived.set()
    await expect(board.page.locator("#glance")).to_contain_text("2 stacks")
    await expect(board.page.locator("#loading")).to_be_hidden()


async def test_what_stackd_cannot_tell_is_unknown(boards: Boards) -> None:
    async with boards() as board:
        await made(board, 2)

        async def refused(route: Route) -> None:
            await route.fulfill(status=503, json={"error": "not now"})

        await board.page.route("**/capacity?*", refused)
        await board.open()
        await expect(board.page.locator("#glance")).to_contain_text("what is free is unknown")
        assert set(board.refusals) == {"503"}


async def test_while_the_daemon_is_away_the_last_known_is_grey_with_its_age(boards: Boards) -> None:
    async with boards() as board, gate(board.at.port) as way:
        board.url = way.url
        (stack_id,) = await made(board, 1)
        await board.open()
        await expect(board.page.locator("#glance")).to_contain_text("more fit")
        status = board.row(stack_id).locator(".status")
        live = await status.evaluate("(e) => getComputedStyle(e).color")
        await way.shut()
        notice = board.page.locator("#away")
        await expect(notice).to_contain_text("stackd does not answer")
        await expect(notice).to_contain_text("ago")
        assert await status.evaluate("(e) => getComputedStyle(e).color") != live
        await expect(board.row(stack_id)).to_be_visible()
        await expect(board.page.locator("#glance")).to_contain_text("more fit")
        await way.open()
        await expect(notice).to_be_hidden()
        assert await status.evaluate("(e) => getComputedStyle(e).color") == live
        board.complaints.clear()  # the browser reports each refused connection


async def test_retry_now_connects_at_once(boards: Boards) -> None:
    async with boards() as board, gate(board.at.port) as way:
        board.url = way.url
        await board.page.clock.install()
        await board.open()
        await way.shut()
        notice = board.page.locator("#away")
        await expect(notice).to_be_visible()
        await board.page.clock.pause_at(await board.page.evaluate("Date.now() + 1"))
        # by the time this request has failed, a try of the page that was under way has failed, too
        await board.page.evaluate("fetch('/healthz').catch(() => null)")
        tried = len(board.requests)
        await way.open()
        await notice.get_by_role("button", name="Retry now").click()
        await eventually(lambda: any(url.startswith("/events") for url in board.requests[tried:]))
        await board.page.clock.resume()
        await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")
        board.complaints.clear()


async def test_it_comes_back_within_seconds_after_a_long_absence(boards: Boards) -> None:
    async with boards() as board, gate(board.at.port) as way:
        board.url = way.url
        await board.page.clock.install()
        await board.open()
        await way.shut()
        await expect(board.page.locator("#away")).to_be_visible()
        for _ in range(6):
            before = len(board.requests)
            await board.page.clock.run_for(5_000)
            await eventually(lambda before=before: len(board.requests) > before)  # type: ignore[misc]
        await way.open()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")
        assert loop.time() - began < 10
        board.complaints.clear()


async def test_a_daemon_that_accepts_and_does_not_answer_is_away(boards: Boards) -> None:
    async with boards() as board:
        await board.page.clock.install()
        await board.open()
        held: list[Route] = []

        async def silent(route: Route) -> None:
            held.append(route)

        for path in ("**/readyz", "**/events?*"):
            await board.page.route(path, silent)
        await board.page.clock.run_for(5_000)
        await eventually(lambda: bool(held))
        await board.page.clock.run_for(10_000)
        await expect(board.page.locator("#away")).to_contain_text("stackd does not answer")
        await board.page.unroute("**/readyz")
        await board.page.unroute("**/events?*")
        await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")
