"""The page of the API shows every route, and has a search."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.ui.conftest import Board

pytestmark = pytest.mark.ui

OPEN_ALL = "for (const each of document.querySelectorAll('details')) each.open = true;"


async def test_the_page_of_the_api_describes_and_finds_every_route(board: Board) -> None:
    await board.page.goto(board.url + "/docs")
    described = (await board.at.call("GET", "/openapi.json")).json
    ids = [operation["operationId"] for methods in described["paths"].values() for operation in methods.values()]
    articles = board.page.locator("article")
    await expect(articles).to_have_count(len(ids))
    assert {await article.get_attribute("id") for article in await articles.all()} == set(ids)
    await board.page.evaluate(OPEN_ALL)
    await board.audit("the docs with all fields")
    find = board.page.get_by_label("Find a route, a parameter or a field")
    await find.fill("last-event-id")  # a parameter
    await expect(board.page.locator("article:visible")).to_have_count(2)
    await find.fill("nothing is like this")
    await expect(board.page.locator("article:visible")).to_have_count(0)
