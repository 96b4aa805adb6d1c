"""The panel of one stack: why it failed, what it logged, and which actions are possible. A tenant's texts are inert."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.async_api import Route, expect

from stackd.lifecycle import checks
from tests.harness import request_for, until
from tests.templates import PLAIN, folder_with, shown
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

HOSTILE = """<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>{{7*7}}"""
FAILS = 'check: {image: registry.example/solve, command: [/bin/sh, -c, "echo no flag; exit 1"], every: 1h}\n'
ADDED = "async ([before, after]) => (await import('/static/dashboard/logs.js')).added(before, after)"
GROWTH = [("a\nb\n", "b\nc\n", "c\n"), ("a\nb\n", "x\ny\n", None), ("a\na\na\n", "a\na\nb\n", "b\n")]


async def test_timeline_and_logs_say_why_a_stack_failed(board: Board) -> None:
    stack_id = await board.create("registry.example/fail", "failed")
    await board.page.clock.install()
    await board.open(panel=stack_id)
    await expect(board.panel.locator("p.status")).to_have_text("failed")
    await expect(board.panel.locator(".timeline").get_by_text("failed", exact=True)).to_be_visible()
    await board.open_part("Logs")
    log = board.panel.locator("pre.log")
    await expect(log).to_have_text(re.compile(r"\S"))
    assert await log.text_content() == (await board.at.call("GET", f"/stacks/{stack_id}/logs?tail=100")).text
    await expect(board.panel.get_by_text("It has stopped writing.")).to_be_visible()
    await board.page.evaluate("fetch('/docs').then(() => null)")  # after what is under way
    before = len(board.requests)
    await board.page.clock.run_for(10_000)
    assert not [url for url in board.requests[before:] if "/logs" in url], "a log that has ended is not read again"
    for earlier, later, more in GROWTH:
        assert await board.page.evaluate(ADDED, [earlier, later]) == more


async def test_stop_and_delete_ask_first(board: Board) -> None:
    stack_id = await board.create(status="running")
    await board.open(panel=stack_id)
    panel, status = board.panel, board.panel.locator("p.status")
    for answer, expected in (("Cancel", "running"), ("Stop", "stopped")):
        await panel.get_by_role("button", name="Stop").click()
        await board.confirm(answer)
        await expect(status).to_have_text(expected)
    await panel.get_by_role("button", name="Start", exact=True).click()
    await expect(status).to_have_text("running")
    await panel.get_by_role("button", name="Delete").click()
    await expect(board.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await board.confirm("Delete")
    await expect(board.row(stack_id)).to_have_count(0)
    assert (await board.at.call("GET", f"/stacks/{stack_id}")).status == 404


async def test_a_failing_check_is_shown_wherever_its_challenge_is(
    boards: Boards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FORWARDED_NANOSECONDS", 0)
    shared = PLAIN.replace("ttl: 1h\n", "shared: true\n") + FAILS
    async with boards(folder_with(tmp_path, wiki=shared)) as board:
        checked = await until(lambda: shown(board.at), lambda seen: (seen["wiki"]["checked"] or {}).get("message"))
        stack_id, time = checked["wiki"]["shared_stack"], checked["wiki"]["checked"]["at"]
        await board.open()
        await expect(board.row(stack_id).locator(".status")).to_have_text("check fails")
        chip = board.page.locator('#templates [data-template="wiki"]')
        await expect(chip).to_contain_text("0 of 1 working")
        await expect(chip.locator(f'time[datetime="{time}"]')).to_be_visible()
        await board.open_panel(stack_id)
        await expect(board.panel.locator(f'.facts time[datetime="{time}"]')).to_be_visible()
        await expect(board.panel.locator(".timeline .wrong")).to_contain_text("unhealthy")


async def test_hostile_text_stays_text(board: Board) -> None:
    body = request_for("nginx:stable")
    body["pod_spec"] += f"\n      env:\n        - name: X\n          value: {json.dumps(HOSTILE)}"
    stack = await board.at.create(body)
    texts = dict.fromkeys(("status_reason", "status_message", "node_id"), HOSTILE)
    event = {"at": "2026-01-01T00:00:00Z"} | dict.fromkeys(("kind", "reason", "message", "by"), HOSTILE)

    async def hostile(route: Route) -> None:
        if "/logs" in route.request.url:
            await route.fulfill(body=HOSTILE, content_type="text/plain")
        elif "/timeline" in route.request.url:
            await route.fulfill(json={"stack_id": stack["stack_id"], "events": [event]})
        else:
            await route.fulfill(json={"stacks": [{**stack, **texts, "labels": {HOSTILE: HOSTILE}, "ended": False}]})

    for path in ("**/logs?*", "**/timeline", "**/stacks?*"):
        await board.page.route(path, hostile)
    await board.open(panel=stack["stack_id"])
    await expect(board.row(stack["stack_id"])).to_contain_text("onerror")
    for name in ("Logs", "Pod spec", "Timeline"):
        part = await board.open_part(name)
        await expect(part.get_by_text("onerror").first).to_be_visible()
    assert await board.page.locator("img, body script").count() == 0
    assert await board.page.title() == "stackd"
