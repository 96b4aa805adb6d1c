"""Creating from YAML, where what the API refuses is shown at its line, and from a template."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Locator, Route, expect

from tests.templates import PLAIN, folder_with
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
GOOD = YAML.replace("  hostNetwork: true\n", "").replace("      securityContext:\n        privileged: true\n", "")
BROKEN = [
    ("spec:\n  a:\n    - containerPort: 80\n  b: [1\n  c: 2\n", 5),
    ("apiVersion: v1\n\tkind: Pod\n", 2),
    ("kind: Pod\nkind: Pod\nspec:\n  ports:\n  - containerPort: 1\n", 2),
    ("kind: Pod\nmetadata:\n  name: a\x07b\n", 3),
]
SELECTED = (
    "() => { const t = document.querySelector('#yaml'); return t.value.slice(t.selectionStart, t.selectionEnd); }"
)
WEB = PLAIN + 'values: {FLAG: "flag{<hex:32>}", SECRET: "<base32:16>"}\n'


def field(board: Board, name: str) -> Locator:
    return board.dialog.get_by_label(name)


async def lines(mistakes: Locator) -> list[int]:
    return [int(await each.get_attribute("data-line") or 0) for each in await mistakes.all()]


async def test_each_mistake_is_shown_at_its_line_or_field(boards: Boards) -> None:
    async with boards(viewport={"width": 1024, "height": 640}, refused={"400"}) as board:
        await board.open()
        await board.button("New stack").click()
        yaml, mistakes = field(board, "Pod, as YAML"), board.dialog.locator(".mistakes li")
        await yaml.fill(YAML)
        await board.confirm("Create")
        await expect(mistakes).to_have_count(2)
        assert await lines(mistakes) == [6, 11]
        await expect(mistakes.first).to_contain_text("spec.hostNetwork")
        await board.dialog.get_by_role("button", name="line 11").click()
        assert await board.page.evaluate(SELECTED) == "        privileged: true"
        for text, line in BROKEN:
            await yaml.fill(text)
            await expect(mistakes).to_have_count(0)
            await board.confirm("Check")
            await expect(mistakes.first).to_have_attribute("data-line", str(line))
        await yaml.fill(YAML)
        ports = field(board, "Ports")
        await ports.fill("80/sctp")
        await board.confirm("Check")
        await expect(mistakes).to_have_count(3)
        await expect(ports).to_have_attribute("aria-invalid", "true")
        await mistakes.last.get_by_role("button", name="Ports").click()
        await expect(ports).to_be_focused()
        await ports.fill("http")
        await board.confirm("Check")
        await expect(mistakes.last).to_contain_text("must be a whole number")
        assert await board.at.listed() == []


async def test_a_checked_stack_is_created_once_even_if_answers_are_lost(boards: Boards) -> None:
    async with boards(reports=True) as board:
        await board.open()
        await expect(board.page.locator("#templates")).to_be_hidden()
        await board.page.keyboard.press("n")
        await expect(field(board, "From")).to_be_hidden()
        create = board.dialog.get_by_role("button", name="Create")

        async def lost(route: Route) -> None:
            await route.fetch()
            await route.abort()

        await board.page.route("**/stacks", lost)
        for _ in range(2):  # however the person tries again: in the same dialog, or in a new one
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
        await expect(board.dialog).to_be_hidden()  # the row may come before the answer
        before = await board.at.listed()
        await board.page.keyboard.press("n")
        await field(board, "Pod, as YAML").fill(GOOD)
        await board.confirm("Check")
        await expect(board.dialog.get_by_text("Would be accepted: 10m CPU, 16 MiB.")).to_be_visible()
        assert await board.at.listed() == before
        await field(board, "Lives for").fill("45m")
        await field(board, "Labels").fill("team=7, player=3")
        await create.click()
        await expect(board.rows).to_have_count(3)
        (stack_id,) = set(await board.at.listed()) - set(before)
        assert (await board.at.stack(stack_id))["labels"] == {"team": "7", "player": "3"}
        await expect(board.row(stack_id)).to_contain_text("44m")


async def test_the_values_of_a_template_stay_in_the_panel(boards: Boards, tmp_path: Path) -> None:
    async with boards(folder_with(tmp_path, web_1=WEB), refused=None) as board:
        await board.open()
        await board.page.locator("[data-template=web-1]").click()
        await board.page.keyboard.press("n")
        source, life = field(board, "From"), field(board, "Lives for")
        await expect(source).to_have_value("web-1")
        await expect(board.dialog).to_contain_text("Publishes 80/tcp and lives for 1h.")
        await expect(board.dialog).to_contain_text("Generated for each stack: FLAG, SECRET.")
        await expect(field(board, "Pod, as YAML")).to_be_hidden()
        await expect(field(board, "Ports")).to_be_hidden()
        await board.audit("the create dialog with a template")
        await life.fill("2 weeks")
        await board.confirm("Check")
        await expect(life).to_have_attribute("aria-invalid", "true")
        await life.fill("")
        await board.confirm("Check")
        await expect(board.dialog).to_contain_text("Would be accepted: 100m CPU, 64 MiB.")
        await field(board, "Labels").fill("team=7")
        await board.confirm("Create")
        await expect(board.panel.get_by_role("heading", name="Values")).to_be_visible()
        await board.audit("the values")
        (stack_id,) = await board.at.listed()
        assert (await board.at.stack(stack_id))["labels"] == {"challenge": "web-1", "kind": "web", "team": "7"}
        (container,) = (await board.at.objects("pods"))[stack_id]["spec"]["containers"]
        values = {one["name"]: one["value"] for one in container["env"] if one["name"] != "GREETING"}
        assert values.keys() == {"FLAG", "SECRET"}
        await board.page.keyboard.press("Escape")
        await expect(board.panel).to_be_hidden()
        await board.at.do("extend", stack_id, "10m")
        await expect(board.row(stack_id)).to_contain_text("1h 09m")
        await board.open_panel(stack_id)
        for name, value in values.items():
            await expect(board.panel).to_contain_text(value)
            await expect(board.panel.get_by_role("button", name=f"Copy {name}")).to_be_visible()
        assert set(board.refusals) == {"400"}  # a read that begins as the key is forgotten is a 401
        await board.button("Forget key").click()
        await expect(board.page.get_by_text(values["FLAG"])).to_have_count(0)
