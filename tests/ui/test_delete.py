"""Deleting asks first, deletes exactly the selected stacks, and shows its progress."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.harness import request_for
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
    await board.page.get_by_role("button", name="Delete 3…").click()
    await board.dialog.get_by_role("button", name="Delete 3").click()
    await expect(board.page.locator(".toast")).to_contain_text("3 deleted")
    await expect(board.rows).to_have_count(1)
    await expect(board.row(ids[3])).to_be_visible()
    assert board.requests.count("/stacks/batch") == 1


async def teams(board: Board, count: int) -> dict[str, list[str]]:
    """Create ``count`` stacks, alternately for team 0 and team 1; their ids by team."""
    found: dict[str, list[str]] = {"0": [], "1": []}
    for number in range(count):
        team = str(number % 2)
        body = request_for("nginx:stable", cpu="1m", memory="1Mi") | {"labels": {"team": team}}
        found[team].append((await board.at.create(body))["stack_id"])
    return found


async def left(board: Board) -> set[str]:
    return {stack["stack_id"] for stack in (await board.at.call("GET", "/stacks?fields=stack_id")).json["stacks"]}


async def test_select_all_reaches_only_what_the_filter_shows_and_the_question_says_so(board: Board) -> None:
    ids = await teams(board, 14)
    await board.open()
    await expect(board.rows).to_have_count(14)
    await board.page.get_by_label("Find in").fill("team=1")  # as by typing, without Enter
    await board.page.get_by_label("Select all that are shown").check()
    await expect(board.rows).to_have_count(7)
    await expect(board.page.locator("#selection")).to_contain_text("7 selected")
    await board.page.get_by_role("button", name="Delete 7…").click()
    await expect(board.dialog).to_contain_text("Delete 7 stacks?")
    await expect(board.dialog).to_contain_text("team=1")
    await expect(board.dialog.locator(".details li")).to_have_count(7)
    await board.dialog.get_by_role("button", name="Delete 7").click()
    await expect(board.page.locator(".toast")).to_contain_text("7 deleted")
    assert await left(board) == set(ids["0"])


async def test_what_was_selected_before_the_filter_hid_it_is_counted_apart_and_stays(board: Board) -> None:
    ids = await teams(board, 8)
    await board.open()
    await board.page.get_by_label("Select all that are shown").check()
    await expect(board.page.locator("#selection")).to_contain_text("8 selected")
    await board.page.get_by_label("Find in").fill("team=0")
    await expect(board.page.locator("#selection")).to_contain_text("4 selected, 4 more are hidden by the filter")
    await board.page.get_by_role("button", name="Delete 4…").click()
    await expect(board.dialog).to_contain_text("4 more are selected but hidden; they stay.")
    await board.dialog.get_by_role("button", name="Delete 4").click()
    await expect(board.page.locator(".toast")).to_contain_text("4 deleted")
    assert await left(board) == set(ids["1"])
    await board.page.get_by_role("button", name="Clear filters").click()
    await expect(board.page.locator("#selection")).to_contain_text("4 selected")


async def test_keys_and_ranges_do_not_select_what_is_hidden(board: Board) -> None:
    ids = await teams(board, 6)
    await board.open()
    await expect(board.rows).to_have_count(6)
    newest, oldest = ids["1"][-1], ids["1"][0]
    await board.page.keyboard.press("j")
    await expect(board.row(newest)).to_be_focused()
    await board.page.get_by_label("Find in").fill("team=0")
    await board.page.keyboard.press("Escape")
    await board.page.keyboard.press("x")
    await expect(board.page.locator("#selection")).to_be_hidden()
    await board.page.get_by_label("Find in").fill("team=1")
    await board.row(newest).get_by_role("checkbox").click()
    await board.row(oldest).get_by_role("checkbox").click(modifiers=["Shift"])
    await board.page.get_by_role("button", name="Clear filters").click()
    await expect(board.page.locator("#selection")).to_contain_text("3 selected")


async def test_a_stack_that_the_filter_no_longer_shows_leaves_the_reach_of_delete(board: Board) -> None:
    ids = await teams(board, 2)
    for stack_id in (*ids["0"], *ids["1"]):
        await board.at.until_status(stack_id, "running")
    await board.open()
    await board.page.get_by_role("button", name="running").click()
    await board.page.get_by_label("Select all that are shown").check()
    await expect(board.page.locator("#selection")).to_contain_text("2 selected")
    await board.at.call("POST", f"/stacks/{ids['0'][0]}/stop")
    await expect(board.page.locator("#selection")).to_contain_text("1 selected, 1 more is hidden by the filter")


async def test_many_need_their_number_typed(board: Board) -> None:
    await teams(board, 14)
    await board.open()
    await expect(board.rows).to_have_count(14)
    await board.page.get_by_label("Select all that are shown").check()
    await board.page.get_by_role("button", name="Delete 14…").click()
    await expect(board.dialog).to_contain_text("No filter is set")
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
        await board.page.get_by_role("button", name="Delete 1…").click()
        await board.dialog.get_by_role("button", name="Delete 1").click()
        errors = board.page.locator("#selection .errors")
        await expect(errors).to_contain_text(stack_id)
        await expect(board.page.locator("#selection")).to_contain_text("1 failed")
        await board.page.locator("#selection").get_by_role("button", name="Close").click()
        await expect(board.page.locator("#selection")).to_be_hidden()
    finally:
        await board.at.cluster.faults.listen()
    board.refusals.clear()  # meanwhile /readyz says that the cluster is away
