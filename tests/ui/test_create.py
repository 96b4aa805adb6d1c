"""Creating from YAML, where what the API refuses is shown at its line, and from a template."""

from __future__ import annotations

import re
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
SELECTED = (
    "() => { const t = document.querySelector('#yaml'); return t.value.slice(t.selectionStart, t.selectionEnd); }"
)
WEB = PLAIN + 'values: {FLAG: "flag{<hex:32>}", SECRET: "<base32:16>"}\n'


def field(board: Board, name: str) -> Locator:
    return board.dialog.get_by_label(name)


async def test_each_mistake_is_shown_at_its_line_or_field(boards: Boards) -> None:
    async with boards(viewport={"width": 1024, "height": 640}, refused={"400"}) as board:
        await board.open()
        await board.button("New stack").click()
        yaml, mistakes = field(board, "Pod, as YAML"), board.dialog.locator(".mistakes li")
        await yaml.fill(YAML)
        await board.confirm("Create")
        await expect(mistakes).to_have_count(2)
        await expect(mistakes.first).to_contain_text("spec.hostNetwork")
        await expect(mistakes.first).to_have_attribute("data-line", "6")
        await board.dialog.get_by_role("button", name="line 11").click()
        assert await board.page.evaluate(SELECTED) == "        privileged: true"
        await yaml.fill("apiVersion: v1\n\tkind: Pod\n")
        await expect(mistakes).to_have_count(0)
        await board.confirm("Check")
        await expect(mistakes.first).to_have_attribute("data-line", "2")
        await yaml.fill(YAML)
        ports = field(board, "Ports")
        await ports.fill("80/sctp")
        await board.confirm("Check")
        await expect(mistakes).to_have_count(3)
        await expect(ports).to_have_attribute("aria-invalid", "true")
        await mistakes.last.get_by_role("button", name="Ports").click()
        await expect(ports).to_be_focused()
        assert await board.at.listed() == []


async def test_a_checked_stack_is_created_once_even_if_answers_are_lost(boards: Boards) -> None:
    async with boards(reports=True) as board:
        await board.open()
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
        await expect(board.dialog.get_by_text("Would be accepted")).to_be_visible()
        assert await board.at.listed() == before
        await field(board, "Lives for").fill("45m")
        await field(board, "Labels").fill("team=7, player=3")
        await create.click()
        await expect(board.rows).to_have_count(3)
        (stack_id,) = set(await board.at.listed()) - set(before)
        assert (await board.at.stack(stack_id))["labels"] == {"team": "7", "player": "3"}
        await expect(board.row(stack_id)).to_contain_text(re.compile("4[0-4]m"))


async def test_the_values_of_a_template_stay_in_the_panel(boards: Boards, tmp_path: Path) -> None:
    async with boards(
        folder_with(tmp_path, web_1=WEB), refused=None
    ) as board:  # as the key is forgotten, a read may be a 401
        await board.open()
        await board.page.locator("[data-template=web-1]").click()
        await board.page.keyboard.press("n")
        await expect(field(board, "From")).to_have_value("web-1")
        await expect(board.dialog).to_contain_text("Generated for each stack: FLAG, SECRET.")
        await expect(field(board, "Pod, as YAML")).to_be_hidden()
        await board.audit("the create dialog with a template")
        await field(board, "Labels").fill("team=7")
        await board.confirm("Create")
        await expect(board.panel.get_by_role("heading", name="Values")).to_be_visible()
        await board.audit("the values")
        (stack_id,) = await board.at.listed()
        (container,) = (await board.at.objects("pods"))[stack_id]["spec"]["containers"]
        values = {one["name"]: one["value"] for one in container["env"] if one["name"] != "GREETING"}
        assert values.keys() == {"FLAG", "SECRET"}
        await board.page.keyboard.press("Escape")
        await expect(board.panel).to_be_hidden()
        await board.open_panel(stack_id)
        for value in values.values():
            await expect(board.panel).to_contain_text(value)
        await board.button("Forget key").click()
        await expect(board.page.get_by_text(values["FLAG"])).to_have_count(0)
