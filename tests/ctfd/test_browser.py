"""The box in the challenge's window, as a player in Chromium uses it, and the organisers' pages."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.ctfd.conftest import Ctfd
from tests.ctfd.pages import SECONDS, page_of
from tests.harness import Harness
from tests.ui.conftest import AXE


async def open_challenge(page: Page, name: str = "Web") -> Locator:
    """Open the challenge's window; returns the box."""
    await page.goto("/challenges")
    await page.get_by_role("button", name=name).click()
    box = page.get_by_role("region", name="Instance")
    await expect(box).to_be_visible()
    return box


def button(box: Locator, name: str) -> Locator:
    return box.get_by_role("button", name=name, exact=True)


async def confirm(box: Locator, name: str) -> None:
    """Press a button that asks whether it is meant."""
    await button(box, name).click()
    await box.get_by_role("button", name="Yes").click()


async def audit(page: Page, element: str) -> None:
    """Fail if axe finds anything in this element, in light or in dark."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make js)")
    await page.evaluate(AXE.read_text())
    for theme in ("light", "dark"):
        await page.evaluate("theme => document.documentElement.setAttribute('data-bs-theme', theme)", theme)
        found = await page.evaluate(
            """async (element) => (await axe.run(element, { resultTypes: ["violations"] })).violations
                .flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`))""",
            element,
        )
        assert found == [], theme


@pytest.mark.parametrize("theme", ["core", "core-beta"])
async def test_two_tabs(ctfd: Ctfd, stackd: Harness, browser: Browser, source: tuple[Path, Path], theme: str) -> None:
    if not (source[0] / "CTFd" / "themes" / theme).exists():
        pytest.skip(f"this CTFd has no theme {theme}")
    await ctfd.admin.call("PATCH", "/api/v1/configs", {"ctf_theme": theme})
    await ctfd.challenge()
    await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada")
    box = await open_challenge(page)
    await expect(box.get_by_role("status")).to_have_text("No instance is running.")
    await button(box, "Start").evaluate("button => { button.focus(); button.click(); button.click(); }")
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")
    assert await page.evaluate("document.activeElement.closest('stackd-instance') !== null"), "the focus is kept"
    assert len(await stackd.listed()) == 1
    (stack_id,) = await stackd.listed()
    port = (await stackd.stack(stack_id))["ports"][0]["node_port"]
    await expect(box.get_by_role("link", name=f"http://127.0.0.1:{port}", exact=True)).to_be_visible()
    await expect(box.get_by_role("timer")).to_contain_text("29:")
    await button(box, f"Copy http://127.0.0.1:{port}").click()
    await expect(box.get_by_text("Copied")).to_be_visible()
    await expect(button(box, "Extend")).to_have_accessible_description("Instance +10 min (2 left)")
    await button(box, "Extend").focus()
    await page.keyboard.press("Enter")
    await expect(box.get_by_role("timer")).to_contain_text("39:")
    assert await button(box, "Extend").evaluate("button => button.getRootNode().activeElement === button")
    other = await page.context.new_page()
    second = await open_challenge(other)
    await expect(second.get_by_role("timer")).to_contain_text("39:")
    await stackd.post(f"/stacks/{stack_id}/restart", {}, 200)
    restarted = "Your instance is running. It was restarted by the organisers."
    await expect(box.get_by_role("status")).to_have_text(restarted)
    await button(box, "Restart").click()
    await expect(button(box, "Keep it")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(button(box, "Restart")).to_be_focused()
    await confirm(box, "Restart")
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")
    await audit(page, "stackd-instance")


async def test_at_the_limit_the_box_names_what_can_make_room(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    names = ("Web", "Pwn <b>1</b>")
    ids = [await ctfd.challenge(name=name) for name in names]
    player = await ctfd.player("ada")
    await player.start(ids[1])
    page = await page_of(browser, ctfd, "ada")
    box = await open_challenge(page)
    await expect(box.get_by_text("You may have 1 at a time: Pwn <b>1</b>.")).to_be_visible()
    await expect(button(box, "Start")).to_be_hidden()
    await confirm(box, "Stop Pwn <b>1</b> and start this one")
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")
    await stackd.until_listed(1)


async def test_a_box_says_when_it_opens_or_has_closed_in_the_readers_zone(ctfd: Ctfd, browser: Browser) -> None:
    opens = datetime(2040, 3, 1, 18, 30, tzinfo=UTC)
    challenge = await ctfd.challenge(stackd_opens=opens.isoformat())
    await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada", timezone_id="Asia/Kolkata", locale="en-GB")
    box = await open_challenge(page)
    await expect(box.get_by_role("alert")).to_have_text("It opens on 2 Mar 2040, 00:00.")
    await expect(button(box, "Start")).to_be_hidden()
    await audit(page, "stackd-instance")
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_opens": ""})
    await expect(button(box, "Start")).to_be_visible()
    past = {"stackd_closes": "2024-03-01T18:30Z"}
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", past)
    await expect(box.get_by_role("alert")).to_have_text("It closed on 2 Mar 2024, 00:00.")
    await expect(button(box, "Start")).to_be_hidden()
    await ctfd.admin.data("PATCH", f"/api/v1/challenges/{challenge}", {"stackd_closes": ""})
    await ctfd.admin.call("PATCH", "/api/v1/configs", {"end": 1_700_000_000})
    await expect(box.get_by_role("alert")).to_have_text("It closed on 15 Nov 2023, 03:43.")


async def test_of_several_pods_the_box_names_the_one_that_does_not_work(
    ctfd: Ctfd, stackd: Harness, browser: Browser
) -> None:
    challenge = await ctfd.challenge(stackd_template="web-db")
    player = await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada")
    box = await open_challenge(page)
    await player.press(challenge, "start")
    await expect(box.get_by_role("alert")).to_have_text(re.compile("^db: The program in it ends again and again."))


async def test_a_word_to_all_is_shown_in_the_box_to_whom_it_is_for(
    ctfd: Ctfd, stackd: Harness, browser: Browser
) -> None:
    await ctfd.challenge()
    await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada")
    said = (await open_challenge(page)).locator("#news")
    await expect(said).to_have_attribute("aria-live", "polite")
    await stackd.post("/messages", {"text": "For somebody else", "labels": {"player": "user-999"}}, 201)
    await stackd.post("/messages", {"text": "Ten minutes left", "template": "web-1"}, 201)
    await expect(said).to_have_text("Ten minutes left")
    await page.goto("/stackd/instances")
    await expect(page.locator("stackd-instances").get_by_text("Ten minutes left")).to_have_count(1)


async def test_a_ctfd_that_does_not_answer_is_said_within_seconds(ctfd: Ctfd, browser: Browser) -> None:
    await ctfd.challenge()
    await ctfd.player("ada")
    page = await page_of(browser, ctfd, "ada")
    box = await open_challenge(page)
    await expect(button(box, "Start")).to_be_visible()
    await page.route("**/api/v1/stackd/**", lambda route: None)  # never an answer
    await button(box, "Start").click()
    await expect(box.get_by_role("alert")).to_have_text(re.compile("^No answer"))
    await page.unroute_all(behavior="ignoreErrors")
    await expect(box.get_by_role("alert")).to_be_hidden()
    await button(box, "Start").click()
    await expect(box.get_by_role("status")).to_have_text("Your instance is running.")


async def test_an_organiser_makes_and_changes_a_challenge(ctfd: Ctfd, stackd: Harness, browser: Browser) -> None:
    page = await page_of(browser, ctfd, "admin")
    await page.goto("/admin/stackd#health")
    await page.click("#stackd-test")
    await expect(page.get_by_role("row", name="✓ the template web-1 would start")).to_be_visible()
    await page.goto("/admin/challenges/new")
    await page.wait_for_load_state("networkidle")  # CTFd loads the form of its first type meanwhile
    await page.locator("label", has_text="stackd").click()
    form = page.locator("#create-chal-entry-div form")
    choice = form.locator("#stackd_template option[value=web-1]")
    await expect(choice).to_have_text("web-1: generates FLAG, TEAM_SECRET, no pool, 1h", timeout=SECONDS)
    await form.locator("input[name=name]").fill("Made")
    await form.locator("input[name=category]").fill("web")
    await form.locator("#value").fill("70")
    await form.locator("#stackd_template").select_option("web-1")
    warnings = form.locator("#stackd-warnings")
    for field, wrong, sentence, right in (
        ("#stackd_ttl", "soon", "write a length of time such as 30m", "9000h"),
        ("#stackd_ttl", "9000h", "at most", "45m"),
        ("#stackd_value", "OTHER", "web-1 generates no value OTHER", "FLAG"),
    ):
        await form.locator(field).fill(wrong)
        await form.locator(field).blur()
        await expect(warnings).to_contain_text(sentence)
        await form.locator(field).fill(right)
        await form.locator(field).blur()
    await expect(warnings).to_have_text("")
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
