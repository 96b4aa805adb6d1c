"""Many stacks at once: what is selected, the question before it, the progress after it; what needs attention, and why."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.ui.conftest import Board

pytestmark = pytest.mark.ui

TIMES = "\N{MULTIPLICATION SIGN}"
IMAGES = {"1": ["nginx:stable", "registry.example/fail"], "2": ["registry.example/oom"] * 3, "10": ["nginx:stable"]}
"""Team 2 is worse off than team 1; nothing is wrong with team 10."""


async def test_delete_reaches_what_the_filter_shows(board: Board) -> None:
    ids = await board.several(*({"team": str(number % 2)} for number in range(22)))
    await board.open()
    await expect(board.rows).to_have_count(22)
    newest, oldest = ids[-1], ids[1]
    await board.find().fill("team=1")
    await board.row(newest).get_by_role("checkbox").click()
    await board.row(oldest).get_by_role("checkbox").click(modifiers=["Shift"])
    await board.button("Clear filters").click()
    await expect(board.selection).to_contain_text("11 selected")  # a range leaves out what was hidden
    await board.page.get_by_label("Select all that are shown").check()
    await board.find().fill("team=0")  # as by typing, without Enter
    await expect(board.selection).to_contain_text("11 selected, 11 more are hidden by the filter")
    board.requests.clear()
    await board.button("Delete 11…").click()
    await expect(board.dialog).to_contain_text("11 more are selected but hidden; they stay.")
    await board.dialog.get_by_role("textbox").fill("12")  # many need their number typed
    await expect(board.dialog.get_by_role("button", name="Delete 11")).to_be_disabled()
    await board.dialog.get_by_role("textbox").fill("11")
    await board.confirm("Delete 11")
    await expect(board.toast).to_contain_text("11 deleted")
    assert board.requests.count("/stacks/batch") == 1
    assert set(await board.at.listed()) == set(ids[1::2])
    await board.button("Clear filters").click()
    await board.selection.get_by_role("button", name="Clear").click()
    await board.row(oldest).get_by_role("checkbox").check()
    board.at.faults.add_fault(verb="delete", action="status", code=403)
    await board.button("Delete 1…").click()
    await board.confirm("Delete 1")
    await expect(board.selection).to_be_hidden()
    await expect(board.page.locator(".toast.wrong")).to_contain_text(oldest)


async def test_what_needs_attention_is_listed_worst_first_with_the_reason(board: Board) -> None:
    for team, images in IMAGES.items():
        for image in images:
            await board.create(image, "running" if image == "nginx:stable" else "failed", labels={"team": team})
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
    await rows.first.get_by_role("button", name="Logs").click()
    await expect(board.panel.locator("pre.log")).to_be_visible()
