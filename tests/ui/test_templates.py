"""The templates above the table, one per challenge, and creating from one of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.api.test_templates import PLAIN, WEB, folder_with, values_of
from tests.harness import seed
from tests.ui.conftest import PHONE, Boards
from tests.ui.test_axe import BOTH, audit

pytestmark = pytest.mark.ui

BAD = PLAIN.replace("nginx:stable", "registry.invalid/none:1") + "prepull: true\n"


async def test_templates_are_one_line_with_the_broken_ones_first_and_red(boards: Boards, tmp_path: Path) -> None:
    templates = folder_with(tmp_path, web_1=WEB, bad=BAD, zoo=PLAIN.replace("nginx:stable", "registry.example/fail"))
    async with boards(templates) as board:
        for name, status in (("web-1", "running"), ("zoo", "failed")):
            stack = await board.at.create({"template": name})
            await board.at.until_status(stack["stack_id"], status)
        await board.open()
        web, bad, zoo = (board.page.locator(f"[data-template={name}]") for name in ("web-1", "bad", "zoo"))
        await expect(zoo).to_have_text("zoo0 of 1 runningError")
        await expect(zoo).to_have_class("template wrong")
        await expect(web).to_have_text("web-11 running")
        await expect(web).to_have_attribute("title", re.compile(r"no pool\nruns after .* \(median\)"))
        await expect(bad).to_have_class("template wrong")
        await expect(bad).to_contain_text("ImagePullBackOff")
        await expect(bad).to_have_attribute("title", re.compile(r"images on 0 of 2 nodes"))
        assert [
            await each.get_attribute("data-template") for each in await board.page.locator("#templates button").all()
        ] == ["zoo", "bad", "web-1"]
        line = await board.page.locator("#templates").bounding_box()
        assert line is not None
        assert line["height"] < 50


async def test_a_template_selects_its_own_stacks_and_no_others(boards: Boards, tmp_path: Path) -> None:
    async with boards(folder_with(tmp_path, web_1=WEB, web_10=WEB)) as board:
        ids = {name: (await board.at.create({"template": name}))["stack_id"] for name in ("web-1", "web-10")}
        named = await board.at.create(seed() | {"labels": {"challenge": "web-1"}})
        await board.open()
        await expect(board.rows).to_have_count(3)
        await board.page.locator("[data-template=web-1]").click()
        await expect(board.rows).to_have_count(1)
        await expect(board.row(ids["web-1"])).to_be_visible()
        await board.page.get_by_label("Select all that are shown").check()
        await board.page.locator("#selection").get_by_role("button", name="Delete 1…").click()
        await expect(board.dialog).to_contain_text("The filter is template web-1.")
        await board.dialog.get_by_role("button", name="Delete 1").click()
        await expect(board.rows).to_have_count(0)
        await board.page.reload()
        choice = board.page.get_by_role("combobox", name="Template")
        await expect(choice).to_have_value("web-1")
        await expect(board.page.get_by_text("No stack matches the filter.")).to_be_visible()
        await choice.select_option("web-10")
        await expect(board.row(ids["web-10"])).to_be_visible()
        await board.page.get_by_role("button", name="Clear filters").click()
        await expect(board.row(named["stack_id"])).to_be_visible()


async def test_without_templates_there_is_no_place_for_them(boards: Boards) -> None:
    async with boards() as board:
        await board.open()
        await expect(board.page.get_by_text("There are no stacks.")).to_be_visible()
        await expect(board.page.locator("#templates")).to_be_hidden()
        await board.page.keyboard.press("n")
        await expect(board.dialog.get_by_label("Pod, as YAML")).to_be_visible()
        await expect(board.dialog.get_by_label("From")).to_be_hidden()


async def test_a_stack_is_created_from_a_template_and_its_values_stay_in_its_panel(
    boards: Boards, tmp_path: Path
) -> None:
    async with boards(folder_with(tmp_path, web_1=WEB)) as board:
        await board.open()
        await board.page.locator("[data-template=web-1]").click()
        await board.page.keyboard.press("n")
        await expect(board.dialog.get_by_label("From")).to_have_value("web-1")
        await expect(board.dialog).to_contain_text("Publishes 80/tcp and lives for 1h.")
        await expect(board.dialog).to_contain_text("Generated for each stack: FLAG, TEAM_SECRET.")
        await expect(board.dialog.get_by_label("Pod, as YAML")).to_be_hidden()
        await expect(board.dialog.get_by_label("Ports")).to_be_hidden()
        await board.dialog.get_by_label("Labels").fill("team=7")
        await board.dialog.get_by_role("button", name="Create").click()
        await expect(board.panel.get_by_role("heading", name="Values")).to_be_visible()
        (stack_id,) = await board.at.listed()
        stack = await board.at.stack(stack_id)
        assert (stack["template"], stack["labels"]) == ("web-1", {"challenge": "web-1", "kind": "web", "team": "7"})
        given = (await values_of(board.at, stack_id))[0]
        values = {name: text.replace("$$", "$") for name, text in given.items()}  # as a container gets it
        assert values.keys() == {"FLAG", "TEAM_SECRET"}
        await board.page.keyboard.press("Escape")
        await expect(board.panel).to_be_hidden()
        await board.at.until_status(stack_id, "running")
        await board.at.call("POST", f"/stacks/{stack_id}/extend", {"ttl": "10m"})
        await expect(board.row(stack_id)).to_contain_text("1h 09m")
        await board.open_panel(stack_id)
        for name, value in values.items():
            await expect(board.panel).to_contain_text(value)
            await expect(board.panel.get_by_role("button", name=f"Copy {name}")).to_be_visible()
        await board.page.get_by_role("button", name="Forget key").click()
        await expect(board.page.get_by_text(values["FLAG"])).to_have_count(0)


async def test_what_is_wrong_with_its_fields_is_shown_at_them(boards: Boards, tmp_path: Path) -> None:
    async with boards(folder_with(tmp_path, web_1=WEB)) as board:
        await board.open()
        await board.page.locator("[data-template=web-1]").click()
        await board.page.keyboard.press("n")
        await expect(board.dialog.get_by_label("From")).to_have_value("web-1")
        await board.dialog.get_by_label("Lives for").fill("2 weeks")
        await board.dialog.get_by_role("button", name="Check").click()
        await expect(board.dialog.get_by_label("Lives for")).to_have_attribute("aria-invalid", "true")
        await board.dialog.get_by_label("Lives for").fill("")
        await board.dialog.get_by_role("button", name="Check").click()
        await expect(board.dialog).to_contain_text("Would be accepted: 100m CPU, 64 MiB.")
        await board.dialog.get_by_label("From").select_option("")
        await expect(board.dialog.get_by_label("Pod, as YAML")).to_be_visible()
        assert board.refusals == ["400"]


@BOTH
async def test_nothing_that_axe_knows_is_wrong_with_them(boards: Boards, tmp_path: Path, scheme: str) -> None:
    async with boards(folder_with(tmp_path, web_1=WEB, bad=BAD), color_scheme=scheme, viewport=PHONE) as board:
        made = await board.at.create({"template": "web-1"})
        await board.at.until_status(made["stack_id"], "running")
        await board.open()
        await expect(board.page.locator("[data-template=web-1]")).to_contain_text("1 running")
        await audit(board.page, "the templates")
        await board.page.locator("[data-template=web-1]").click()
        await board.page.keyboard.press("n")
        await expect(board.dialog.get_by_label("From")).to_have_value("web-1")
        await audit(board.page, "the create dialog with a template")
        await board.dialog.get_by_role("button", name="Create").click()
        await expect(board.panel.get_by_role("heading", name="Values")).to_be_visible()
        await audit(board.page, "the values")
