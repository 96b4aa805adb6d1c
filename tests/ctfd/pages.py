"""Pages of CTFd in Chromium."""

from __future__ import annotations

from typing import Any

from playwright.async_api import Browser, Page, expect

from tests.ctfd.conftest import PASSWORD, Ctfd

SECONDS = 20_000.0


async def page_of(browser: Browser, ctfd: Ctfd, name: str, **options: Any) -> Page:
    """A page of somebody who is logged in."""
    context = await browser.new_context(
        base_url=ctfd.url, viewport={"width": 1200, "height": 900}, reduced_motion="reduce", **options
    )
    context.set_default_timeout(SECONDS)
    expect.set_options(timeout=SECONDS)
    page = await context.new_page()
    page.on("pageerror", lambda error: (_ for _ in ()).throw(AssertionError(str(error))))
    await page.goto("/login")
    await page.fill("input[name=name]", name)
    await page.fill("input[name=password]", PASSWORD)
    await page.press("input[name=password]", "Enter")
    await page.wait_for_url("**/challenges*")
    return page
