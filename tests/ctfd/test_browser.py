"""The box in the challenge's window, and the organisers' form, in Chromium. What the box can do: tests/ui/test_play.py."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.ctfd.conftest import Ctfd, Source, open_challenge, page_of
from tests.harness import Harness
from tests.ui.conftest import AXE


def button(box: Locator, name: str) -> Locator:
    return box.get_by_role("button", name=name, exact=True)


async def audit(page: Page, element: str) -> None:
    """Fail if axe finds anything in this element, in light or in dark."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make js)")
    await page.evaluate(AXE.read_text())
    for theme in ("light", "dark"):
        await page.evaluate("theme => document.documentElement.setAttribute('data-bs-theme', theme)", theme)
        assert await page.evaluate("async (element) => (await axe.run(element)).violations", element) == [], theme


@pytest.mark.parametrize("theme", ["core", "core-beta"])
async def test_two_tabs(ctfd: Ctfd, stackd: Harness, browser: Browser, source: Source, theme: str) -> None:
    if not (source[0] / "CTFd" / "themes" / theme).exists():
        pytest.skip(f"this CTFd has no theme {theme}")
    await ctfd.admin.call("PATCH", "/api/v1/configs", {"ctf_theme": theme})
    await ctfd.challenge()
    await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada")
    box, extended = await open_challenge(page), re.compile(r"3\d:")
    await expect(box.get_by_role("status")).to_have_text("No instance is running.")
    await button(box, "Start").evaluate("button => { button.focus(); button.click(); button.click(); }")
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")
    assert await page.evaluate("document.activeElement.closest('stackd-instance') !== null"), "the focus is kept"
    (stack_id,) = await stackd.listed()
    port = (await stackd.stack(stack_id))["ports"][0]["node_port"]
    await expect(box.get_by_role("link", name=f"http://127.0.0.1:{port}", exact=True)).to_be_visible()
    await button(box, "Extend").focus()
    await page.keyboard.press("Enter")
    await expect(box.get_by_role("timer")).to_contain_text(extended)
    assert await button(box, "Extend").evaluate("button => button.getRootNode().activeElement === button")
    other = await page.context.new_page()
    second = await open_challenge(other)
    await expect(second.get_by_role("timer")).to_contain_text(extended)
    await audit(page, "stackd-instance")


async def test_an_organiser_makes_and_changes_a_challenge(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    page = await page_of(browser, ctfd, "admin")
    await page.goto("/admin/stackd#health")
    await page.click("#stackd-test")
    await expect(page.get_by_role("row", name="✓ the template web-1 would start")).to_be_visible()
    await page.goto("/admin/challenges/new")
    await page.wait_for_load_state("networkidle")  # CTFd loads the form of its first type meanwhile
    await page.locator("label", has_text="stackd").click()
    form = page.locator("#create-chal-entry-div form")
    await expect(form.locator("#stackd_template option[value=web-1]")).to_have_count(1)
    await form.locator("input[name=name]").fill("Made")
    await form.locator("input[name=category]").fill("web")
    await form.locator("#value").fill("70")
    await form.locator("#stackd_template").select_option("web-1")
    warnings = form.locator("#stackd-warnings")
    life = form.locator("#stackd_ttl")
    for text, warning in (("soon", "such as 30m"), ("9000h", "at most"), ("45m", "")):
        await life.fill(text)
        await life.blur()
        await (expect(warnings).to_contain_text(warning) if warning else expect(warnings).to_have_text(""))
    await form.locator("button[type=submit]").click()
    await expect(page.locator("#challenge-create-options")).to_be_visible()
    await page.goto("/admin/challenges/1")
    update = page.locator("#challenge-update-container form")
    await expect(update.locator("#stackd_ttl")).to_have_value("45m")
    await update.locator("#function").select_option("linear")
    for name, value in (("initial", "300"), ("decay", "10"), ("minimum", "50")):
        await update.locator(f"#{name}").fill(value)
    await update.locator("select[name=state]").select_option("visible")
    await update.locator("button[type=submit]").click()
    await expect(page.get_by_text("Your challenge has been updated!")).to_be_visible()
    shown = await ctfd.admin.data("GET", "/api/v1/challenges/1")
    assert (shown["value"], shown["stackd_function"], shown["stackd_decay"]) == (300, "linear", 10)
