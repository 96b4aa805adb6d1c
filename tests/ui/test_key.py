"""A browser asks for the key once, and keeps it only in its open tabs."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, Route, expect

from stackd.keys import ApiKey, digest
from tests.harness import KEY, seed
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

TENANT = "sk-tenant-0123456789abcdef0123456789"
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


async def another(board: Board) -> Page:
    """Another tab of the same browser."""
    page = await board.page.context.new_page()
    await page.goto(board.url + "/dashboard")
    return page


async def test_one_signs_in_once_for_all_tabs(board: Board) -> None:
    stack = await board.at.create()
    waiting = await another(board)
    await expect(waiting.get_by_label("API key")).to_be_visible()
    await board.open()
    await expect(waiting.locator("#link")).to_have_attribute("data-state", "live")
    later = await another(board)
    await expect(later.locator(f'tr[data-id="{stack["stack_id"]}"]')).to_be_visible()
    await expect(later.get_by_label("API key")).to_be_hidden()
    session, local, cookie, address = await later.evaluate(STORED)
    assert session == [KEY]
    assert KEY not in f"{local}{cookie}{address}{board.requests}"
    await later.get_by_role("button", name="Forget key").click()
    for page in (board.page, waiting, later):
        await expect(page.get_by_label("API key")).to_be_visible()
        assert (await page.evaluate(STORED))[0] == []
    await expect(board.page.locator("#login-error")).to_have_text("The key was forgotten in another tab.")


async def test_the_key_is_gone_with_the_last_tab(board: Board) -> None:
    await board.open()
    blank = await board.page.context.new_page()
    await board.page.close()
    await blank.goto(board.url + "/dashboard")
    await expect(blank.get_by_label("API key")).to_be_visible()


async def test_a_key_that_is_only_tried_is_handed_to_nobody(boards: Boards) -> None:
    async with boards() as board:
        tried = asyncio.Event()

        async def slow(route: Route) -> None:
            await tried.wait()
            await route.continue_()

        await board.page.route("**/stats", slow)
        await board.open(key=None)
        await board.page.get_by_label("API key").fill("wrong")
        await board.page.keyboard.press("Enter")
        other = await another(board)
        await expect(other.get_by_label("API key")).to_be_visible()
        tried.set()
        await expect(board.page.locator("#login-error")).to_have_text("the API key is not valid")
        assert (await other.evaluate(STORED))[0] == []
        assert board.refusals == ["401"]


async def test_a_tab_that_nobody_sees_gives_its_connection_back(board: Board) -> None:
    await board.page.clock.install()
    await board.open()
    await board.at.until_metric("stackd_event_streams", 1)
    see = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await board.page.evaluate(see, True)
    await board.page.clock.run_for(21_000)
    stack = await board.at.create()  # the daemon notices that a client has left only when it sends something
    await board.at.until_metric("stackd_event_streams", 0)
    await board.page.evaluate(see, False)
    await expect(board.row(stack["stack_id"])).to_be_visible()
    await board.at.until_metric("stackd_event_streams", 1)


async def test_a_key_that_is_withdrawn_brings_the_login_back(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        board.at.put_keys_in_force()
        await expect(board.page.locator("#login-error")).to_have_text("the API key is not valid")
        assert set(board.refusals) == {"401"}


async def test_where_no_key_is_needed_none_is_asked_for(boards: Boards) -> None:
    async with boards({"STACKD_AUTH__ENABLED": "false"}) as board:
        await board.open(key=None)
        await expect(board.page.locator("#link")).to_have_attribute("data-state", "live")
        await expect(board.page.get_by_label("API key")).to_be_hidden()


async def test_a_reading_key_sees_everything_and_no_button_that_would_be_refused(board: Board) -> None:
    stack = await board.at.create(seed() | {"ttl": "5m"})
    await board.at.until_status(stack["stack_id"], "running")
    board.at.put_keys_in_force(*(key.model_copy(update={"scope": "read"}) for key in board.at.config.auth.keys))
    await board.open()
    writes = board.page.get_by_role(
        "button", name=re.compile(r"^(New stack|Extend|Restart|Start|Stop|Delete|Select)( \d+)?…?$")
    )
    await board.page.locator("#attention summary").click()
    await expect(board.page.locator("#attention tbody tr")).to_have_count(1)
    await board.row(stack["stack_id"]).get_by_role("checkbox").check()
    await expect(board.page.locator("#selection")).to_contain_text("1 selected")
    await board.open_panel(stack["stack_id"])
    await expect(writes).to_have_count(0)
    await board.page.keyboard.press("n")
    await expect(board.dialog).to_have_count(0)
    board.at.put_keys_in_force(*board.at.config.auth.keys)
    await board.page.reload()
    await expect(board.panel.get_by_role("button", name="Delete")).to_be_visible()


async def test_a_standby_says_where_the_owner_is(boards: Boards) -> None:
    async with boards() as board:

        async def elsewhere(route: Route) -> None:
            await route.fulfill(json={"role": "standby", "owner": "vm1.example", "asked_for_by": ""})

        async def refused(route: Route) -> None:
            await route.fulfill(status=503, json={"error": "vm1.example owns the stacks"})

        await board.page.route("**/owner", elsewhere)
        await board.page.route("**/stats", refused)
        await board.open(key=None)
        await board.page.get_by_label("API key").fill(KEY)
        await board.page.keyboard.press("Enter")
        link = board.page.get_by_role("alert").get_by_role("link", name="vm1.example")
        await expect(link).to_have_attribute("href", f"http://vm1.example:{board.at.port}/dashboard")
        await board.page.unroute("**/stats")
        await board.page.keyboard.press("Enter")
        await expect(board.page.locator("#owner")).to_have_text("owner vm1.example")
        assert board.refusals == ["503"]


async def test_a_tenants_board_shows_and_deletes_its_own_stacks_and_asks_for_nothing_else(board: Board) -> None:
    tenant = ApiKey(name="ctfd", sha256=digest(TENANT), scope="tenant", labels={"event": "a"})
    board.at.put_keys_in_force(*board.at.config.auth.keys, tenant)
    mine = (await board.at.call("POST", "/stacks", seed(), TENANT)).json
    other = await board.at.create()
    await board.open(key=TENANT)
    await expect(board.rows).to_have_count(1)
    await board.open_panel(mine["stack_id"])
    await expect(await board.open_part("Timeline")).to_contain_text("accepted")
    await board.panel.get_by_role("button", name="Delete").click()
    await board.dialog.get_by_role("button", name="Delete").click()
    await expect(board.rows).to_have_count(0)
    assert (await board.at.stack(other["stack_id"]))["stack_id"] == other["stack_id"]
