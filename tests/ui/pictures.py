"""The pictures of the dashboard and of the players' box in the docs: ``python -m tests.ui.pictures`` takes them again."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from playwright.async_api import Page, async_playwright

from tests.harness import KEY, Harness, harness, request_for
from tests.players import make_link, settings, token_of
from tests.templates import PLAIN
from tests.ui.conftest import ARGUMENTS, CHROMIUM

DOCS = Path(__file__).parents[2] / "docs"
TEAMS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
LOGIN = """title: Login
category: Web
description: "A shop forgot to check a **signature**. Read `flag.txt`."
extend: {by: 30m, times: 2}
"""
HEAP = 'title: Heap of notes\ncategory: Pwn\ndescription: "Find out what `free` leaves behind."\n'


async def dashboard(page: Page, at: Harness) -> None:
    for player in TEAMS:
        await at.create({"template": "web-1", "labels": {"player": player}})
    for player, image in (("ivan", "registry.example/nopull"), ("judy", "app/oom"), ("mallory", "app/exit0")):
        await at.create(request_for(image) | {"labels": {"challenge": "misc-1", "player": player}})
    await at.do("extend", (await at.listed())[0], "45m")
    await page.goto(f"{at.url}/dashboard")
    await page.get_by_label("API key").fill(KEY)
    await page.keyboard.press("Enter")
    await page.locator('#link[data-state="live"]').wait_for()
    await page.locator("tbody tr[data-id]").nth(len(TEAMS)).wait_for()
    await asyncio.sleep(3.0)  # it is for people to look at: the statuses come to rest
    await page.screenshot(path=DOCS / "dashboard.png")


async def box(page: Page, at: Harness) -> None:
    link = await make_link(at, templates=["web-1", "pwn-1"], stacks=2)
    await page.set_viewport_size({"width": 620, "height": 560})
    await page.goto(f"{at.url}/play#{token_of(link)}")
    await page.get_by_role("region", name="Login").get_by_role("button", name="Start").click()
    await page.get_by_text("Your instance is running.").wait_for()
    await asyncio.sleep(0.5)
    await page.screenshot(path=DOCS / "box.png", full_page=True)


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = settings(Path(folder), web_1=PLAIN + LOGIN, pwn_1=PLAIN + HEAP)
        async with harness(Path(folder), options) as at, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = await browser.new_page(viewport={"width": 1180, "height": 640}, color_scheme="light", locale="en-GB")
            await dashboard(page, at)
            await box(page, at)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(_main())
