"""Creating from YAML: what the API refuses is shown at its line."""

from __future__ import annotations

import pytest
from playwright.async_api import Route, expect

from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

YAML = """apiVersion: v1
kind: Pod
metadata:
  name: challenge
spec:
  hostNetwork: true
  containers:
    - name: app
      image: nginx:stable
      securityContext:
        privileged: true
      ports:
        - containerPort: 80
      resources: {limits: {cpu: 10m, memory: 16Mi}}
"""


async def test_each_mistake_is_shown_at_its_line(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        await board.page.get_by_role("button", name="New stack").click()
        await board.dialog.get_by_label("Pod, as YAML").fill(YAML)
        await board.dialog.get_by_role("button", name="Create").click()
        await expect(board.dialog.locator(".mistakes li")).to_have_count(2)
        lines = [
            int(await li.get_attribute("data-line") or 0) for li in await board.dialog.locator(".mistakes li").all()
        ]
        assert lines == [6, 11]
        await expect(board.dialog.locator(".mistakes li").first).to_contain_text("spec.hostNetwork")
        await board.dialog.get_by_role("button", name="line 11").click()
        selected = "() => { const t = document.querySelector('#yaml'); return t.value.slice(t.selectionStart, t.selectionEnd); }"
        assert await board.page.evaluate(selected) == "        privileged: true"
        assert (await board.at.call("GET", "/stacks")).json == {"stacks": []}
        assert board.refusals == ["400"]


async def test_mistakes_come_by_line_and_each_can_be_reached(boards: Boards) -> None:
    """The API lists unknown fields and volumes in its own order."""
    async with boards(viewport={"width": 1024, "height": 640}) as board:
        await board.open()
        await board.page.keyboard.press("n")
        wrong = "".join(f"  wrong{number}: 1\n" for number in range(12))
        await board.dialog.get_by_label("Pod, as YAML").fill(YAML + wrong)
        await board.dialog.get_by_role("button", name="Check").click()
        rows = board.dialog.locator(".mistakes li")
        await expect(rows).to_have_count(14)
        await expect(board.dialog.locator(".mistakes")).to_contain_text("14 problems")
        lines = [int(await row.get_attribute("data-line") or 0) for row in await rows.all()]
        assert lines == sorted(lines)
        assert lines[:3] == [6, 11, 15]
        last = rows.last.get_by_role("button")
        await last.click()
        await expect(board.dialog.get_by_label("Pod, as YAML")).to_be_focused()
        selected = "() => { const t = document.querySelector('#yaml'); return t.value.slice(t.selectionStart, t.selectionEnd); }"
        assert await board.page.evaluate(selected) == "  wrong11: 1"
        await rows.last.scroll_into_view_if_needed()
        for place in (rows.last, board.dialog.get_by_role("button", name="Create")):
            await expect(place).to_be_in_viewport(ratio=0.9)  # however one scrolls, the buttons stay visible
        assert board.refusals == ["400"]


BROKEN = [
    ("spec:\n  a:\n    - containerPort: 80\n  b: [1\n  c: 2\n", 5),
    ("spec:\n  a: [1\nb: 2\n", 3),
    ("apiVersion: v1\n\tkind: Pod\n", 2),
    ("kind: Pod\nkind: Pod\nspec:\n  ports:\n  - containerPort: 1\n", 2),
    ("kind: Pod\nmetadata:\n  name: a: b\n", 3),
    ("kind: Pod\nmetadata:\n  name: *nobody\n", 3),
    ("kind: Pod\nmetadata:\n  name: a\x07b\n", 3),
]


async def test_broken_yaml_is_shown_at_its_own_line(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        await board.page.keyboard.press("n")
        for text, line in BROKEN:
            await board.dialog.get_by_label("Pod, as YAML").fill(text)
            await expect(board.dialog.locator(".mistakes li")).to_have_count(0)
            await board.dialog.get_by_role("button", name="Check").click()
            await expect(board.dialog.locator(".mistakes li").first).to_have_attribute("data-line", str(line))
        assert set(board.refusals) == {"400"}


async def test_what_is_wrong_beside_the_yaml_leads_to_its_field(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        await board.page.keyboard.press("n")
        await board.dialog.get_by_label("Pod, as YAML").fill(YAML)
        await board.dialog.get_by_label("Ports").fill("80/sctp")
        await board.dialog.get_by_role("button", name="Check").click()
        rows = board.dialog.locator(".mistakes li")
        await expect(rows).to_have_count(3)
        await expect(board.dialog.get_by_label("Ports")).to_have_attribute("aria-invalid", "true")
        await rows.last.get_by_role("button", name="Ports").click()
        await expect(board.dialog.get_by_label("Ports")).to_be_focused()
        await board.dialog.get_by_label("Ports").fill("http")
        await board.dialog.get_by_role("button", name="Check").click()
        await expect(rows.last).to_contain_text("must be an integer")
        assert set(board.refusals) == {"400"}


async def test_a_stack_is_checked_and_then_created_with_its_labels_and_life(board: Board) -> None:
    await board.open()
    await board.page.keyboard.press("n")
    good = YAML.replace("  hostNetwork: true\n", "").replace("      securityContext:\n        privileged: true\n", "")
    await board.dialog.get_by_label("Pod, as YAML").fill(good)
    await board.dialog.get_by_role("button", name="Check").click()
    await expect(board.dialog.get_by_text("Would be accepted: 10m CPU, 16 MiB.")).to_be_visible()
    assert (await board.at.call("GET", "/stacks")).json == {"stacks": []}
    await board.dialog.get_by_label("Lives for").fill("45m")
    await board.dialog.get_by_label("Labels").fill("team=7, player=3")
    await board.dialog.get_by_role("button", name="Create").click()
    await expect(board.dialog).to_have_count(0)
    await expect(board.panel).to_be_visible()
    (stack,) = (await board.at.call("GET", "/stacks?fields=stack_id,labels")).json["stacks"]
    assert stack["labels"] == {"team": "7", "player": "3"}
    await expect(board.row(stack["stack_id"])).to_contain_text("44m")


async def test_a_create_whose_answer_is_lost_makes_one_stack(boards: Boards) -> None:
    """However the person tries again: in the same dialog, or in a new one."""
    async with boards() as board:
        await board.open()

        async def lost(route: Route) -> None:
            await route.fetch()
            await route.abort()

        await board.page.route("**/stacks", lost)
        await board.page.keyboard.press("n")
        create = board.dialog.get_by_role("button", name="Create")
        for _ in range(2):
            await create.click()
            await expect(board.dialog.locator(".mistakes")).to_contain_text("stackd does not answer")
            await board.page.keyboard.press("Escape")
            await board.page.keyboard.press("n")
        await board.page.unroute("**/stacks")
        await create.dblclick()
        await expect(board.panel).to_be_visible()
        await expect(board.rows).to_have_count(1)
        await board.page.keyboard.press("n")
        await create.click()
        await expect(board.rows).to_have_count(2)  # this one is meant
        assert len(await board.at.listed()) == 2
        board.complaints.clear()  # the browser reports the lost answers
