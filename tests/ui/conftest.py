"""The dashboard in Debian's Chromium, on a whole stackd. Anything that the browser complains of fails the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Route, async_playwright, expect
from pytest_asyncio import is_async_test

from tests.gate import gate
from tests.harness import KEY, Harness, harness, request_for

HERE = Path(__file__).parent
CHROMIUM = next(filter(Path.exists, (Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium"))), None)
"""The first is the same engine without a desktop browser around it, and needs half as much CPU."""
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
TOO_WIDE = "document.documentElement.scrollWidth > innerWidth"
TOO_SMALL = """() => [...document.querySelectorAll("button, .button, input, select, summary, .why:not(.cause *)")]
  .filter((e) => e.checkVisibility()).map((e) => e.type === "checkbox" ? e.parentElement : e)
  .map((e) => [e.id || e.className || e.textContent, e.getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.height, box.width) < 43.5).map(([name, box]) => `${name} ${box.width} ${box.height}`)"""
SECONDS = 15_000.0
REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (e) => console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`));
"""
FASTER = """
for (const name of ["setTimeout", "setInterval"]) {
  const real = globalThis[name];
  globalThis[name] = (work, milliseconds, ...rest) => real(work, milliseconds / 10, ...rest);
}
"""
NOT_A_SUCCESS = "Failed to load resource: the server responded with a status of "
AXE = Path(__file__).parents[2] / ".ci/js/node_modules/axe-core/axe.min.js"
RUN_AXE = """async (rules) => {
  await Promise.allSettled(document.getAnimations().map((each) => each.finished));
  // What it loads ahead, it copies into styles that the policy of the pages forbids.
  const options = { resultTypes: ["violations"], preload: false, ...(rules && { runOnly: rules }) };
  const { violations } = await axe.run(document, options);
  return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`));
}"""


@dataclass(slots=True, kw_only=True)
class Board:
    """The page and the browser's complaints; ``refusals`` are the error statuses that it got.

    ``url`` is the daemon's address for the browser: its own, unless there is a gate between.
    """

    page: Page
    at: Harness
    url: str
    gate: Any = None
    complaints: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def rows(self) -> Locator:
        return self.page.locator("tbody tr[data-id]")

    @property
    def dialog(self) -> Locator:
        return self.page.locator("dialog[open]")

    @property
    def panel(self) -> Locator:
        return self.page.locator("#panel")

    @property
    def selection(self) -> Locator:
        return self.page.locator("#selection")

    @property
    def toast(self) -> Locator:
        return self.page.locator(".toast").last

    def row(self, stack_id: str) -> Locator:
        return self.page.locator(f'tbody tr[data-id="{stack_id}"]')

    def find(self) -> Locator:
        return self.page.get_by_label("Find in")

    def button(self, name: str, **options: Any) -> Locator:
        return self.page.get_by_role("button", name=name, **options)

    async def open(self, key: str = KEY, path: str = "/dashboard", *, live: bool = True, panel: str = "") -> None:
        """Load the dashboard, enter the key, and open the panel of this stack, if any."""
        await self.page.goto(self.url + path)
        await self.page.get_by_label("API key").fill(key)
        await self.page.keyboard.press("Enter")
        if live:
            await self.is_live()
        if panel:
            await self.open_panel(panel)

    async def is_live(self, state: str = "live") -> None:
        await expect(self.page.locator("#link")).to_have_attribute("data-state", state)

    async def open_panel(self, stack_id: str) -> None:
        await self.row(stack_id).locator(".c-status").click()
        await expect(self.panel).to_be_visible()

    async def open_part(self, name: str) -> Locator:
        part = self.panel.locator("details").filter(has=self.page.locator("summary", has_text=name))
        if await part.get_attribute("open") is None:
            await part.locator("summary").click()
        return part

    async def confirm(self, name: str) -> None:
        await self.dialog.get_by_role("button", name=name, exact=True).click()

    async def create(self, image: str = "nginx:stable", status: str = "", **more: Any) -> str:
        body = request_for(image, cpu="1m", memory="1Mi") | more
        stack_id: str = (await self.at.create(body))["stack_id"]
        if status:
            await self.at.until_status(stack_id, status)
        return stack_id

    async def several(self, *labels: dict[str, str]) -> list[str]:
        """Create a running stack for each of these labels, and return the ids in the order of creation."""
        ids = [await self.create(labels=each) for each in labels]
        for stack_id in ids:
            await self.at.until_status(stack_id, "running")
        return ids

    @asynccontextmanager
    async def held(self, *paths: str) -> AsyncIterator[None]:
        """Within this block requests to these paths wait for its end."""
        ended = asyncio.Event()

        async def wait(route: Route) -> None:
            await ended.wait()
            await route.continue_()

        for path in paths:
            await self.page.route(path, wait)
        yield
        ended.set()

    async def fits_a_finger(self) -> None:
        """Check that nothing is wider than the screen, or too small to touch."""
        assert not await self.page.evaluate(TOO_WIDE)
        assert await self.page.evaluate(TOO_SMALL) == []

    async def audit(self, state: str) -> None:
        """Fail if axe finds anything in this state of the page, in light, or in its colours in dark."""
        if not AXE.exists():
            pytest.skip("axe-core is not installed (make js)")
        colours: tuple[tuple[Literal["dark", "light"], list[str] | None], ...]
        colours = ("dark", ["color-contrast"]), ("light", None)
        for scheme, rules in colours:
            await self.page.emulate_media(color_scheme=scheme)
            await expect(self.page.locator("html")).to_have_attribute("data-theme", scheme)
            if not await self.page.evaluate("Boolean(globalThis.axe)"):
                await self.page.evaluate(AXE.read_text())
            assert await self.page.evaluate(RUN_AXE, rules) == [], f"{state}, {scheme}"


def heard(board: Board, message: ConsoleMessage) -> None:
    """Keep the warnings and errors of the browser's console."""
    if message.text.startswith(f"{NOT_A_SUCCESS}409") and message.location["url"].partition("?")[0].endswith("/logs"):
        return  # a stack that is being restarted has no pod, and so no log, for a moment
    if message.text.endswith("net::ERR_NETWORK_CHANGED"):
        return  # a test beside this one makes interfaces for two machines: Chromium drops what is under way, the page asks again
    if message.text.startswith(NOT_A_SUCCESS):
        board.refusals.append(message.text.removeprefix(NOT_A_SUCCESS)[:3])
    elif message.type in ("error", "warning"):
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
    """Opens a board; ``settings`` are the daemon's, ``options`` the browser's.

    ``refused``: the error statuses that the page has to get; None for any. ``gated``: a gate can cut the page off; the
    browser reports each refused connection. ``reports``: it may report others. ``faster``: the page's timers run ten times
    as fast, so that it asks often.
    """

    @asynccontextmanager
    async def opened(
        settings: dict[str, str] | None = None,
        *,
        refused: set[str] | None = frozenset(),  # type: ignore[assignment]
        gated: bool = False,
        reports: bool = False,
        faster: bool = False,
        **options: Any,
    ) -> AsyncIterator[Board]:
        context = await browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        context.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        async with AsyncExitStack() as stack:
            at = await stack.enter_async_context(harness(tmp_path, settings))
            board = Board(page=await context.new_page(), at=at, url=at.url)
            if gated:
                board.gate = await stack.enter_async_context(gate(at.port))
                board.url = board.gate.url
            board.page.on("console", lambda message: heard(board, message))
            board.page.on("pageerror", lambda error: board.complaints.append(str(error)))
            board.page.on("request", lambda request: board.requests.append(request.url.removeprefix(board.url)))
            await board.page.add_init_script(REPORT_VIOLATIONS + FASTER * faster)
            yield board
            assert not board.complaints or gated or reports
            assert refused is None or set(board.refusals) == refused
            assert all(url.startswith("/") for url in board.requests), "nothing is loaded from elsewhere"
            await context.close()

    return opened


@pytest_asyncio.fixture(loop_scope="session")
async def board(boards: Boards) -> AsyncIterator[Board]:
    """A board of a stackd without stacks, which answers everything that the page asks for."""
    async with boards() as ready:
        yield ready
