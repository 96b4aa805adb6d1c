"""The key is asked for once, and kept in this tab only."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from tests.stand import KEY
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

STORED = "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie, location.href]"


async def test_a_wrong_key_is_refused_in_the_apis_words(boards: Boards) -> None:
    async with boards() as board:
        await board.open(key=None)
        await board.page.get_by_label("API key").fill("wrong")
        await board.page.keyboard.press("Enter")
        await expect(board.page.get_by_role("alert").filter(has_text="the API key is not valid")).to_be_visible()
        await expect(board.page.get_by_label("API key")).to_be_focused()
        assert (await board.page.evaluate(STORED))[0] == []
        assert board.refusals == ["401"]


async def test_the_key_is_in_session_storage_and_nowhere_else(board: Board) -> None:
    await board.open()
    session, local, cookie, address = await board.page.evaluate(STORED)
    assert session == [KEY]
    assert KEY not in f"{local}{cookie}{address}{board.requests}"


async def test_a_reload_keeps_the_key_and_forgetting_it_ends_the_session(board: Board) -> None:
    stack = await board.at.create()
    await board.open()
    await board.page.reload()
    await expect(board.row(stack["stack_id"])).to_be_visible()
    await board.page.get_by_role("button", name="Forget key").click()
    await expect(board.page.get_by_label("API key")).to_be_focused()
    await expect(board.rows).to_have_count(0)
    assert (await board.page.evaluate(STORED))[0] == []


async def test_a_key_that_is_withdrawn_brings_the_login_back(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        board.at.daemon.api.keys.replace([], enabled=True, failed_per_minute=0)
        await expect(board.page.locator("#login-error")).to_have_text("the API key is not valid")
        assert set(board.refusals) == {"401"}


async def test_where_no_key_is_needed_none_is_asked_for(boards: Boards) -> None:
    async with boards({"STACKD_AUTH__ENABLED": "false"}) as board:
        await board.open(key=None)
        await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")
        await expect(board.page.get_by_label("API key")).to_be_hidden()


async def test_a_reading_key_sees_everything_and_is_told_what_it_may_not(boards: Boards) -> None:
    async with boards() as board:
        stack = await board.at.create()
        keys: Any = board.at.daemon.api.keys
        reading = [key.model_copy(update={"scope": "read"}) for key in keys._keys]
        keys.replace(reading, enabled=True, failed_per_minute=0)
        await board.open()
        await board.open_panel(stack["stack_id"])
        await board.panel.get_by_role("button", name="+30m").click()
        await expect(board.page.get_by_role("alert").filter(has_text="may only read")).to_be_visible()
        assert board.refusals == ["403"]
