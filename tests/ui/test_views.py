"""Labels are how people name their stacks: they are the first columns, form groups, and a link to a view keeps them."""

from __future__ import annotations

import pytest
from playwright.async_api import ViewportSize, expect

from tests.harness import request_for
from tests.ui.conftest import PHONE, Board, Boards

pytestmark = pytest.mark.ui

HEADS = "() => [...document.querySelectorAll('thead th')].slice(1).filter((e) => e.checkVisibility()).map((e) => e.textContent)"
WIDE: ViewportSize = {"width": 1600, "height": 900}


async def labelled(board: Board, *labels: dict[str, str]) -> list[str]:
    ids = []
    for each in labels:
        body = request_for("nginx:stable", cpu="1m", memory="1Mi") | {"labels": each}
        ids.append((await board.at.create(body))["stack_id"])
    return ids


async def games(board: Board) -> list[str]:
    return await labelled(
        board,
        {"challenge": "web", "team": "2", "player": "eve"},
        {"challenge": "pwn", "team": "10", "player": "bob"},
        {"challenge": "web", "team": "10", "player": "joe"},
        {"challenge": "web", "team": "1"},
        {},
    )


async def column(board: Board, place: int) -> list[str]:
    return [await row.locator("td").nth(place).inner_text() for row in await board.rows.all()]


async def test_the_labels_in_use_lead_and_ids_come_last(boards: Boards) -> None:
    async with boards(viewport=WIDE) as board:
        ids = await games(board)
        await board.open()
        await expect(board.rows).to_have_count(5)
        heads = await board.page.evaluate(HEADS)
        assert heads == ["challenge", "team", "player", "Status", "Address", "Node", "Age", "Time left", "Stack"]
        assert await column(board, 1) == ["", "web", "web", "pwn", "web"]
        assert await column(board, 9) == ids[::-1]


async def test_a_label_that_has_no_column_is_among_the_labels(boards: Boards) -> None:
    async with boards(viewport=WIDE) as board:
        (stack_id,) = await labelled(board, {"a": "1", "b": "2", "c": "3", "d": "4"})
        await board.open()
        await expect(board.row(stack_id)).to_be_visible()
        assert (await board.page.evaluate(HEADS))[:3] == ["a", "b", "c"]
        assert (await board.page.evaluate(HEADS))[-2:] == ["Labels", "Stack"]
        await expect(board.row(stack_id).locator(".c-labels")).to_have_text("d=4", use_inner_text=True)


async def test_columns_stay_where_they_are_while_stacks_come_and_go(board: Board) -> None:
    await labelled(board, {"team": "1", "player": "a"}, {"team": "2"})
    await board.open()
    await expect(board.rows).to_have_count(2)
    assert (await board.page.evaluate(HEADS))[:2] == ["team", "player"]
    await labelled(board, *({"player": "b", "area": "x"} for _ in range(3)))
    await expect(board.rows).to_have_count(5)
    assert (await board.page.evaluate(HEADS))[:3] == ["team", "player", "area"]


async def test_numbers_in_labels_sort_as_numbers(board: Board) -> None:
    await games(board)
    await board.open()
    await expect(board.rows).to_have_count(5)
    await board.page.locator("thead").get_by_role("button", name="team").click()
    assert await column(board, 2) == ["", "1", "2", "10", "10"]
    await board.page.locator("thead").get_by_role("button", name="team").click()
    assert await column(board, 2) == ["10", "10", "2", "1", ""]
    assert "sort=-label:team" in board.page.url


async def test_a_narrow_table_leaves_columns_out_rather_than_cutting_them(boards: Boards) -> None:
    async with boards(viewport={"width": 1000, "height": 768}) as board:
        (stack_id,) = await labelled(board, {"challenge": "web", "team": "2", "player": "eve"})
        await board.open()
        row = board.row(stack_id)
        await expect(row).to_be_visible()
        assert await board.page.evaluate(HEADS) == [
            "challenge",
            "player",
            "team",
            "Status",
            "Address",
            "Age",
            "Time left",
        ]
        cut = "(row) => [...row.querySelectorAll('td')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.className)"
        assert await row.evaluate(cut) == []
        await board.page.set_viewport_size(WIDE)
        await expect(row.locator(".c-id")).to_be_visible()


async def test_groups_have_counts_and_can_be_closed(board: Board) -> None:
    ids = await games(board)
    await board.at.until_status(ids[0], "running")
    await board.at.call("POST", f"/stacks/{ids[0]}/stop")
    await board.open()
    await board.page.get_by_label("Group").select_option("label:challenge")
    groups = board.page.locator("tr.group")
    await expect(groups).to_have_text(
        ["challenge pwn1stack1running", "challenge web3stacks2running1stopped", "no challenge1stack1running"]
    )
    order = (
        "() => [...document.querySelectorAll('tbody tr[aria-rowindex]')].map((e) => e.dataset.group ?? e.dataset.id)"
    )
    assert await board.page.evaluate(order) == ["pwn", ids[1], "web", ids[3], ids[2], ids[0], "", ids[4]]
    toggle = groups.nth(1).get_by_role("button", name="challenge web")
    await expect(toggle).to_have_attribute("aria-expanded", "true")
    await toggle.click()
    await expect(toggle).to_have_attribute("aria-expanded", "false")
    await expect(board.rows).to_have_count(2)
    await expect(board.page.locator("#count")).to_have_text("5 stacks")
    assert "group=label:challenge" in board.page.url
    await board.page.reload()
    await expect(board.rows).to_have_count(5)
    await expect(groups).to_have_count(3)


async def test_what_a_closed_group_hides_is_out_of_reach(board: Board) -> None:
    await games(board)
    await board.open()
    await board.page.get_by_label("Group").select_option("label:challenge")
    await board.page.get_by_label("Select all of challenge web").check()
    await expect(board.page.locator("#selection")).to_contain_text("3 selected")
    await board.page.get_by_role("button", name="challenge web").click()
    await expect(board.page.locator("#selection")).to_contain_text("0 selected, 3 more are in closed groups")
    await expect(board.page.locator("#selection .danger")).to_be_disabled()
    await expect(board.page.get_by_label("Select all of challenge web")).to_be_disabled()
    await board.page.get_by_label("Select all that are shown").check()
    await expect(board.page.locator("#selection")).to_have_text("2 selectedClearExtend…Restart…Start…Stop…Delete 2…")


async def test_keys_pass_over_the_rows_of_groups(board: Board) -> None:
    ids = await games(board)
    await board.open()
    await board.page.get_by_label("Group").select_option("label:challenge")
    await board.page.get_by_role("button", name="challenge pwn").focus()
    for stack_id in (ids[1], ids[3], ids[2], ids[0], ids[4], ids[4]):
        await board.page.keyboard.press("j")
        await expect(board.row(stack_id)).to_be_focused()
    await board.page.keyboard.press("k")
    await expect(board.row(ids[0])).to_be_focused()


async def test_one_can_group_by_status_and_node_too(board: Board) -> None:
    ids = await games(board)
    for stack_id in ids:
        await board.at.until_status(stack_id, "running")
    await board.at.call("POST", f"/stacks/{ids[0]}/stop")
    await board.open()
    await board.page.get_by_label("Group").select_option("status")
    groups = board.page.locator("tr.group button")
    await expect(groups).to_have_text(["running", "stopped"])
    await board.page.get_by_label("Group").select_option("node")
    nodes = sorted({(await board.at.stack(stack_id))["node_id"] for stack_id in ids})
    await expect(groups).to_have_text([f"Node {node}" for node in nodes])


async def test_a_view_is_a_link_without_the_key(boards: Boards) -> None:
    async with boards(permissions=["clipboard-read", "clipboard-write"]) as board:
        await games(board)
        await board.open()
        await board.page.get_by_label("Find in").fill("challenge=web")
        await board.page.get_by_label("Group").select_option("label:team")
        await board.page.locator("thead").get_by_role("button", name="Time left").click()
        await board.page.get_by_role("button", name="Copy link").click()
        link = await board.page.evaluate("navigator.clipboard.readText()")
        assert link == f"{board.at.url}/dashboard#find=challenge%3Dweb&sort=left&group=label:team"
        assert link == board.page.url
        await board.page.goto("about:blank")
        await board.page.goto(link)
        await expect(board.rows).to_have_count(3)
        await expect(board.page.locator("tr.group")).to_have_count(3)
        await expect(board.page.locator("th.c-left")).to_have_attribute("aria-sort", "ascending")


async def test_a_label_is_found_while_its_name_is_typed(board: Board) -> None:
    ids = await games(board)
    await board.open()
    label = board.page.get_by_label("Find in")
    for text, count in (("ch", 4), ("challenge", 4), ("challenge=", 4), ("challenge=web", 3), ("challenge=we", 0)):
        await label.fill(text)
        await expect(board.rows).to_have_count(count)
    await label.fill("challenge=web team=10")
    await expect(board.rows).to_have_count(1)
    await expect(board.row(ids[2])).to_be_visible()


async def test_a_phone_leads_with_what_the_stack_is_called(boards: Boards) -> None:
    async with boards(viewport=PHONE) as board:
        ids = await games(board)
        await board.open()
        await expect(board.row(ids[0]).locator(".c-labels")).to_have_text("web eve 2", use_inner_text=True)
        await expect(board.row(ids[0]).locator(".c-id")).to_be_visible()
        await board.page.get_by_label("Group").select_option("label:challenge")
        await expect(board.page.locator("tr.group").first).to_be_visible()
        assert await board.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
