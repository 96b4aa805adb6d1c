"""An event on the dashboard: 1,500 stacks, some of them broken, and what the person on duty asks.

``python -m tests.ui.event_day --shots DIR`` asks everything on a screen and on two phones, in light and dark, keeps a
picture of each answer, and measures how long the page blocks while the stacks change. ``test_event_day.py`` asks the
same of a smaller event.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, Locator, Page, ViewportSize, async_playwright, expect

from stackd.embedded import EmbeddedCluster
from stackd.embedded.nodes import node_specs
from tests.harness import KEY, Harness, fast_cluster, harness, until
from tests.templates import folder_with

OUT_OF_MEMORY = "misc-1"
IMAGES = {
    "web-1": "nginx:stable", "web-2": "nginx:stable", "web-3": "nginx:stable", "web-4": "nginx:stable",
    "pwn-1": "nginx:stable", "pwn-2": "nginx:stable", "crypto-1": "nginx:stable", "crypto-2": "nginx:stable",
    "rev-1": "nginx:stable", "rev-2": "nginx:stable", OUT_OF_MEMORY: "registry.example/oom",
    "forensics": "registry.example/unready",
}  # fmt: skip
"""The image of each challenge; each team has a stack of each, but few of the last one."""

TEMPLATE = """\
target_port: [{{container_port: 80, protocol: TCP}}]
ttl: 2h
labels: {{challenge: {name}}}
pod:
  apiVersion: v1
  kind: Pod
  metadata: {{name: app}}
  spec:
    containers:
    - name: app
      image: {image}
      ports: [{{containerPort: 80, protocol: TCP}}]
      resources: {{limits: {{cpu: 100m, memory: 64Mi}}}}
"""
AT_ONCE = 24
"""So many creates are sent at a time."""

TYPED_ABOVE = 50
"""A restart of more stacks has to be typed."""

SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A stackd with the stacks of an event; the node ``lost`` has gone with its stacks."""

    at: Harness
    teams: int
    lost: str


@asynccontextmanager
async def event(folder: Path, *, teams: int, nodes: int, interval: str = "200ms") -> AsyncIterator[Event]:
    """An event of so many teams on a cluster of so many nodes; ``interval`` is that of reconciliation."""
    templates = {name: TEMPLATE.format(name=name, image=image) for name, image in IMAGES.items()}
    lost = node_specs(nodes)[-1].name
    settings = folder_with(folder, **templates) | {
        "STACKD_PLAY__SECRET": SECRET,
        "STACKD_PLAY__URL": "https://stackd.example",
    }
    options = fast_cluster(nodes=node_specs(nodes))
    async with (
        EmbeddedCluster(options) as cluster,
        harness(folder, settings, cluster=cluster, reconcile__interval=interval) as at,
    ):
        await populate(at, teams)
        await until(lambda: counts(at), lambda seen: seen.get("creating", 0) <= teams // 10, 120)
        at.faults.remove_node(lost)
        await until(lambda: counts(at), lambda seen: seen.get("node_deleted"), 120)
        yield Event(at=at, teams=teams, lost=lost)


async def counts(at: Harness) -> dict[str, int]:
    """How many stacks have each status."""
    found: dict[str, int] = {}
    for stack in (await at.get("/stacks?fields=status"))["stacks"]:
        found[stack["status"]] = found.get(stack["status"], 0) + 1
    return found


async def populate(at: Harness, teams: int) -> None:
    """Create a stack of each challenge for each team; those of some teams expire soon."""
    bodies: list[dict[str, Any]] = []
    for team, name in itertools.product(range(1, teams + 1), IMAGES):
        if name == "forensics" and team % 10:
            continue
        body = {"template": name, "labels": {"team": str(team), "challenge": name}}
        bodies.append(body | ({"ttl": "9m"} if team % 10 == 3 else {}))
    left = iter(bodies)

    async def work() -> None:
        for body in left:
            await at.post("/stacks", body, 201)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


# ---- the questions


@dataclass(slots=True, kw_only=True)
class Duty:
    """The person on duty before the page of an event; ``count`` is how often they have clicked, pressed a key or typed."""

    page: Page
    event: Event
    phone: bool = False
    count: int = 0

    async def click(self, target: Locator) -> None:
        self.count += 1
        await (target.tap() if self.phone else target.click())

    async def press(self, key: str) -> None:
        self.count += 1
        await self.page.keyboard.press(key)

    async def type(self, text: str) -> None:
        self.count += 1
        await self.page.keyboard.type(text)

    async def choose(self, label: str, value: str) -> None:
        self.count += 1
        await self.page.get_by_label(label).select_option(value)

    def button(self, name: str | re.Pattern[str], **options: Any) -> Locator:
        return self.page.get_by_role("button", name=name, **options)

    def attention(self, name: str) -> Locator:
        """The row of what needs attention with this name."""
        rows = self.page.locator("#attention tbody tr")
        return rows.filter(has=self.page.get_by_role("rowheader", name=name, exact=True))

    @property
    def dialog(self) -> Locator:
        return self.page.locator("dialog[open]")

    @property
    def toast(self) -> Locator:
        return self.page.locator(".toast").last

    @property
    def rows(self) -> Locator:
        return self.page.locator("tbody tr[data-id]")

    async def find(self, text: str) -> None:
        """Type into Find."""
        await self.click(self.page.locator("#find"))
        await self.type(text)


async def what_is_broken_worst_and_what_helps(duty: Duty) -> None:
    await duty.click(duty.page.locator("#attention summary"))
    worst = duty.page.locator("#attention tbody tr").first
    await expect(worst.locator("th")).to_have_text(OUT_OF_MEMORY)
    await expect(worst.locator(".because")).to_contain_text("OOMKilled")
    await expect(worst.locator(".remedies > *").first).to_have_text("Raise the limit")
    await expect(worst.locator(".remedies > *").first).to_be_in_viewport(ratio=1)


async def why_does_a_team_fail(duty: Duty) -> None:
    await duty.find("team=3 failed")
    await expect(duty.rows).to_have_count(1)
    if duty.phone:
        await duty.click(duty.rows.locator(".c-status"))
        await duty.click(duty.page.locator("#panel summary", has_text="Logs"))
    else:
        await duty.press("Enter")
        await duty.press("l")
    await expect(duty.page.locator("#panel .cause")).to_contain_text("OOMKilled")
    await expect(duty.page.locator("#panel pre.log")).to_contain_text("starting")


async def where_is_a_players_stack(duty: Duty) -> None:
    await duty.find("team=2 web-2")
    if duty.phone:
        await duty.click(duty.rows.locator(".address"))
    else:
        await duty.press("Enter")
        await duty.press("c")
    await expect(duty.toast).to_contain_text("copied 127.0.0.1:")


async def how_many_more_fit(duty: Duty) -> None:
    await expect(duty.page.locator(".room")).to_contain_text("more fit")
    await expect(duty.page.locator(".room")).to_be_in_viewport(ratio=1)


async def how_do_the_stacks_of_a_lost_node_run_again(duty: Duty) -> None:
    await duty.click(duty.page.locator("#attention summary"))
    await duty.click(duty.button("By node"))
    await duty.click(duty.attention(duty.event.lost).get_by_role("button", name="Move"))
    await duty.click(duty.dialog.get_by_role("button", name="Move"))
    await expect(duty.toast).to_contain_text("moved")
    await expect(duty.page.locator("#glance [data-status=node_deleted]")).to_have_text(re.compile("^0"))


async def how_does_a_challenge_get_more_time(duty: Duty) -> None:
    await duty.click(duty.page.locator('#templates [data-template="web-1"]'))
    all_that_last = duty.button(re.compile("^Extend all [0-9]+…$"))
    words = await all_that_last.inner_text()
    await duty.click(all_that_last)
    await duty.press("Enter")
    await expect(duty.toast).to_have_text(re.compile(f"^{re.sub('[^0-9]', '', words)} extended[^,]*$"))


async def what_came_of_a_restart(duty: Duty) -> None:
    await duty.click(duty.page.locator("#attention summary"))
    await duty.click(duty.attention(OUT_OF_MEMORY).get_by_role("button", name="Restart"))
    if duty.event.teams > TYPED_ABOVE:
        await duty.type(str(duty.event.teams))
    await duty.press("Enter")
    await expect(duty.toast).to_contain_text(f"0 run, {duty.event.teams} failed (OOMKilled)")


async def who_did_that_and_what_came_of_it(duty: Duty) -> None:
    await duty.click(duty.button("Activity"))
    await duty.type(f"restart {OUT_OF_MEMORY}")
    entry = duty.dialog.locator("ol > li")
    await expect(entry).to_have_count(1)
    await expect(entry).to_contain_text(f"environment restart {duty.event.teams} stacks")
    await expect(entry).to_contain_text(f"0 run, {duty.event.teams} failed (OOMKilled)")
    await duty.click(entry.locator("summary"))
    await expect(entry.get_by_role("button")).to_have_count(duty.event.teams)
    await expect(entry.locator("li").first).to_contain_text("done; now failed (OOMKilled)")


async def who_loses_their_stack_soon(duty: Duty) -> None:
    chip = duty.button(re.compile("expires? soon"))
    await duty.click(chip)
    await expect(duty.rows.first.locator(".left.soon")).to_be_visible()
    await duty.click(duty.button(re.compile("^Extend all")))
    await duty.press("Enter")
    await expect(chip).to_have_count(0)


async def how_does_a_helper_get_to_see_this(duty: Duty) -> None:
    await duty.click(duty.button("Access"))
    await duty.type("Alice")
    await duty.press("Enter")
    await expect(duty.dialog).to_contain_text("/dashboard#key=")
    await duty.click(duty.dialog.get_by_role("button", name="Copy"))


QUESTIONS: tuple[Callable[[Duty], Awaitable[None]], ...] = (
    what_is_broken_worst_and_what_helps,
    how_many_more_fit,
    why_does_a_team_fail,
    where_is_a_players_stack,
    who_loses_their_stack_soon,
    how_does_a_challenge_get_more_time,
    how_do_the_stacks_of_a_lost_node_run_again,
    what_came_of_a_restart,
    who_did_that_and_what_came_of_it,
    how_does_a_helper_get_to_see_this,
)
"""In this order, because some change what is broken."""


# ---- asking them all


@asynccontextmanager
async def on_duty(
    browser: Browser, event: Event, viewport: ViewportSize, scheme: Literal["light", "dark"] = "light"
) -> AsyncIterator[Duty]:
    """The page in a window, or on a phone, of this size."""
    phone = viewport["width"] < 800
    options: dict[str, Any] = {"viewport": viewport, "color_scheme": scheme, "has_touch": phone}
    context = await browser.new_context(**options, reduced_motion="reduce")
    page = await context.new_page()
    await page.goto(event.at.url + "/dashboard")
    await page.get_by_label("API key").fill(KEY)
    await page.keyboard.press("Enter")
    await page.locator("tbody tr[data-id]").first.wait_for()
    yield Duty(page=page, event=event, phone=phone)
    await context.close()


async def answer(duty: Duty, question: Callable[[Duty], Awaitable[None]]) -> tuple[int, float]:
    """Ask on a page that nobody has touched; how many interactions and seconds the answer took."""
    await duty.page.goto("about:blank")
    await duty.page.goto(duty.event.at.url + "/dashboard")
    await duty.rows.first.wait_for()
    duty.count, began = 0, time.monotonic()
    await question(duty)
    return duty.count, time.monotonic() - began


WATCH = """globalThis.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((e) => e.duration))).observe({ type: "longtask" });"""


async def blocked(duty: Duty, group: str, seconds: float, rate: float = 20) -> list[float]:
    """The milliseconds of the page's long tasks while so many stacks a second change."""
    await duty.page.goto("about:blank")
    await duty.page.goto(f"{duty.event.at.url}/dashboard#group={group}")
    await duty.rows.first.wait_for()
    await duty.page.evaluate(WATCH)
    ids = [stack["stack_id"] for stack in await duty.event.at.stacks() if stack["status"] == "running"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        due = asyncio.sleep(1 / rate)
        await asyncio.gather(due, duty.event.at.do("extend", random.choice(ids), "1s"))
    return sorted(await duty.page.evaluate("tasks"), reverse=True)


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark") * 3
SIZES: tuple[ViewportSize, ...] = (
    {"width": 1280, "height": 800},
    {"width": 390, "height": 844},
    {"width": 360, "height": 740},
)


async def ask_everything(shots: Path, teams: int, nodes: int) -> None:
    from tests.ui.conftest import ARGUMENTS, CHROMIUM

    expect.set_options(timeout=120_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for viewport, scheme in zip(SIZES * 2, SCHEMES, strict=True):
            full = viewport is SIZES[0] and scheme == "light"
            size = (teams, nodes) if full else (min(teams, 24), min(nodes, 10))
            with tempfile.TemporaryDirectory() as folder:
                async with (
                    event(Path(folder), teams=size[0], nodes=size[1], interval="10s") as happening,
                    on_duty(browser, happening, viewport, scheme) as duty,
                ):
                    for group in ("", "label:challenge") if full else ():
                        print(
                            f"long tasks, grouped by {group or 'nothing'}:", (await blocked(duty, group, 20))[:5], "ms"
                        )
                    for place, question in enumerate(QUESTIONS, 1):
                        count, seconds = await answer(duty, question)
                        name = question.__name__.replace("_", " ")
                        print(
                            f"{viewport['width']} {scheme}: {name}: {count} interactions, {seconds:.1f} s", flush=True
                        )
                        await duty.page.screenshot(path=shots / f"{viewport['width']}-{scheme}-{place:02}.png")
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shots", type=Path, required=True)
    parser.add_argument("--teams", type=int, default=136)
    parser.add_argument("--nodes", type=int, default=50)
    chosen = parser.parse_args()
    chosen.shots.mkdir(parents=True, exist_ok=True)
    asyncio.run(ask_everything(chosen.shots, chosen.teams, chosen.nodes))
