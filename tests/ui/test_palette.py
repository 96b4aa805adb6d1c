"""One field finds everything, and runs the most frequent commands."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.harness import request_for
from tests.ui.conftest import Board

pytestmark = pytest.mark.ui


async def found(board: Board, text: str) -> list[str]:
    """The ids of the stacks that the palette finds for a text."""
    await board.dialog.get_by_role("combobox").fill(text)
    return [text.strip() for text in await board.dialog.locator("li .id").all_inner_texts()]


async def test_ids_labels_addresses_and_reasons_are_found_at_once(board: Board) -> None:
    web = await board.at.create(request_for("nginx:stable") | {"labels": {"team": "7", "challenge": "web"}})
    other = await board.at.create(request_for("nginx:stable") | {"labels": {"team": "77", "challenge": "pwn"}})
    failed = await board.at.create(request_for("registry.example/fail"))
    await board.at.until_status(failed["stack_id"], "failed")
    reason = (await board.at.stack(failed["stack_id"]))["status_reason"]
    await board.open()
    await board.page.get_by_label("Find in id").fill("nothing is like this")
    await board.page.keyboard.press("Control+k")
    await expect(board.dialog.get_by_role("combobox")).to_be_focused()
    assert await found(board, web["stack_id"][-5:]) == [web["stack_id"]]
    assert await found(board, "pwn") == [other["stack_id"]]
    assert await found(board, "team=7") == [web["stack_id"], other["stack_id"]]  # the exact label first
    assert await found(board, f":{web['ports'][0]['node_port']}") == [web["stack_id"]]
    assert await found(board, f"failed {reason}") == [failed["stack_id"]]
    assert await found(board, "no such thing") == []
    assert await found(board, "team=7") == [web["stack_id"], other["stack_id"]]
    await board.page.keyboard.press("ArrowDown")
    await expect(board.dialog.get_by_role("option", selected=True)).to_contain_text(other["stack_id"])
    await board.page.keyboard.press("Enter")
    await expect(board.panel.get_by_role("heading", name=other["stack_id"])).to_be_visible()
    await expect(board.dialog).to_have_count(0)


async def test_what_is_found_can_be_shown_in_the_table(board: Board) -> None:
    for team in ("7", "8", "8"):
        await board.at.create(request_for("nginx:stable") | {"labels": {"team": team}})
    await board.open()
    await board.page.get_by_label("Label", exact=True).fill("team=7")
    await board.page.keyboard.press("Control+k")
    await found(board, "team=8")
    await board.dialog.get_by_role("option", name="Show all 2 in the table").click()
    await expect(board.rows).to_have_count(2)
    await expect(board.page.get_by_label("Find in id")).to_have_value("team=8")


async def test_commands_are_done_by_name(board: Board) -> None:
    await board.open()
    await board.page.keyboard.press("Control+k")
    await board.dialog.get_by_role("combobox").fill("new st")
    await board.page.keyboard.press("Enter")
    await expect(board.dialog.get_by_role("heading")).to_have_text("New stack")
