"""A rehearsal's page in Chromium: light, dark and printed. It requests nothing, and hostile names stay text."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from stackd.client import AsyncClient
from stackd.rehearse.connection import Connection
from stackd.rehearse.measure import HTTP, KUBERNETES, PHASES, Attempt, Stage
from stackd.rehearse.outcome import Outcome, parse_goal
from stackd.rehearse.plan import Plan, StackKind
from stackd.rehearse.player import Phase, Rehearsal
from stackd.rehearse.report import page as page_of

pytestmark = [pytest.mark.ui, pytest.mark.asyncio(loop_scope="session")]
SHADES = """() => {
  const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return .3*r + .59*g + .11*b; };
  const style = (one) => getComputedStyle(document.querySelector(one));
  return [style("body").backgroundColor, style("body").color, style("svg .tick").fill, style("h1").color].map(light);
}"""
"""The brightness of the background and of three texts, from 0 to 255."""

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
        version="1.0.0",
        seconds=12.0,
    )  # fmt: skip
    return Outcome(rehearsal, [parse_goal("running-p95=2s")])


async def test_the_page_can_be_read_everywhere_and_requests_nothing(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page_of(outcome()), encoding="utf-8")
    page, requests, complaints = await browser.new_page(), list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(file.as_uri())
    await expect(page.locator("h1")).to_contain_text("It does not hold: 3 of 60 failed")
    charts = page.locator("svg")
    assert await charts.count() == 4
    for chart in await charts.all():
        box = await chart.bounding_box()
        assert box is not None
        assert (box["width"] > 300, box["height"] > 50) == (True, True)
    for name, share in (("accepted", 1.0), ("running", 57 / 60)):
        line = page.locator("svg", has_text="share of all").locator("polyline").filter(has_text=name)
        end = ((await line.get_attribute("points")) or "").split(",")[-1]
        assert float(end) == pytest.approx(236 - 220 * share), "a line ends at the share of all stacks that came so far"
    assert await page.locator("img").count() == 0
    await expect(page.get_by_role("cell", name=f"failed ({HOSTILE})", exact=True)).to_be_visible()
    for scheme in ("light", "dark"):
        await page.emulate_media(media="screen", color_scheme=scheme)
        paper, *texts = await page.evaluate(SHADES)
        assert (paper < 60) is (scheme == "dark")
        assert min(abs(text - paper) for text in texts) > 75
        await page.emulate_media(media="print")
        paper, *texts = await page.evaluate(SHADES)
        assert paper == 255, "paper is white, also where the screen is dark"
        assert max(texts) < 130
    await page.emulate_media(media="screen")
    await page.set_viewport_size({"width": 390, "height": 844})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await page.close()
    assert (requests, complaints) == ([file.as_uri()], [])
