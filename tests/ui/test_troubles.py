"""What the person on duty has to know is in the banners; a lost connection is made again."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from stackd.lifecycle.brake import WrongCluster
from tests.harness import KEY, eventually
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui


async def test_a_brake_shows_what_it_holds_and_can_be_released(boards: Boards) -> None:
    async with boards() as board:
        created = [await board.at.create() for _ in range(12)]
        for stack in created:
            await board.at.until_status(stack["stack_id"], "running")
        await board.open()
        brake = board.at.daemon.context.brake
        held = {stack["stack_id"]: "END" for stack in created}
        board.at.daemon.schedule.stop()
        assert not await board.at.daemon.context.tasks.finish(
            5.0
        )  # a pass that is under way would find nothing to hold
        assert brake.hold_back(held, held, 0.2) == held.keys()
        banner = board.page.locator(".banner.brake")
        await expect(banner).to_contain_text("12 stacks would be ended")
        await banner.get_by_role("button", name="What would be done?").click()
        await expect(board.dialog).to_contain_text("What reconciliation would do")
        await board.page.keyboard.press("Escape")
        await banner.get_by_role("button", name="Release").click()
        await expect(board.dialog).to_contain_text("12 stacks are held back")
        await board.dialog.get_by_role("button", name="Release").click()
        await expect(board.page.locator(".toast")).to_contain_text("12 stacks are released")
        assert set(board.refusals) == {"503"}


async def test_a_banner_says_that_kubernetes_is_away_and_goes_when_it_is_back(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        board.at.daemon.context.brake.wrong_cluster = wrong = WrongCluster(expected="one", found="another")
        await expect(board.page.locator("#banners .banner")).to_contain_text(str(wrong)[:40])
        board.at.daemon.context.brake.wrong_cluster = None
        await expect(board.page.locator("#banners .banner")).to_have_count(0)


async def test_without_a_free_stream_the_list_is_read_again_and_again(boards: Boards) -> None:
    async with boards({"STACKD_LIMITS__EVENT_STREAMS": "1"}) as board:
        headers = {"X-API-KEY": KEY}
        async with board.at.session.get(board.at.url + "/events", headers=headers) as held:
            assert held.status == 200
            await board.page.goto(board.at.url + "/dashboard")
            await board.page.get_by_label("API key").fill(KEY)
            await board.page.keyboard.press("Enter")
            await expect(board.page.locator("#link")).to_have_attribute("data-state", "polling")
            stack = await board.at.create()
            await expect(board.row(stack["stack_id"])).to_be_visible()
        assert set(board.refusals) == {"503"}


async def test_a_cut_stream_goes_on_where_it_was(board: Board) -> None:
    await board.open()
    stack = await board.at.create()
    await expect(board.row(stack["stack_id"])).to_be_visible()
    board.requests.clear()
    feed = board.at.daemon.api.feed
    feed.closed = True  # every stream ends at its next word
    second = await board.at.create()
    await eventually(lambda: any(url.startswith("/events") for url in board.requests))
    feed.closed = False
    await expect(board.row(second["stack_id"])).to_be_visible()
    assert not [url for url in board.requests if url.startswith("/stacks?")], "there was no need for a list"
