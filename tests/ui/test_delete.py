"""Deleting asks first, deletes what was asked for, and shows how far it has got."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.stand import request_for
from tests.ui.conftest import Board

pytestmark = pytest.mark.ui


async def test_a_stack_is_deleted_after_a_question(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.open()
    await board.open_panel(stack_id)
    await board.panel.get_by_role("button", name="Delete").click()
    await expect(board.dialog).to_contain_text("cannot be undone")
    await expect(board.dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await board.dialog.get_by_role("button", name="Delete").click()
    await expect(board.row(stack_id)).to_have_count(0)
    assert (await board.at.call("GET", f"/stacks/{stack_id}")).status == 404


async def test_selected_stacks_are_deleted_as_one_job(board: Board) -> None:
    ids = [(await board.at.create())["stack_id"] for _ in range(4)]
    await board.open()
    for stack_id in ids[:3]:
        await board.row(stack_id).get_by_role("checkbox").check()
    await expect(board.page.locator("#selection")).to_contain_text("3 selected")
    board.requests.clear()
    await board.page.get_by_role("button", name="Delete…").click()
    await board.dialog.get_by_role("button", name="Delete 3").click()
    await expect(board.page.locator(".toast")).to_contain_text("3 deleted")
    await expect(board.rows).to_have_count(1)
    await expect(board.row(ids[3])).to_be_visible()
    assert board.requests.count("/stacks/batch-delete") == 1


async def test_many_need_their_number_typed_and_all_that_the_filter_leaves_can_be_chosen(board: Board) -> None:
    for number in range(14):
        body_of = {"labels": {"team": str(number % 2)}}
        await board.at.create(request_for("nginx:stable", cpu="1m", memory="1Mi") | body_of)
    await board.open()
    await board.page.get_by_label("Label", exact=True).fill("team=1")
    await board.page.keyboard.press("Enter")
    await expect(board.rows).to_have_count(7)
    await board.page.get_by_role("button", name="Clear filters").click()
    await expect(board.rows).to_have_count(14)
    await board.page.get_by_label("Select all that are shown").check()
    await board.page.get_by_role("button", name="Delete…").click()
    go = board.dialog.get_by_role("button", name="Delete 14")
    await expect(go).to_be_disabled()
    await board.dialog.get_by_role("textbox").fill("13")
    await expect(go).to_be_disabled()
    await board.dialog.get_by_role("textbox").fill("14")
    await go.click()
    await expect(board.page.get_by_text("There are no stacks.")).to_be_visible()
    await expect(board.page.locator("#selection")).to_be_hidden()


async def test_a_job_that_fails_shows_why_and_stays(board: Board) -> None:
    stack_id = (await board.at.create())["stack_id"]
    await board.open()
    await board.row(stack_id).get_by_role("checkbox").check()
    await board.at.cluster.faults.refuse()
    try:
        await board.page.get_by_role("button", name="Delete…").click()
        await board.dialog.get_by_role("button", name="Delete 1").click()
        errors = board.page.locator("#selection .errors")
        await expect(errors).to_contain_text(stack_id)
        await expect(board.page.locator("#selection")).to_contain_text("1 failed")
        await board.page.locator("#selection").get_by_role("button", name="Close").click()
        await expect(board.page.locator("#selection")).to_be_hidden()
    finally:
        await board.at.cluster.faults.listen()
    board.refusals.clear()  # /readyz says meanwhile that the cluster is away
