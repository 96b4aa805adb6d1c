"""The pages can be used without a mouse, with a screen reader, in light and dark, and on a phone."""

from __future__ import annotations

import pytest
from playwright.async_api import Route, expect

from tests.harness import eventually, request_for
from tests.ui.conftest import DESKTOP, PHONE, Board, Boards

pytestmark = pytest.mark.ui

AUDIT = """() => {
  const seen = (e) => e.checkVisibility({ visibilityProperty: true });
  const wrong = [];
  const name = (e) => (e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent || e.title || "").trim();
  for (const e of document.querySelectorAll("button, a[href], input, select, textarea, [role=img], table, dialog[open]"))
    if (seen(e) && !name(e) && !e.getAttribute("aria-labelledby")) wrong.push(`no name: ${e.outerHTML.slice(0, 120)}`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) wrong.push(`id twice: ${id}`);
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls]"))
    for (const a of ["aria-labelledby", "aria-describedby", "aria-controls"])
      for (const id of (!seen(e) ? "" : e.getAttribute(a) ?? "").split(/\\s+/).filter(Boolean))
        if (!document.getElementById(id)) wrong.push(`${a} leads nowhere: ${id}`);
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (let each = e; each; each = each.parentElement) {
      const colour = rgb(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !seen(e) || e.closest(":disabled, .unseen, noscript, option")) continue;
    const style = getComputedStyle(e);
    if (!style.color.startsWith("rgb")) continue;
    const [a, b] = [light(rgb(style.color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) wrong.push(`contrast ${ratio.toFixed(2)}: ${e.tagName} ${walk.currentNode.data.trim().slice(0, 30)}`);
  }
  if (!document.documentElement.lang) wrong.push("no language");
  if (document.querySelectorAll("h1").length !== 1) wrong.push("not one h1");
  return [...new Set(wrong)];
}"""


async def some(board: Board) -> list[str]:
    images = ("nginx:stable", "registry.example/fail", "registry.example/exit0")
    ids = [(await board.at.create(request_for(image) | {"labels": {"team": "7"}}))["stack_id"] for image in images]
    for stack_id, status in zip(ids, ("running", "failed", "stopped"), strict=True):
        await board.at.until_status(stack_id, status)
    return ids


async def test_keys_move_open_select_and_close(board: Board) -> None:
    ids = (await some(board))[::-1]  # the newest first
    await board.open()
    await expect(board.rows).to_have_count(3)
    keys = board.page.keyboard
    await keys.press("j")
    await expect(board.row(ids[0])).to_be_focused()
    await keys.press("j")
    await expect(board.row(ids[1])).to_be_focused()
    await keys.press("k")
    await expect(board.row(ids[0])).to_be_focused()
    await keys.press("x")
    await expect(board.row(ids[0])).to_have_attribute("aria-selected", "true")
    await keys.press("j")
    await keys.press("Enter")
    await expect(board.panel).to_be_focused()
    await expect(board.panel.get_by_role("heading")).to_have_text(ids[1])
    await keys.press("Escape")
    await expect(board.panel).to_be_hidden()
    await expect(board.row(ids[1])).to_be_focused()
    await keys.press("Escape")
    await expect(board.row(ids[0])).to_have_attribute("aria-selected", "false")
    await keys.press("/")
    await expect(board.page.get_by_label("Find in")).to_be_focused()
    await keys.type("j/k?nx")
    await expect(board.page.get_by_label("Find in")).to_have_value("j/k?nx")
    await keys.press("Escape")
    await keys.press("?")
    await expect(board.dialog).to_contain_text("Keyboard")
    await keys.press("Escape")
    await expect(board.dialog).to_have_count(0)


async def test_a_row_keeps_the_focus_while_the_table_changes_around_it(board: Board) -> None:
    ids = await some(board)
    await board.open()
    await expect(board.rows).to_have_count(3)
    await board.page.keyboard.press("j")
    await board.page.keyboard.press("j")
    await expect(board.row(ids[1])).to_be_focused()
    new = await board.at.create()
    await expect(board.row(new["stack_id"])).to_be_visible()
    await expect(board.row(ids[1])).to_be_focused()
    await board.at.call("POST", f"/stacks/{ids[1]}/extend", {"ttl": "10m"})
    await expect(board.row(ids[1]).locator(".left")).to_contain_text("2h 09m")
    await expect(board.row(ids[1])).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_everything_has_a_name_and_can_be_read(boards: Boards, scheme: str, viewport: dict[str, int]) -> None:
    async with boards(color_scheme=scheme, viewport=viewport) as board:
        await board.open(key=None)
        assert await board.page.evaluate(AUDIT) == []
        ids = await some(board)
        await board.open()
        assert await board.page.evaluate("document.documentElement.dataset.theme") == scheme
        await expect(board.rows).to_have_count(3)
        assert await board.page.evaluate(AUDIT) == []
        await board.row(ids[0]).get_by_role("checkbox").check()
        await board.open_panel(ids[1])
        await expect(board.panel.locator(".timeline li").first).to_be_visible()
        assert await board.page.evaluate(AUDIT) == []
        await board.page.keyboard.press("Escape")
        await board.page.keyboard.press("n")
        await expect(board.dialog).to_be_visible()
        assert await board.page.evaluate(AUDIT) == []


async def test_the_table_is_a_table_to_a_screen_reader(board: Board) -> None:
    await some(board)
    await board.open()
    grid = board.page.get_by_role("grid", name="Stacks")
    await expect(grid.get_by_role("columnheader")).to_have_count(8)
    await expect(grid.get_by_role("row")).to_have_count(4)
    await expect(grid.get_by_role("row").nth(1).get_by_role("gridcell")).to_have_count(8)
    await expect(grid.get_by_role("row", selected=True)).to_have_count(0)
    await expect(board.page.locator("#count-said")).to_have_text("3 stacks")


async def test_the_choice_of_colours_is_kept(boards: Boards) -> None:
    async with boards(color_scheme="light") as board:
        await board.open()
        await board.page.get_by_role("button", name="Switch to dark colours").click()
        await board.page.reload()
        await expect(board.page.locator("html")).to_have_attribute("data-theme", "dark")
        await expect(board.page.get_by_role("button", name="Switch to light colours")).to_be_visible()


async def test_a_phone_shows_cards_and_scrolls_in_one_direction_only(boards: Boards) -> None:
    async with boards(viewport=PHONE, has_touch=True) as board:
        ids = await some(board)
        await board.open()
        await expect(board.rows).to_have_count(3)
        assert await board.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        card = await board.row(ids[0]).bounding_box()
        assert card is not None
        assert card["height"] > 80
        assert card["width"] <= PHONE["width"]
        await board.row(ids[0]).locator(".c-status").tap()
        fills = (
            "() => { const box = document.querySelector('#panel').getBoundingClientRect(); return [box.x, box.width]; }"
        )

        async def filled() -> bool:
            return bool(await board.page.evaluate(fills) == [0, PHONE["width"]])

        await eventually(filled)
        await board.panel.get_by_role("button", name="Close the panel").tap()
        await expect(board.panel).to_be_hidden()


@pytest.mark.parametrize("width", [320, 360, 390])
async def test_a_phone_has_what_a_desk_has_and_cuts_no_reason(boards: Boards, width: int) -> None:
    async with boards(viewport={"width": width, "height": 740}, has_touch=True) as board:
        await board.open()
        await board.page.get_by_role("button", name="Create one").tap()
        await expect(board.dialog.get_by_role("heading")).to_have_text("New stack")
        await board.page.keyboard.press("Escape")
        stack = await board.at.create() | {"ended": False, "status": "failed"}
        reason = {
            "status_reason": "CreateContainerConfigError",
            "labels": {"challenge": "web", "player": "eve", "team": "7"},
        }

        async def refused(route: Route) -> None:
            await route.fulfill(json={"stacks": [stack | reason]})

        await board.page.route("**/stacks?*", refused)
        await board.page.reload()
        for place in (
            board.page.get_by_role("link", name="API"),
            board.page.get_by_role("button", name="New", exact=True),
        ):
            await expect(place).to_be_in_viewport(ratio=1)
        row = board.row(stack["stack_id"])
        await expect(row).to_contain_text("CreateContainerConfigError")
        cut = """(row) => [...row.querySelectorAll(".c-status, .c-labels")].filter(
          (e) => e.scrollWidth > e.clientWidth || e.scrollHeight > e.clientHeight || e.clientHeight > 44).length"""
        assert await row.evaluate(cut) == 0
        assert await board.page.evaluate("document.documentElement.scrollWidth") <= width
