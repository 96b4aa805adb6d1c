"""Banners show what an operator on duty has to know, and a lost connection is made again."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.api.test_contact import OTHER
from tests.api.test_reconcile import MANY, running, until_held, vanish
from tests.gate import gate
from tests.harness import KEY
from tests.ui.conftest import Boards

pytestmark = pytest.mark.ui


async def test_a_brake_shows_what_it_holds_and_can_be_released(boards: Boards) -> None:
    async with boards() as board:
        ids = await running(board.at, MANY)
        await board.open()
        await vanish(board.at, ids)
        await until_held(board.at, MANY)
        banner = board.page.locator(".banner.brake")
        await expect(banner).to_contain_text(f"{MANY} stacks would be ended")
        await banner.get_by_role("button", name="What would be done?").click()
        await expect(board.dialog).to_contain_text("What reconciliation would do")
        await board.page.keyboard.press("Escape")
        await banner.get_by_role("button", name="Release").click()
        await expect(board.dialog).to_contain_text(f"{MANY} stacks are held back")
        await expect(board.dialog.get_by_role("button", name="Release")).to_be_disabled()
        await board.dialog.get_by_label("Type").fill(str(MANY))
        await board.dialog.get_by_role("button", name="Release").click()
        await expect(board.page.locator(".toast")).to_contain_text(f"{MANY} stacks are released")
        await expect(banner).to_have_count(0)
        for stack_id in ids:
            await board.at.until_status(stack_id, "stopped")
        assert set(board.refusals) == {"503"}


async def test_a_banner_says_that_another_cluster_answers_and_goes_when_the_right_one_is_back(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        banner = board.page.locator("#banners .banner")
        board.at.cluster.faults.add_fault(action="reply", code=200, body=OTHER, verb="get", name="kube-system")
        board.at.doubt()
        await expect(banner).to_contain_text("the file belongs to the cluster with kube-system uid")
        board.at.cluster.faults.clear()
        board.at.doubt()
        await expect(banner).to_have_count(0)
        assert set(board.refusals) == {"503"}


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


async def test_a_cut_stream_goes_on_where_it_was(boards: Boards) -> None:
    async with boards() as board, gate(board.at.port) as way:
        board.url = way.url
        await board.open()
        stack = await board.at.create()
        await expect(board.row(stack["stack_id"])).to_be_visible()
        board.requests.clear()
        await way.shut()
        second = await board.at.create()
        await way.open()
        await expect(board.row(second["stack_id"])).to_be_visible()
        assert any(url.startswith("/events") for url in board.requests)
        assert not [url for url in board.requests if url.startswith("/stacks?")], "there was no need for a list"
        board.complaints.clear()  # the browser reports each refused connection
