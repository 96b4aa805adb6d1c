"""People sign in to the dashboard at a real issuer of OpenID Connect: oidc-provider, with its own login page."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.ports import free_port
from tests.ui.conftest import Board, Boards

pytestmark = pytest.mark.ui

HERE = Path(__file__).parent
NODE, LIBRARY = shutil.which("node"), HERE.parents[1] / ".ci/js/node_modules/oidc-provider"
SECRET = "a-secret-of-the-client-0123456789"


@asynccontextmanager
async def issuer(redirect: str) -> AsyncIterator[str]:
    if NODE is None or not LIBRARY.exists():
        pytest.skip("oidc-provider is not installed (make js)")
    port = free_port()
    script = HERE / "issuer" / "issuer.mjs"
    process = await asyncio.create_subprocess_exec(NODE, script, str(port), redirect, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"listening\n"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def sign_in(page: Page, name: str) -> None:
    await page.get_by_role("link", name="Sign in with 127.0.0.1").click()
    await page.get_by_placeholder("Enter any login").fill(name)
    await page.get_by_placeholder("and password").fill("any")
    await page.get_by_role("button", name="Sign-in").click()
    await page.get_by_role("button", name="Continue").click()


@asynccontextmanager
async def board_with_issuer(boards: Boards, tmp_path: Path) -> AsyncIterator[Board]:
    """A dashboard where ``ada`` is an admin and the group ``helpers`` reads."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    (secret := tmp_path / "client-secret").write_text(f"{SECRET}\n")
    async with issuer(f"{url}/auth/callback") as address:
        table = {
            "issuer": address, "client_id": "stackd", "client_secret_file": str(secret), "url": url,
            "admins": ["ada@example.org"], "readers": ["helpers"],
        }  # fmt: skip
        settings = {"STACKD_AUTH__OIDC": json.dumps(table), "STACKD_SERVER__PORT": str(port)}
        async with boards(settings, refused=None) as board:
            fonts = re.compile("googleapis")  # of the issuer's pages
            await board.page.context.route(fonts, lambda route: route.fulfill(body=""))
            yield board
            board.requests[:] = [url for url in board.requests if address not in url and "googleapis" not in url]


async def test_people_sign_in_see_what_they_may_and_sign_out(boards: Boards, tmp_path: Path) -> None:
    async with board_with_issuer(boards, tmp_path) as board:
        stack_id, page = await board.create(labels={"team": "7"}), board.page
        await page.goto(f"{board.url}/dashboard")
        await sign_in(page, "mallory")
        await expect(page.get_by_text("mallory@example.org may not use this dashboard")).to_be_visible()
        await page.context.clear_cookies()
        await page.get_by_role("link", name="use an API key").click()
        await sign_in(page, "bob.helpers")
        await expect(board.row(stack_id)).to_be_visible()
        await expect(board.button("New stack")).to_be_hidden()
        await page.context.clear_cookies()
        await page.goto("about:blank")
        await page.goto(f"{board.url}/dashboard#find=team%3D7")
        await sign_in(page, "ada")
        await expect(board.row(stack_id)).to_be_visible()
        await expect(board.find()).to_have_value("team=7")
        await page.reload()
        await expect(board.row(stack_id)).to_be_visible()
        await expect(board.button("New stack")).to_be_visible()
        await board.button("Sign out").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("API key")).to_be_visible()
