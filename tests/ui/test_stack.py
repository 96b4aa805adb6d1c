"""The panel of one stack: why it failed, what it logged, and which actions are possible. A tenant's texts are inert."""

from __future__ import annotations

import json
import re

import pytest
from playwright.async_api import Route, expect

from tests.harness import request_for
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>{{7*7}}"""


async def test_timeline_and_logs_tell_why_a_stack_failed(board: Board) -> None:
    stack_id = (await board.at.create(request_for("registry.example/fail")))["stack_id"]
    await board.at.until_status(stack_id, "failed")
    await board.open()
    await board.open_panel(stack_id)
    await expect(board.panel.locator("p.status")).to_have_text("failed")
    timeline = board.panel.locator(".timeline")
    for kind in ("accepted", "scheduled", "failed"):
        await expect(timeline.get_by_text(kind, exact=True)).to_be_visible()
    await board.open_part("Logs")
    log = board.panel.locator("pre.log")
    await expect(log).to_have_text(re.compile(r"\S"))
    assert await log.text_content() == (await board.at.call("GET", f"/stacks/{stack_id}/logs?tail=100")).text


async def test_logs_are_followed_and_what_is_read_stays(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.at.until_status(stack_id, "running")
    lines = [f"line {number} of a log that goes on" for number in range(100)]

    async def written(route: Route) -> None:
        await route.fulfill(body="\n".join(lines[-100:]) + "\n", content_type="text/plain")

    await board.page.route("**/logs?*", written)
    await board.page.clock.install()
    await board.open()
    await board.open_panel(stack_id)
    await board.open_part("Logs")
    log = board.panel.locator("pre.log")
    await expect(log).to_contain_text("line 99")
    at_end = "(e) => e.scrollTop + e.clientHeight >= e.scrollHeight - 4"
    assert await log.evaluate(at_end)
    await log.evaluate(
        "(e) => { getSelection().selectAllChildren(e.firstChild.parentNode); globalThis.first = e.firstChild; }"
    )
    lines += ["line 100 is new", "line 101 as well"]
    await board.page.clock.run_for(2_100)
    await expect(log).to_contain_text("line 101 as well")
    await expect(log).to_contain_text("line 0 of")  # lines that were shown stay
    assert (await log.text_content() or "").count("line 99 of") == 1
    assert await log.evaluate("(e) => e.firstChild === globalThis.first")
    assert await log.evaluate(at_end)
    await log.evaluate("(e) => { e.scrollTop = 0; }")
    lines.append("line 102 while one reads above")
    await board.page.clock.run_for(2_100)
    await expect(log).to_contain_text("line 102")
    assert await log.evaluate("(e) => e.scrollTop") == 0
    await board.panel.get_by_label("Follow").uncheck()
    asked = len(board.requests)
    await board.page.clock.run_for(10_000)
    assert not [url for url in board.requests[asked:] if "/logs" in url]
    await board.panel.get_by_label("Follow").check()
    await board.page.keyboard.press("Escape")
    await expect(board.panel).to_be_hidden()
    asked = len(board.requests)
    await board.page.clock.run_for(10_000)
    assert not [url for url in board.requests[asked:] if "/logs" in url]


async def test_logs_of_a_stack_that_has_ended_are_read_once(board: Board) -> None:
    stack_id = (await board.at.create(request_for("registry.example/fail")))["stack_id"]
    await board.at.until_status(stack_id, "failed")
    await board.page.clock.install()
    await board.open()
    await board.open_panel(stack_id)
    await board.open_part("Logs")
    await expect(board.panel.get_by_text("It has stopped writing.")).to_be_visible()
    asked = len(board.requests)
    await board.page.clock.run_for(10_000)
    assert not [url for url in board.requests[asked:] if "/logs" in url]


GROWTH = [
    ("a\nb\n", "a\nb\nc\n", "c\n"),
    ("a\nb\n", "b\nc\n", "c\n"),
    ("a\nb\n", "a\nb\n", ""),
    ("a\nb\n", "x\ny\n", None),
    ("a\na\na\n", "a\na\nb\n", "b\n"),
]


async def test_what_is_new_in_a_log_is_found(board: Board) -> None:
    await board.page.goto(board.url + "/dashboard")
    added = """async ([before, after]) => (await import("/static/dashboard/logs.js")).added(before, after)"""
    for before, after, more in GROWTH:
        assert await board.page.evaluate(added, [before, after]) == more


async def test_a_label_leads_to_all_that_have_it(board: Board) -> None:
    for team in ("7", "8"):
        await board.at.create(request_for("nginx:stable") | {"labels": {"team": team}})
    await board.open()
    await board.row((await board.at.call("GET", "/stacks")).json["stacks"][0]["stack_id"]).locator(".c-status").click()
    await board.panel.get_by_role("button", name="team=7").click()
    await expect(board.rows).to_have_count(1)
    await expect(board.page.get_by_label("Find in")).to_have_value("team=7")


async def test_the_timeline_goes_on_while_it_is_looked_at_and_after_the_end(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.at.until_status(stack_id, "running")
    await board.open()
    await board.open_panel(stack_id)
    await board.at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "10m"})
    await expect(board.panel.locator(".timeline").get_by_text("extended", exact=True)).to_be_visible()
    await board.at.call("DELETE", f"/stacks/{stack_id}")
    await expect(board.panel.get_by_text("This stack is gone")).to_be_visible()
    await expect(board.panel.get_by_role("button", name="Delete")).to_be_hidden()


async def test_a_stack_is_extended_by_a_choice_or_by_what_is_typed(board: Board) -> None:
    stack = await board.at.create(request_for("nginx:stable") | {"ttl": "10m"})
    await board.open()
    await board.open_panel(stack["stack_id"])
    await expect(board.row(stack["stack_id"]).locator(".left")).to_have_text(re.compile("^9m"))
    await board.panel.get_by_role("button", name="+1h").click()
    await expect(board.row(stack["stack_id"]).locator(".left")).to_have_text(re.compile("^1h 09m"))
    await board.panel.get_by_role("button", name="Extend…").click()
    await board.dialog.get_by_label("By how much").fill("2h")
    await board.page.keyboard.press("Enter")
    await expect(board.row(stack["stack_id"]).locator(".left")).to_have_text(re.compile("^3h 09m"))
    await expect(board.page.locator(".toast").last).to_contain_text("1 extended")


async def test_stop_start_and_restart_ask_first_where_something_is_lost(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.at.until_status(stack_id, "running")
    await board.open()
    await board.open_panel(stack_id)
    await board.panel.get_by_role("button", name="Stop").click()
    await board.dialog.get_by_role("button", name="Cancel").click()
    assert (await board.at.stack(stack_id))["status"] == "running"
    await board.panel.get_by_role("button", name="Stop").click()
    await board.dialog.get_by_role("button", name="Stop").click()
    await expect(board.panel.locator("p.status")).to_have_text("stopped")
    await board.panel.get_by_role("button", name="Start", exact=True).click()
    await expect(board.panel.locator("p.status")).to_have_text("running")
    await board.panel.get_by_role("button", name="Restart").click()
    await board.dialog.get_by_role("button", name="Restart").click()
    await expect(board.panel.locator(".timeline").get_by_text("restart requested")).to_be_visible()
    await board.at.until_status(stack_id, "running")


async def test_what_the_api_refuses_is_said_in_its_words(boards: Boards) -> None:
    async with boards({"STACKD_STACKS__MAX_TTL": "2h"}) as board:
        stack_id = (await board.at.create())["stack_id"]
        await board.open()
        await board.open_panel(stack_id)
        await board.panel.get_by_role("button", name="+1h").click()
        said = (await board.at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "1h"})).error
        await expect(board.page.get_by_role("alert").filter(has_text=said[:30])).to_be_visible()
        assert board.refusals == ["409"]


async def test_an_address_is_copied(boards: Boards) -> None:
    async with boards(permissions=["clipboard-read", "clipboard-write"]) as board:
        stack = await board.at.create()
        address = f"{stack['node_public_ip']}:{stack['ports'][0]['node_port']}"
        await board.open()
        await board.row(stack["stack_id"]).get_by_role("button", name=f"Copy {address}").click()
        await expect(board.page.locator(".toast")).to_contain_text(f"copied {address}")
        assert await board.page.evaluate("navigator.clipboard.readText()") == address
        await expect(board.panel).to_be_hidden()


@pytest.mark.parametrize("name", ["Logs", "Pod spec", "Timeline"])
async def test_hostile_text_stays_text(board: Board, name: str) -> None:
    body = request_for("nginx:stable")
    body["pod_spec"] += f"\n      env:\n        - name: X\n          value: {json.dumps(HOSTILE)}"
    stack_id = (await board.at.create(body))["stack_id"]
    await board.at.until_status(stack_id, "running")

    async def hostile(route: Route) -> None:
        await route.fulfill(body=HOSTILE, content_type="text/plain")

    async def hostile_past(route: Route) -> None:
        event = {"at": "2026-01-01T00:00:00Z", "kind": HOSTILE, "reason": HOSTILE, "message": HOSTILE, "by": HOSTILE}
        await route.fulfill(json={"stack_id": stack_id, "events": [event]})

    await board.page.route("**/logs?*", hostile)
    await board.page.route("**/timeline", hostile_past)
    await board.open()
    await board.open_panel(stack_id)
    part = await board.open_part(name)
    await expect(part.get_by_text("onerror").first).to_be_visible()
    assert await board.panel.locator("img, script").count() == 0
    assert await board.page.title() == "stackd"


async def test_a_hostile_label_reason_and_message_stay_text(board: Board) -> None:
    stack = await board.at.create()
    shown = {
        **stack,
        "labels": {HOSTILE: HOSTILE},
        "status_reason": HOSTILE,
        "status_message": HOSTILE,
        "node_id": HOSTILE,
        "ended": False,
    }

    async def hostile(route: Route) -> None:
        await route.fulfill(json={"stacks": [shown]})

    await board.page.route("**/stacks?*", hostile)
    await board.open()
    await board.open_panel(stack["stack_id"])
    await expect(board.row(stack["stack_id"])).to_contain_text("onerror")
    await expect(board.panel).to_contain_text("onerror")
    assert await board.page.locator("img, body script").count() == 0
    assert await board.page.title() == "stackd"
