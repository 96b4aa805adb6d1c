"""Creating from YAML: what the API refuses is shown at the line."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

TWO = "containers:\n  - name: one\n    ports:\n    - containerPort: 1\n    - containerPort: 2\n  - name: two\n"
PATHS = [
    ("a:\n  b: 1\n", "a.b", 2),
    ("a:\n- x: 1\n- y: 2\n  z: 3\n", "a[1].z", 4),
    ("a:\n  - - 1\n    - k: v\n", "a[0][1].k", 3),
    ("a: |\n  b: 1\n  c: 2\nb: 2\n", "b", 4),
    ("a: {b: {c: 1}}\n", "a.b.c", 1),
    ('# first\n\na:\n  # then\n  "x/y": 1\n', 'a["x/y"]', 5),
    ("a:\n  b: 1\nc:\n  b: 2\n", "c.b", 4),
    (TWO, "containers[0].ports[1]", 5),
    (TWO, "containers[1].image", 6),
]
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
        assert await board.dialog.locator(".gutter .wrong").all_inner_texts() == ["6", "11"]
        await board.dialog.get_by_role("button", name="line 11").click()
        selected = "() => { const t = document.querySelector('#yaml'); return t.value.slice(t.selectionStart, t.selectionEnd); }"
        assert await board.page.evaluate(selected) == "        privileged: true"
        assert (await board.at.call("GET", "/stacks")).json == {"stacks": []}
        assert board.refusals == ["400"]


async def test_text_that_is_no_yaml_is_shown_at_its_line(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        await board.page.keyboard.press("n")
        await board.dialog.get_by_label("Pod, as YAML").fill("spec:\n  a:\n    - containerPort: 80\n  b: [1\n  c: 2\n")
        await board.dialog.get_by_role("button", name="Check").click()
        await expect(board.dialog.locator(".gutter .wrong")).to_have_text("5")


async def test_a_stack_is_checked_and_then_created_with_its_labels_and_life(board: Board) -> None:
    await board.open()
    await board.page.keyboard.press("n")
    good = YAML.replace("  hostNetwork: true\n", "").replace("      securityContext:\n        privileged: true\n", "")
    await board.dialog.get_by_label("Pod, as YAML").fill(good)
    await expect(board.dialog.get_by_label("Ports")).to_have_value("80/tcp")
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


async def test_paths_are_found_in_yaml(board: Board) -> None:
    await board.page.goto(board.at.url + "/dashboard")
    for text, path, line in PATHS:
        found = await board.page.evaluate(
            """async ([text, path]) => {
              const { lineOf, lines } = await import("/static/dashboard/locate.js");
              return lineOf(path, lines(text));
            }""",
            [text, path],
        )
        assert found == line, (text, path)
