"""The page of the API shows every route, has a search, and leads to the guides."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.ui.conftest import Board

pytestmark = pytest.mark.ui

OPEN_ALL = "for (const each of document.querySelectorAll('details')) each.open = true;"


async def test_the_page_of_the_api_describes_finds_and_marks_every_route(
    board: Board,
) -> None:
    await board.page.goto(board.url + "/docs")
    described = (await board.at.call("GET", "/openapi.json")).json
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    articles, shown = board.page.locator("article"), board.page.locator("article:visible")
    await expect(articles).to_have_count(len(ids))
    assert {await article.get_attribute("id") for article in await articles.all()} == set(ids)
    await expect(board.page.locator("#createStack pre").nth(1)).to_contain_text('curl -s -X POST -H "X-API-KEY:')
    await board.page.evaluate(OPEN_ALL)
    await board.audit("the docs with all fields")
    await board.page.keyboard.press("/")
    await board.page.keyboard.type("batch")
    found = board.page.locator("#found")
    await expect(shown).to_have_count(4)
    await expect(found).to_have_text("4 routes")
    await expect(board.page.locator("#contents a:visible")).to_have_count(4)
    find = board.page.get_by_label("Find a route, a parameter or a field")
    await find.fill("if_exists")  # a field of a request body
    await expect(shown.locator("h3 code")).to_contain_text(["/stacks"])
    await find.fill("last-event-id")  # a parameter
    await expect(shown).to_have_count(2)
    await find.fill("nothing is like this")
    await expect(found).to_have_text("0 routes")
    await board.page.goto("about:blank")
    await board.page.goto(board.url + "/docs#listStacks")
    await expect(board.page.locator("#listStacks h3")).to_be_in_viewport()
    current = board.page.locator("#contents a[aria-current]")
    await expect(current).to_have_text("List stacks")
    await articles.last.scroll_into_view_if_needed()
    await expect(current).not_to_have_text("List stacks")
    await expect(board.page.locator("#listStacks h3 a")).to_have_attribute("href", "#listStacks")
    await board.page.get_by_text("Guides", exact=True).click()
    await board.page.get_by_role("link", name="Troubleshooting", exact=True).click()
    await board.page.get_by_role("link", name="The key", exact=True).click()
    await expect(board.page.locator("#the-key")).to_be_in_viewport()
    await board.page.get_by_role("link", name="All routes").click()
    await expect(articles.first).to_be_visible()
