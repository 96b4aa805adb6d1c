"""Who did what: the list of the dashboard, and what finds an entry of it."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.harness import eventually, seed
from tests.ui.conftest import Board
from tests.ui.test_axe import audit

pytestmark = pytest.mark.ui


async def test_activity_says_who_did_what_to_how_many_and_leads_to_the_stack(board: Board) -> None:
    ids = [await board.at.running(seed() | {"labels": {"team": str(team)}}) for team in (7, 8)]
    reply = await board.at.call("POST", "/stacks/batch", {"action": "extend", "ttl": "30m", "stack_ids": ids})
    path = f"/stacks/batch/{reply.json['job_id']}"

    async def finished() -> bool:
        return bool((await board.at.call("GET", path)).json["status"] == "completed")

    await eventually(finished)
    await board.at.call("POST", f"/stacks/{ids[0]}/stop")
    await board.open()
    await board.page.get_by_role("button", name="Activity").click()
    entries = board.dialog.locator("li")
    await expect(entries).to_have_count(4)
    await expect(entries.first).to_contain_text(f"stop team=7 {ids[0]}")
    await expect(entries.nth(1)).to_contain_text("extend 30m 2 stacks 2 done")
    await audit(board.page, "the activity")
    await board.dialog.get_by_label("Find by key").fill("create team=8")
    await expect(entries).to_have_count(1)
    await board.dialog.get_by_label("Find by key").fill("nobody")
    await expect(board.dialog).to_contain_text("Nothing like this was asked for.")
    await board.dialog.get_by_label("Find by key").fill(ids[1])
    await entries.filter(has_text="create").get_by_role("button", name=ids[1]).click()
    await expect(board.panel.get_by_role("heading", name=ids[1])).to_be_visible()
