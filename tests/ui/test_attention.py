"""What needs attention: which groups, why, and what to do about it; and the same done to many stacks at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import ViewportSize, expect

from stackd.web.pages import anchor
from tests.api.test_templates import PLAIN, folder_with
from tests.harness import eventually, request_for
from tests.ui.conftest import Board, Boards
from tests.ui.test_axe import BOTH, audit

pytestmark = pytest.mark.ui

ROOT = Path(__file__).parents[2]
TIMES = "\N{MULTIPLICATION SIGN}"
SMALL: ViewportSize = {"width": 1280, "height": 720}
IMAGES = {"1": ["nginx:stable", "registry.example/fail"], "2": ["registry.example/oom"] * 3, "10": ["nginx:stable"]}


async def teams(board: Board) -> dict[str, list[str]]:
    """Team 2 is worse off than team 1; team 10 has no trouble."""
    ids: dict[str, list[str]] = {}
    for team, images in IMAGES.items():
        for image in images:
            body = request_for(image, cpu="1m", memory="1Mi") | {"labels": {"team": team}}
            ids.setdefault(team, []).append((await board.at.create(body))["stack_id"])
        for stack_id, image in zip(ids[team], images, strict=True):
            await board.at.until_status(stack_id, "running" if image == "nginx:stable" else "failed")
    return ids


async def test_it_lists_the_worst_first_with_the_reason_and_the_way_to_the_guide(board: Board) -> None:
    ids = await teams(board)
    await board.open()
    attention = board.page.locator("#attention")
    await expect(attention.locator("summary")).to_have_text(f"Needs attention: 4 stacks: team 2, 3 {TIMES} OOMKilled")
    await attention.locator("summary").click()
    rows = attention.locator("tbody tr")
    await expect(rows.locator("th")).to_have_text(["2", "1"])
    await board.page.reload()
    await expect(rows.locator("th")).to_have_text(["2", "1"])
    why = rows.first.get_by_role("link", name=f"3 {TIMES} OOMKilled")
    href = await why.get_attribute("href") or ""
    page, _, place = href.partition("#")
    assert f'id="{place}"' in (await board.at.call("GET", page, key=None)).text
    await attention.get_by_role("button", name="Team", exact=True).click()
    await expect(rows.locator("th")).to_have_text(["1", "2"])
    await rows.last.get_by_title("Show 3 failed of team 2").click()
    await expect(board.rows).to_have_count(3)
    await attention.get_by_role("button", name="By node").click()
    await rows.first.get_by_role("button", name="Select").click()
    node = await rows.first.locator("th").inner_text()
    here = [one for team in ids.values() for one in team if (await board.at.stack(one))["node_id"] == node]
    await expect(board.page.locator("#selection")).to_contain_text(f"{len(here)} selected")
    await attention.get_by_role("button", name="By team").click()
    await rows.locator("th", has_text="2").locator("..").get_by_role("button", name="Logs").click()
    await expect(board.panel.locator("pre.log")).to_be_visible()


async def test_what_is_stuck_is_restarted_together(board: Board) -> None:
    ids = await teams(board)
    await board.open()
    await board.page.locator("#attention summary").click()
    await board.page.get_by_role("button", name="Restart 3…").click()
    await expect(board.dialog).to_contain_text("Restart 3 stacks?")
    await board.dialog.get_by_role("button", name="Restart 3").click()
    await expect(board.page.locator(".toast")).to_contain_text("3 restarted")
    for stack_id in ids["2"]:
        events = (await board.at.call("GET", f"/stacks/{stack_id}/timeline")).json["events"]
        assert [each["kind"] for each in events].count("restart_requested") == 1


async def test_everybody_gets_half_an_hour_more(board: Board) -> None:
    ids = await teams(board)
    before = {one: (await board.at.stack(one))["ttl_expires_at"] for team in ids.values() for one in team}
    await board.open()
    await board.page.get_by_label("Select all that are shown").check()
    await board.page.get_by_role("button", name="Extend…").click()
    await expect(board.dialog.get_by_label("By how much")).to_have_value("30m")
    await board.page.keyboard.press("Enter")
    await expect(board.page.locator(".toast")).to_contain_text("6 extended")
    for stack_id, end in before.items():
        assert (await board.at.stack(stack_id))["ttl_expires_at"] > end


async def test_stop_and_start_many(board: Board) -> None:
    ids = [await board.at.running() for _ in range(2)]
    await board.open()
    for verb, status in (("Stop", "stopped"), ("Start", "running")):
        await board.page.get_by_label("Select all that are shown").check()
        await board.page.get_by_role("button", name=f"{verb}…", exact=True).click()
        await board.dialog.get_by_role("button", name=f"{verb} 2").click()
        for stack_id in ids:
            await board.at.until_status(stack_id, status)
            await expect(board.row(stack_id)).to_have_attribute("data-status", status)


async def test_groups_come_worst_first_and_close_all_at_once(board: Board) -> None:
    await teams(board)
    await board.open()
    await board.page.get_by_label("Group").select_option("label:team")
    groups = board.page.locator("tr.group button")
    await expect(groups).to_have_text(["team 2", "team 1", "team 10"])
    await board.page.get_by_role("button", name="Close all").click()
    await expect(board.rows).to_have_count(0)
    await expect(groups).to_have_count(3)
    await board.page.get_by_role("button", name="Open all").click()
    await expect(board.rows).to_have_count(6)


async def test_an_image_that_cannot_be_pulled_is_more_than_creating(boards: Boards) -> None:
    async with boards({"STACKD_STACKS__IMAGE_PULL_GRACE": "1h"}) as board:
        stack = await board.at.create(request_for("registry.invalid/none:1"))
        await eventually(lambda: reason(board, stack["stack_id"]))
        await board.open()
        row = board.row(stack["stack_id"])
        await expect(row).to_have_attribute("data-status", "creating")
        await expect(row.locator(".status")).to_have_text("cannot pull")
        await expect(board.page.locator("#attention summary")).to_contain_text("Needs attention: 1 stack")


async def reason(board: Board, stack_id: str) -> bool:
    return bool((await board.at.stack(stack_id))["status_reason"])


async def test_ten_rows_are_seen_on_a_small_screen_with_nine_templates(boards: Boards, tmp_path: Path) -> None:
    names = [f"challenge_{number}" for number in range(9)]
    async with boards(folder_with(tmp_path, **dict.fromkeys(names, PLAIN)), viewport=SMALL) as board:
        for number in range(40):
            await board.at.create({"template": f"challenge-{number % 9}", "labels": {"team": str(number)}})
        await board.open()
        await expect(board.page.locator("#templates button")).to_have_count(9)
        seen = """() => [...document.querySelectorAll("tbody tr[data-id]")].map((e) => e.getBoundingClientRect())
          .filter((box) => box.top >= document.querySelector("#table thead").getBoundingClientRect().bottom - 1 &&
            box.bottom <= innerHeight).length"""
        await eventually(lambda: board.page.evaluate(seen))
        assert await board.page.evaluate(seen) >= 10
        await board.page.evaluate("scrollTo(0, document.body.scrollHeight)")
        for place in ("#find", "#table thead"):
            await expect(board.page.locator(place)).to_be_in_viewport(ratio=1)
        assert await board.page.evaluate("document.documentElement.scrollWidth") <= SMALL["width"]


def test_each_reason_leads_to_an_entry_of_the_guide() -> None:
    script = (ROOT / "stackd/web/static/dashboard/trouble.js").read_text()
    entries = script[script.index("const PULL") : script.index("/** Where the guide")]
    places = [text for text in re.findall(r'"([^"]+)"', entries) if "-" in text]
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(places) > 8
    assert set(places) | {"a-stack-does-not-run"} <= {anchor(heading) for heading in headings}


@BOTH
async def test_nothing_that_axe_knows_is_wrong_with_it(boards: Boards, scheme: str) -> None:
    async with boards(color_scheme=scheme) as board:
        await teams(board)
        await board.open()
        await board.page.locator("#attention summary").click()
        await expect(board.page.locator("#attention tbody tr")).to_have_count(2)
        await audit(board.page, "what needs attention")
        await board.page.get_by_label("Select all that are shown").check()
        await board.page.get_by_role("button", name="Extend…").click()
        await audit(board.page, "the question about an extension")
