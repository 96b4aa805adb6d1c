"""The pictures of the dashboard and of the players' box in the docs: ``python -m tests.ui.pictures`` takes them again."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

from stackd.templates.markdown import elements
from tests.harness import KEY, Harness, harness, request_for
from tests.templates import PLAIN, folder_with
from tests.ui.conftest import ARGUMENTS, CHROMIUM

DOCS = Path(__file__).parents[2] / "docs"
TEAMS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
STATES: list[dict[str, Any]] = [
    {
        "name": "stack-1", "title": "Login", "category": "Web", "template": "web-1", "status": "running",
        "description": "A shop forgot to check a **signature**. Read `flag.txt`.",
        "addresses": [{"text": "203.0.113.7:31131", "url": "http://203.0.113.7:31131"}],
        "seconds_left": 1640, "extension_seconds": 1800, "extensions_left": 2,
    },
    {
        "name": "", "title": "Heap of notes", "category": "Pwn", "template": "pwn-1", "status": "none",
        "description": "Connect with `nc`, and find out what `free` leaves behind.",
    },
]  # fmt: skip
LINK = {"id": "1", "name": "Seat 12", "seconds_left": 7200, "stacks": 2, "used": 1}


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
    states = [state | {"about": elements(state["description"])} for state in STATES]
    body = json.dumps({"link": LINK, "stacks": states})
    await page.route("**/play/stacks", lambda route: route.fulfill(content_type="application/json", body=body))
    await page.set_viewport_size({"width": 620, "height": 560})
    await page.goto(f"{at.url}/static/play/index.html")
    await page.locator("article").nth(1).wait_for()
    await asyncio.sleep(0.5)
    await page.screenshot(path=DOCS / "box.png", full_page=True)


async def _main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = folder_with(Path(folder), web_1=PLAIN, pwn_1=PLAIN.replace("web-1", "pwn-1"))
        async with harness(Path(folder), settings) as at, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = await browser.new_page(viewport={"width": 1180, "height": 640}, color_scheme="light", locale="en-GB")
            await dashboard(page, at)
            await box(page, at)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(_main())
