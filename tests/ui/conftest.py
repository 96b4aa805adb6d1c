"""The dashboard in Debian's Chromium, on a whole stackd. Anything that the browser complains of fails the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect
from pytest_asyncio import is_async_test

from tests.harness import KEY, Harness, harness

HERE = Path(__file__).parent
CHROMIUM = next(filter(Path.exists, (Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium"))), None)
"""The first is the same engine without a desktop browser around it, and needs half as much CPU."""
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
SECONDS = 15_000.0
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`));
"""
NOT_A_SUCCESS = "Failed to load resource: the server responded with a status of "


@dataclass(slots=True, kw_only=True)
class Board:
    """The page and the browser's complaints; ``refusals`` are the error statuses that a test expects.

    ``url`` is the daemon's address for the browser: its own, unless a test puts something between.
    """

    page: Page
    at: Harness
    url: str
    complaints: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def open(self, key: str | None = KEY, path: str = "/dashboard") -> None:
        """Load the dashboard, and enter the key."""
        await self.page.goto(self.url + path)
        if key is not None:
            await self.page.get_by_label("API key").fill(key)
            await self.page.keyboard.press("Enter")
            await expect(self.page.locator("#link")).to_have_attribute("data-state", "live")

    def row(self, stack_id: str) -> Locator:
        """The stack's row."""
        return self.page.locator(f'tbody tr[data-id="{stack_id}"]')

    @property
    def rows(self) -> Locator:
        """The rows that are on the page."""
        return self.page.locator("tbody tr[data-id]")

    @property
    def dialog(self) -> Locator:
        """The open dialog."""
        return self.page.locator("dialog[open]")

    @property
    def panel(self) -> Locator:
        """The panel of one stack."""
        return self.page.locator("#panel")

    async def open_panel(self, stack_id: str) -> None:
        """Open the panel of a stack."""
        await self.row(stack_id).locator(".c-status").click()
        await expect(self.panel).to_be_visible()

    async def open_part(self, name: str) -> Locator:
        """Open a part of the panel, such as its logs."""
        part = self.panel.locator("details").filter(has=self.page.locator("summary", has_text=name))
        if await part.get_attribute("open") is None:
            await part.locator("summary").click()
        return part


def heard(board: Board, message: ConsoleMessage) -> None:
    """Keep the warnings and errors of the browser's console."""
    if message.type not in ("error", "warning"):
        return
    if message.text.startswith(NOT_A_SUCCESS):
        board.refusals.append(message.text.removeprefix(NOT_A_SUCCESS)[:3])
    else:
        board.complaints.append(message.text)


Boards = Callable[..., AbstractAsyncContextManager[Board]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests of the pages in one loop with one browser: starting one takes longer than most tests."""
    for item in items:
        if item.path.is_relative_to(HERE) and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A running Chromium; without one, the test is skipped."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium-headless-shell)")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
def boards(browser: Browser, tmp_path: Path) -> Boards:
    """Opens a board; ``settings`` are the daemon's, ``options`` the browser's."""

    @asynccontextmanager
    async def opened(settings: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Board]:
        context = await browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        context.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        async with harness(tmp_path, settings) as at:
            page = await context.new_page()
            board = Board(page=page, at=at, url=at.url)
            page.on("console", lambda message: heard(board, message))
            page.on("pageerror", lambda error: board.complaints.append(str(error)))
            page.on("request", lambda request: board.requests.append(request.url.removeprefix(board.url)))
            await page.add_init_script(REPORT_VIOLATIONS)
            yield board
            assert not board.complaints
            assert all(url.startswith("/") for url in board.requests), "nothing is loaded from elsewhere"
            await context.close()

    return opened


@pytest_asyncio.fixture(loop_scope="session")
async def board(boards: Boards) -> AsyncIterator[Board]:
    """A board of a stackd without stacks."""
    async with boards() as ready:
        yield ready
        assert not ready.refusals, "everything that the dashboard asked for was answered"
