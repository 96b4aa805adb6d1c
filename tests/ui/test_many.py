"""Many stacks at once: what is selected, the question before it, the progress after it; what needs attention, and why."""

from __future__ import annotations

import asyncio
import time

import pytest
from playwright.async_api import Route, expect

from stackd.model import AuditEntry, AuditKind, Principal
from tests.ui.conftest import Board

pytestmark = pytest.mark.ui

TIMES = "\N{MULTIPLICATION SIGN}"
IMAGES = {"1": ["nginx:stable", "registry.example/fail"], "2": ["registry.example/oom"] * 3, "10": ["nginx:stable"]}
"""Team 2 is worse off than team 1; nothing is wrong with team 10."""


async def test_delete_reaches_what_the_filter_shows(
    board: Board,
) -> None:
    ids = await board.several(*({"team": str(number % 2)} for number in range(22)))
    await board.open()
    await expect(board.rows).to_have_count(22)
    newest, oldest = ids[-1], ids[1]
    await board.find().fill("team=1")
    await board.row(newest).get_by_role("checkbox").click()
    await board.row(oldest).get_by_role("checkbox").click(modifiers=["Shift"])
    await board.button("Clear filters").click()
    await expect(board.selection).to_contain_text("11 selected")  # a range leaves out what was hidden
    await board.button("running").click()
    await board.at.do("stop", newest)
    await board.button("Order changed").click()
    await expect(board.selection).to_contain_text("10 selected, 1 more is hidden by the filter")
    await board.button("Clear filters").click()
    await board.page.get_by_label("Select all that are shown").check()
    await board.find().fill("team=0")  # as by typing, without Enter
    await expect(board.selection).to_contain_text("11 selected, 11 more are hidden by the filter")
    board.requests.clear()
    await board.button("Delete 11…").click()
    for text in ("Delete 11 stacks?", "team=0", "11 more are selected but hidden; they stay."):
        await expect(board.dialog).to_contain_text(text)
    for typed in ("", "12"):  # many need their number typed
        await board.dialog.get_by_role("textbox").fill(typed)
        await expect(board.dialog.get_by_role("button", name="Delete 11")).to_be_disabled()
    await board.dialog.get_by_role("textbox").fill("11")
    await board.confirm("Delete 11")
    await expect(board.page.locator(".toast")).to_contain_text("11 deleted")
    assert board.requests.count("/stacks/batch") == 1
    assert set(await board.at.listed()) == set(ids[1::2])
    await board.button("Clear filters").click()
    await board.selection.get_by_role("button", name="Clear").click()
    await board.row(oldest).get_by_role("checkbox").check()
    board.at.faults.add_fault(verb="delete", action="status", code=403)
    await board.button("Delete 1…").click()
    await board.confirm("Delete 1")
    await expect(board.selection).to_be_hidden()
    failure = board.page.locator(".toast.wrong")
    await expect(failure).to_contain_text("0 deleted, 1 failed")
    await expect(failure).to_contain_text(oldest)
    await failure.get_by_role("button", name="Dismiss").click()
    await expect(failure).to_have_count(0)


async def unwell(board: Board) -> dict[str, list[str]]:
    """Create the stacks of ``IMAGES``; their ids by team."""
    ids: dict[str, list[str]] = {}
    for team, images in IMAGES.items():
        statuses = ["running" if image == "nginx:stable" else "failed" for image in images]
        pairs = zip(images, statuses, strict=True)
        ids[team] = [await board.create(image, status, labels={"team": team}) for image, status in pairs]
    return ids


async def test_what_needs_attention_is_listed_worst_first_with_the_reason(board: Board) -> None:
    ids = await unwell(board)
    await board.open()
    attention = board.page.locator("#attention")
    rows = attention.locator("tbody tr")
    await expect(attention.locator("summary")).to_have_text(f"Needs attention: 4 stacks: team 2, 3 {TIMES} OOMKilled")
    await attention.locator("summary").click()
    await rows.first.wait_for()
    await board.page.reload()
    await expect(rows.locator("th")).to_have_text(["2", "1"])
    await board.audit("what needs attention")
    why = rows.first.get_by_role("link", name=f"3 {TIMES} OOMKilled")
    page, _, place = (await why.get_attribute("href") or "").partition("#")
    assert f'id="{place}"' in (await board.at.call("GET", page, key=None)).text
    await rows.first.get_by_title("Show 3 failed of team 2").click()
    await expect(board.rows).to_have_count(3)
    await attention.get_by_role("button", name="By node").click()
    node = await rows.first.locator("th").inner_text()
    await rows.first.get_by_title(f"Show Node {node}").click()
    here = [one for team in ids.values() for one in team if (await board.at.stack(one))["node_id"] == node]
    await expect(board.rows).to_have_count(len(here))
    await attention.get_by_role("button", name="By team").click()
    await rows.locator("th", has_text="2").locator("..").get_by_role("button", name="Logs").click()
    await expect(board.panel.locator("pre.log")).to_be_visible()


async def test_activity_finds_a_name_beneath_thousands_of_later_lines(board: Board) -> None:
    log, later = board.at.daemon.context.store.audit, time.time_ns()
    kinds = (AuditKind.RELOAD, AuditKind.REFUSED, AuditKind.TEMPLATE)
    lines = [
        AuditEntry(kind=kind, at=later + n, message=f"line {n}", by=Principal.parse("key:1 busy"))
        for kind in kinds
        for n in range(1_000)
    ]
    await log.keep(
        [
            AuditEntry(
                kind=AuditKind.TAKEOVER,
                at=later - 660_000_000_000,
                message="here now",
                by=Principal.parse("key:2 Alice"),
            )
        ]
    )
    await log.keep(lines)
    typed = asyncio.Event()

    async def slow(route: Route) -> None:
        await typed.wait()
        await route.continue_()

    await board.page.route("**/activity?limit=*", slow)
    await board.open()
    await board.button("Activity").click()
    await board.dialog.get_by_label("Find by key").fill("alice")
    typed.set()
    await expect(board.dialog.locator("li")).to_have_count(1)
    await expect(board.dialog.locator("li")).to_contain_text("Alice takeover")
    await board.dialog.get_by_label("Find by key").fill("line 999")
    await expect(board.dialog.locator("li")).to_have_count(3)
