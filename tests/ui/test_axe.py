"""axe finds nothing wrong in any state of the pages: in light and dark, on a desktop and on a phone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.harness import KEY, request_for
from tests.ui.conftest import DESKTOP, PHONE, Board, Boards

pytestmark = pytest.mark.ui

AXE = Path(__file__).parents[2] / ".ci/js/node_modules/axe-core/axe.min.js"
RUN = """async () => {
  await Promise.allSettled(document.getAnimations().map((each) => each.finished));
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}"""
BOTH = pytest.mark.parametrize("scheme", ["light", "dark"])
SIZES = pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
WRONG = "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: true\n  containers: 3\n"


async def audit(page: Page, state: str) -> None:
    """Fail if axe finds anything."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make js)")
    if not await page.evaluate("Boolean(globalThis.axe)"):
        await page.evaluate(AXE.read_text())
    assert await page.evaluate(RUN) == [], state


async def some(board: Board) -> list[str]:
    ids = []
    for number, image in enumerate(("nginx:stable", "registry.example/fail", "registry.example/exit0")):
        body = request_for(image) | {"labels": {"team": str(number), "challenge": "web"}}
        ids.append((await board.at.create(body))["stack_id"])
    for stack_id, status in zip(ids, ("running", "failed", "stopped"), strict=True):
        await board.at.until_status(stack_id, status)
    return ids


@BOTH
@SIZES
async def test_the_table_and_what_lies_over_it(boards: Boards, scheme: str, viewport: dict[str, int]) -> None:
    async with boards(color_scheme=scheme, viewport=viewport) as board:
        await board.open(key=None)
        await expect(board.page.get_by_label("API key")).to_be_visible()
        await audit(board.page, "the login")
        await board.open()
        await expect(board.page.get_by_text("There are no stacks.")).to_be_visible()
        await audit(board.page, "no stacks")
        ids = await some(board)
        await expect(board.rows).to_have_count(3)
        await audit(board.page, "the table")
        await board.page.get_by_label("Group").select_option("label:team")
        await board.page.locator("tr.group button").first.click()
        await audit(board.page, "groups")
        await board.page.get_by_label("Group").select_option("")
        await board.row(ids[0]).get_by_role("checkbox").check()
        await board.open_panel(ids[1])
        for name in ("Timeline", "Logs", "Pod spec"):
            part = await board.open_part(name)
            await expect(part.locator(":is(li, pre:not(:empty))").first).to_be_visible()
            await audit(board.page, f"the panel with {name}")


@BOTH
@SIZES
async def test_the_dialogs(boards: Boards, scheme: str, viewport: dict[str, int]) -> None:
    async with boards(color_scheme=scheme, viewport=viewport) as board:
        ids = await some(board)
        await board.open()
        await expect(board.rows).to_have_count(3)
        await board.page.get_by_role("button", name="New").click()
        await audit(board.page, "the create dialog")
        await board.dialog.get_by_label("Pod, as YAML").fill(WRONG)
        await board.dialog.get_by_label("Ports").fill("x")
        await board.dialog.get_by_role("button", name="Check").click()
        await expect(board.dialog.locator(".mistakes li").nth(1)).to_be_visible()
        await audit(board.page, "the create dialog with mistakes")
        await board.page.keyboard.press("Escape")
        await board.page.keyboard.press("?")
        await audit(board.page, "the help")
        await board.page.keyboard.press("Escape")
        await board.row(ids[0]).get_by_role("checkbox").check()
        await board.page.get_by_role("button", name="Delete 1…").click()
        await audit(board.page, "the question")
        board.refusals.clear()


@BOTH
async def test_while_it_waits_and_while_the_daemon_is_away(boards: Boards, scheme: str) -> None:
    async with boards(color_scheme=scheme) as board:
        await some(board)
        arrived = asyncio.Event()

        async def hold(route: Route) -> None:
            await arrived.wait()
            await route.continue_()

        await board.page.route("**/stacks?*", hold)
        await board.page.goto(board.url + "/dashboard")
        await board.page.get_by_label("API key").fill(KEY)
        await board.page.keyboard.press("Enter")
        await expect(board.page.locator("#loading")).to_be_visible()
        await audit(board.page, "waiting")
        arrived.set()
        await expect(board.rows).to_have_count(3)

        async def cut(route: Route) -> None:
            await route.abort()

        for path in ("**/readyz", "**/events?*", "**/stacks?*"):
            await board.page.route(path, cut)
        await expect(board.page.locator("#away")).to_be_visible()
        await audit(board.page, "away")
        board.complaints.clear()


@pytest.mark.parametrize(("scheme", "viewport"), [("light", DESKTOP), ("dark", PHONE)])
async def test_the_docs(boards: Boards, scheme: str, viewport: dict[str, int]) -> None:
    async with boards(color_scheme=scheme, viewport=viewport) as board:
        await board.page.goto(board.url + "/docs")
        await expect(board.page.locator("article").first).to_be_visible()
        await audit(board.page, "the docs")
        await board.page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true;")
        await audit(board.page, "the docs with all fields")
