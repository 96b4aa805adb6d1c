"""A rehearsal's page in Chromium: light, dark and printed. It requests nothing, and hostile names stay text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from stackd.client import AsyncClient
from stackd.rehearse.connection import Connection
from stackd.rehearse.measure import HTTP, KUBERNETES, PHASES, Attempt, Stage
from stackd.rehearse.outcome import Outcome, parse_goal
from stackd.rehearse.plan import Plan, StackKind
from stackd.rehearse.player import Phase, Rehearsal
from stackd.rehearse.report import page as page_of

pytestmark = [pytest.mark.ui, pytest.mark.asyncio(loop_scope="session")]
HOSTILE = '<img src="http://elsewhere.example/x.png" onerror="alert(1)">&amp;'


def outcome(stacks: int = 60) -> Outcome:
    """A longer rehearsal on five nodes, with failures."""
    attempts = []
    for player in range(stacks):
        attempt = Attempt(
            player=player, kind="pod.yaml", due=player / 10, node=f"worker-{player % 5}", images=(HOSTILE,)
        )
        attempt.stack_id = f"stack-{player:016x}"
        attempt.reached(Stage.ACCEPTED, attempt.due + 0.2)
        attempt.times[Stage.SCHEDULED] = attempt.due + 0.1
        attempt.started = attempt.due + 0.9
        if player % 20 == 7:
            attempt.fail(Stage.RUNNING, f"failed ({HOSTILE})")
        else:
            attempt.reached(Stage.RUNNING, attempt.due + 1 + player % 7 / 10)
        attempts.append(attempt)
    rehearsal = Rehearsal(
        plan=Plan(stacks=stacks, rate=10.0, kinds=[StackKind(name="pod.yaml", body={})]),
        connection=Connection(AsyncClient("http://127.0.0.1:1", ""), 1),
        ident="c0ffee00",
        phase=Phase.DONE,
        attempts=attempts,
        added={
            (HTTP, "POST /stacks"): (12.0, 60.0), (PHASES, "accept"): (0.6, 60.0), (PHASES, "reserve"): (0.6, 60.0),
            (PHASES, "schedule"): (0.6, 60.0), (KUBERNETES, "pods create"): (3.6, 60.0),
        },
        version="0.1.0",
        seconds=12.0,
    )  # fmt: skip
    return Outcome(rehearsal, [parse_goal("running-p95=2s")])


@pytest_asyncio.fixture(loop_scope="session")
async def report(browser: Browser, tmp_path: Path) -> AsyncIterator[Page]:
    """The page, opened from a file; any request or complaint of the browser fails the test."""
    file = tmp_path / "report.html"
    file.write_text(page_of(outcome()), encoding="utf-8")
    page, asked, complaints = await browser.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(file.as_uri())
    yield page
    await page.close()
    assert asked == [file.as_uri()]
    assert complaints == []


async def test_the_verdict_stands_first_and_the_charts_are_drawn(report: Page) -> None:
    await expect(report.locator("h1")).to_contain_text("It does not hold: 3 of 60 failed")
    charts = report.locator("svg")
    assert await charts.count() == 7
    for place in range(await charts.count()):
        box = await charts.nth(place).bounding_box()
        assert box is not None
        assert box["width"] > 300
        assert box["height"] > 50
    bars = report.locator("section", has_text="Time to running").first.locator("rect.bar")
    titles = [await bars.nth(place).locator("title").text_content() for place in range(await bars.count())]
    assert sum(int((title or "0").split()[0]) for title in titles) == 57, "each stack that ran is in one bar"


async def test_names_and_reasons_are_text(report: Page) -> None:
    assert await report.locator("img").count() == 0
    await expect(report.get_by_role("cell", name=f"failed ({HOSTILE})", exact=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_both_themes_and_on_paper(report: Page, scheme: str) -> None:
    await report.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    shades = await _shades(report)
    assert (shades["paper"] < 60) is (scheme == "dark")
    assert min(abs(shades[name] - shades["paper"]) for name in ("ink", "tick", "verdict")) > 75
    await report.emulate_media(media="print", color_scheme="dark" if scheme == "dark" else "light")
    printed = await _shades(report)
    assert printed["paper"] == 255, "paper is white, also where the screen is dark"
    assert max(printed[name] for name in ("ink", "tick", "verdict")) < 130


async def test_nothing_is_cut_off_on_a_phone(report: Page) -> None:
    await report.set_viewport_size({"width": 390, "height": 844})
    assert await report.evaluate("document.documentElement.scrollWidth") <= 390


async def _shades(page: Page) -> dict[str, float]:
    """The brightness of the background and of three texts, from 0 to 255."""
    shades: dict[str, float] = await page.evaluate(
        """() => {
          const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return .3*r + .59*g + .11*b; };
          const style = (one) => getComputedStyle(document.querySelector(one));
          return { paper: light(style("body").backgroundColor), ink: light(style("body").color),
                   tick: light(style("svg .tick").fill), verdict: light(style("h1").color) };
        }"""
    )
    return shades
