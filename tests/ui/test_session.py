"""The key, which a browser keeps only in its open tabs; figures that are true or unknown; what the page says of faults."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, Route, expect

from stackd.keys import ApiKey, digest
from tests.brakes import MANY, vanish
from tests.harness import KEY, eventually, harness, seed
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

TENANT = "sk-tenant-0123456789abcdef0123456789"
STORED = "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie, location.href]"
SEE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
COLOUR = "(e) => getComputedStyle(e).color"
WRITES = re.compile(r"^(New stack|Extend|Restart|Start|Stop|Delete|Select)( \d+)?…?$")
HOLD = """() => {
  const { postMessage } = BroadcastChannel.prototype;
  globalThis.held = [];
  BroadcastChannel.prototype.postMessage = function (...said) {
    held.push(() => postMessage.apply(this, said));
  };
}"""
"""A slow tab: what it says to the others is on its way."""
HEAR = """() => {
  globalThis.heard = new Promise((hear) => new BroadcastChannel("stackd.key").addEventListener("message", hear));
}"""


async def another(board: Board) -> Page:
    page = await board.page.context.new_page()
    await page.goto(board.url + "/dashboard")
    return page


async def test_one_signs_in_once_for_all_tabs(board: Board) -> None:
    stack_id = await board.create()
    waiting = await another(board)
    await expect(waiting.get_by_label("API key")).to_be_visible()
    await board.open()
    await board.page.reload()
    await expect(board.row(stack_id)).to_be_visible()
    await expect(waiting.locator("#link")).to_have_attribute("data-state", "live")
    later = await another(board)
    await expect(later.locator(f'tr[data-id="{stack_id}"]')).to_be_visible()
    for page in (board.page, later):
        session, local, cookie, address = await page.evaluate(STORED)
        assert (session, KEY in f"{local}{cookie}{address}{board.requests}") == ([KEY], False)
    await later.get_by_role("button", name="Forget key").click()
    for page in (board.page, waiting, later):
        await expect(page.get_by_label("API key")).to_be_visible()
        assert (await page.evaluate(STORED))[0] == []
    await expect(board.page.locator("#login-error")).to_have_text("The key was forgotten in another tab.")
    await expect(board.rows).to_have_count(0)
    await board.open()
    blank = await board.page.context.new_page()
    for page in (board.page, waiting, later):
        await page.close()
    await blank.goto(board.url + "/dashboard")
    await expect(blank.get_by_label("API key")).to_be_visible()


async def test_an_answer_that_comes_late_brings_no_forgotten_key_back(board: Board) -> None:
    await board.open()
    slow = await another(board)
    await expect(slow.locator("#link")).to_have_attribute("data-state", "live")
    await slow.evaluate(HOLD)
    later = await another(board)
    await expect(later.locator("#link")).to_have_attribute("data-state", "live")
    await slow.wait_for_function("held.length")
    await later.get_by_role("button", name="Forget key").click()
    await later.evaluate(HEAR)
    await slow.evaluate("held.forEach((send) => send())")
    await later.evaluate("heard.then(() => true)")
    for page in (board.page, slow, later):
        await expect(page.get_by_label("API key")).to_be_visible()
        assert (await page.evaluate(STORED))[0] == []


async def test_a_tab_that_is_let_in_while_its_key_is_tried_follows_the_stacks_once(board: Board) -> None:
    streams = set[Request]()

    def ended(request: Request) -> None:
        streams.discard(request)

    board.page.on("request", lambda request: streams.add(request) if "/events" in request.url else None)
    board.page.on("requestfailed", ended)
    async with board.held("**/stats"):
        await board.open(live=False)
        other = await another(board)
        await other.get_by_label("API key").fill(KEY)
        await other.keyboard.press("Enter")
        await board.is_live()
    await expect(board.page.get_by_label("API key")).to_have_value("")
    await board.is_live()
    await eventually(lambda: len(streams) == 1)


async def test_a_key_that_is_refused_is_handed_to_nobody_and_brings_the_login_back(boards: Boards) -> None:
    async with boards(refused={"401"}) as board:
        async with board.held("**/stats"):
            await board.open("wrong", live=False)
            other = await another(board)
            await expect(other.get_by_label("API key")).to_be_visible()
        error = board.page.get_by_role("alert").filter(has_text="the API key is not valid")
        await expect(error).to_be_visible()
        for page in (board.page, other):
            assert (await page.evaluate(STORED))[0] == []
        await board.open()
        board.at.put_keys_in_force()
        await expect(error).to_be_visible()


async def test_a_key_sees_and_may_do_what_its_scope_allows(board: Board) -> None:
    admin = board.at.config.auth.keys
    tenant = ApiKey(name="ctfd", sha256=digest(TENANT), scope="tenant", labels={"event": "a"})
    stack_id = await board.create(status="running", ttl="5m")
    board.at.put_keys_in_force(*(key.model_copy(update={"scope": "read"}) for key in admin), tenant)
    await board.open()
    await board.page.locator("#attention summary").click()
    await expect(board.page.get_by_text("read only")).to_be_visible()
    await expect(board.page.get_by_role("checkbox")).to_have_count(0)
    await board.open_panel(stack_id)
    await expect(board.page.get_by_role("button", name=WRITES)).to_have_count(0)
    await board.page.keyboard.press("n")
    await expect(board.dialog).to_have_count(0)
    board.at.put_keys_in_force(*admin, tenant)
    await board.page.reload()
    await expect(board.panel.get_by_role("button", name="Delete")).to_be_visible()
    await board.button("Forget key").click()
    mine = (await board.at.call("POST", "/stacks", seed(), TENANT)).json["stack_id"]
    await board.open(TENANT)
    await expect(board.rows).to_have_count(1)
    await board.open_panel(mine)
    await board.panel.get_by_role("button", name="Delete").click()
    await board.confirm("Delete")
    await expect(board.rows).to_have_count(0)
    assert await board.at.listed() == [stack_id]


PLAY = {"STACKD_PLAY__URL": "https://stackd.example", "STACKD_PLAY__SECRET": "0123456789abcdef" * 2}


async def test_a_helpers_link_reads_the_page_until_it_is_revoked_there(boards: Boards) -> None:
    async with boards(PLAY, permissions=["clipboard-read", "clipboard-write"]) as board:
        stack_id = await board.create(status="running", labels={"challenge": "web-1", "team": "7"})
        await board.open()
        await board.button("Access").click()
        await board.audit("access")
        await board.page.keyboard.type("Alice")
        await board.page.keyboard.press("Enter")
        await expect(board.dialog).to_contain_text("Whoever has this link is Alice until")
        await board.audit("the link")
        await board.confirm("Copy")
        link = await board.page.evaluate("navigator.clipboard.readText()")
        await board.page.keyboard.press("Escape")
        assert board.page.context.browser is not None
        page = await (helper := await board.page.context.browser.new_context()).new_page()
        await page.goto(link.replace(PLAY["STACKD_PLAY__URL"], board.url) + ".")
        await expect(page.locator(f'tr[data-id="{stack_id}"]')).to_be_visible()
        await expect(page.get_by_text("read only")).to_be_visible()
        await expect(page.get_by_role("button", name="Access")).to_be_hidden()
        assert page.url == f"{board.url}/dashboard"
        await board.button("Access").click()
        await board.dialog.get_by_role("button", name="Revoke the link of Alice").click()
        await board.confirm("Revoke")
        await expect(board.dialog.locator("li")).to_have_count(0)
        await expect(page.get_by_label("API key")).to_be_visible()
        await helper.close()
        await board.page.keyboard.press("Escape")
        await board.open_panel(stack_id)
        await board.panel.get_by_role("button", name="Link for a player…").click()
        await expect(board.dialog.get_by_label("Labels")).to_have_value("team=7")
        await board.confirm("Make the link")
        await expect(board.dialog).to_contain_text("https://stackd.example/play#")


async def test_a_standby_says_where_the_owner_is(boards: Boards, tmp_path: Path) -> None:
    lease = {"STACKD_CLUSTER__LEASE_DURATION": "4s"}
    (tmp_path / "standby").mkdir()
    async with (
        boards(lease, refused={"503"}) as board,
        harness(tmp_path / "standby", lease, cluster=board.at.cluster, wait=False, host="vm2") as standby,
    ):
        await standby.until_metric("stackd_standby", 1)
        board.url = standby.url
        await board.open(live=False)
        owner = socket.gethostname().lower()
        link = board.page.get_by_role("alert").get_by_role("link", name=owner)
        await expect(link).to_have_attribute("href", f"http://{owner}:{standby.port}/dashboard")
        board.url = board.at.url
        await board.open()
        await expect(board.page.locator("#owner")).to_have_text(f"owner {owner}")


async def test_the_browser_refuses_to_turn_text_into_markup(boards: Boards) -> None:
    async with boards({"STACKD_AUTH__ENABLED": "false"}, reports=True, refused=None) as board:
        for path in ("/dashboard", "/docs", "/docs/api-guide"):
            await board.page.goto(board.url + path)
            for attempt in ("document.body.innerHTML = '<b>'", "document.write('<b>')"):
                caught = f"() => {{ try {{ {attempt} }} catch (error) {{ return error.name }} }}"
                assert await board.page.evaluate(caught) == "TypeError", (path, attempt)
        await board.page.goto(board.url + "/dashboard")
        await board.is_live()  # and asks for no key, where none is needed


# ---- figures: no false zeros, no false bars


async def test_the_first_line_says_what_fits(boards: Boards) -> None:
    async with boards(refused={"503"}) as board:
        await board.several({}, {}, {})
        glance = board.page.locator("#glance")
        async with board.held("**/stacks?*", "**/capacity?*"):
            await board.open(live=False)
            await expect(board.page.locator("#loading")).to_be_visible()
            await expect(glance).to_contain_text("… stacks")
            text = await glance.inner_text() + await board.page.locator("#count").inner_text()
            assert not any(character.isdigit() for character in text), text
            await board.audit("waiting")
        await board.rows.first.wait_for()
        await expect(board.page.locator("#loading")).to_be_hidden()
        await expect(board.page.locator("#attention summary")).to_have_text("Nothing needs attention")
        await expect(glance).to_contain_text("1,764 more fit, limited by ports")
        await board.create(status="running")
        await expect(glance).to_contain_text("1,763 more fit")
        refusal = {"error": "not now"}
        await board.page.route("**/capacity?*", lambda route: route.fulfill(status=503, json=refusal))
        await board.page.reload()
        await expect(glance).to_contain_text("what is free is unknown")


async def test_while_the_daemon_is_away_figures_are_grey_with_their_age(boards: Boards) -> None:
    async with boards(gated=True) as board:
        stack_id = await board.create(status="running")
        await board.page.clock.install()
        await board.open()
        glance, notice = board.page.locator("#glance"), board.page.locator("#away")
        await expect(glance).to_contain_text("more fit")
        status = board.row(stack_id).locator(".status")
        live = await status.evaluate(COLOUR)
        board.requests.clear()
        await board.gate.shut()
        second = await board.at.create()
        await expect(notice).to_have_text(re.compile("stackd does not answer.* ago"))
        assert await status.evaluate(COLOUR) != live
        await expect(glance).to_contain_text("more fit")
        await board.audit("away")
        for _ in range(6):
            board.requests.clear()
            await board.page.clock.run_for(5_000)
            await eventually(lambda: any(url.startswith("/events") for url in board.requests))
        await board.page.clock.pause_at(await board.page.evaluate("Date.now() + 1"))
        # by the time this request has failed, a try of the page that was under way has failed, too
        await board.page.evaluate("fetch('/healthz').catch(() => null)")
        await board.gate.open()
        await board.button("Retry now").click()
        await board.page.clock.resume()
        await expect(notice).to_be_hidden()
        assert await status.evaluate(COLOUR) == live
        await expect(board.row(second["stack_id"])).to_be_visible()
        assert not [url for url in board.requests if url.startswith("/stacks?")], "a cut stream goes on where it was"


async def test_a_hidden_tab_gives_its_stream_back(boards: Boards) -> None:
    async with boards() as board:
        await board.page.clock.install()
        await board.open()
        unanswered: list[Route] = []

        async def silent(route: Route) -> None:
            unanswered.append(route)

        for path in ("**/readyz", "**/events?*"):
            await board.page.route(path, silent)
        await board.page.clock.run_for(5_000)
        await eventually(lambda: unanswered)
        await board.page.clock.run_for(10_000)
        await expect(board.page.locator("#away")).to_contain_text("stackd does not answer")
        for path in ("**/readyz", "**/events?*"):
            await board.page.unroute(path)
        await board.is_live()
        await board.at.until_metric("stackd_event_streams", 1)
        await board.page.evaluate(SEE, True)
        await board.page.clock.run_for(21_000)
        stack = await board.at.create()  # the daemon notices that a client has gone only when it sends something
        await board.at.until_metric("stackd_event_streams", 0)
        await board.page.evaluate(SEE, False)
        await expect(board.row(stack["stack_id"])).to_be_visible()
        await board.at.until_metric("stackd_event_streams", 1)


# ---- banners


OTHER = '{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"kube-system","uid":"another","resourceVersion":"3"}}'


async def test_a_released_brake_names_what_it_let_go(boards: Boards) -> None:
    async with boards(refused={"503"}, faster=True) as board:
        ids = await board.several(*[{}] * MANY)
        await board.open()
        await vanish(board.at, ids)
        banner = board.page.locator(".banner.brake")
        await expect(banner).to_contain_text(f"{MANY} stacks would be ended")
        await banner.get_by_role("button", name="Release").click()
        await expect(board.dialog.get_by_role("button", name="Release")).to_be_disabled()
        await board.dialog.get_by_label("Type").fill(str(MANY))
        told = board.page.locator(".toast", has_text=f"{MANY} stacks are released").wait_for()
        await asyncio.gather(told, board.confirm("Release"))  # it goes after a moment: the page's timers are fast
        await expect(banner).to_have_count(0)
        await board.at.until_status(ids[-1], "stopped")
        banner = board.page.locator("#banners .banner")
        board.at.faults.add_fault(action="reply", code=200, body=OTHER, verb="get", name="kube-system")
        board.at.verify_again()
        await expect(banner).to_contain_text("the file belongs to the cluster with kube-system uid")
        board.at.faults.clear()
        board.at.verify_again()
        await expect(banner).to_have_count(0)


async def test_without_a_free_stream_the_list_is_read_again_and_again(boards: Boards) -> None:
    async with boards({"STACKD_LIMITS__EVENT_STREAMS": "1"}, refused={"503"}, faster=True) as board:
        stream = await board.at.session.get(board.at.url + "/events", headers={"X-API-KEY": KEY})
        assert stream.status == 200
        await board.open(live=False)
        await board.is_live("polling")
        stack = await board.at.create()
        await expect(board.row(stack["stack_id"])).to_be_visible()
        stream.close()
