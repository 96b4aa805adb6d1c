"""Players with a link, as a browser on stackd's page /play acts for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import DEADLINE, Client, Harness, Reply
from tests.templates import PLAIN, WEB, folder_with

SECRET = "0123456789abcdef0123456789abcdef-the-first"
OTHER_SECRET = "fedcba9876543210fedcba9876543210-the-second"
OWN_PAGE = {"X-Play": "1"}
LAB = "title: Lab one\ndescription: Find *it*.\ncategory: web\nshow: [FLAG]\nextend: {by: 30m, times: 2}\n"


def settings(
    folder: Path, url: str = "http://stackd.example", secret: str = SECRET, **templates: str
) -> dict[str, str]:
    """Links, and templates: ``lab-1`` and ``lab-2``, and ``web-1``, which most links do not have."""
    texts = {"lab_1": WEB + LAB, "lab_2": PLAIN + "title: Lab two\n", "web_1": PLAIN} | templates
    return folder_with(folder, **texts) | {"STACKD_PLAY__URL": url, "STACKD_PLAY__SECRET": secret}


async def make_link(client: Client, **changes: Any) -> dict[str, Any]:
    """A new link of one player."""
    body = {"labels": {"player": "seat-12"}, "templates": ["lab-*"], "name": "Seat 12"} | changes
    link: dict[str, Any] = await client.post("/links", body, 201)
    return link


def token_of(link: dict[str, Any]) -> str:
    """What the browser reads from the address bar."""
    return str(link["url"]).partition("#")[2]


def pass_time(at: Harness, seconds: int) -> None:
    """Set the machine's clock forward."""
    clock = at.daemon.context.clock
    now = clock.now
    clock.now = lambda: now() + seconds * 10**9  # type: ignore[method-assign]


@dataclass(slots=True, kw_only=True)
class Browser:
    """A browser with cookies of its own."""

    session: aiohttp.ClientSession
    url: str
    headers: dict[str, str] = field(default_factory=lambda: dict(OWN_PAGE))

    async def call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        own = {**self.headers, **(headers or {})}
        async with self.session.request(method, self.url + path, json=body, headers=own) as answer:
            return Reply(answer.status, await answer.text(), dict(answer.headers))

    async def open(self, link: dict[str, Any], **more: Any) -> Reply:
        """Open the link, as the page does."""
        return await self.call("POST", "/play/session", {"token": token_of(link)} | more)

    async def type(self, code: str) -> Reply:
        return await self.call("POST", "/play/session", {"code": code})

    async def enter(self, link: dict[str, Any]) -> None:
        reply = await self.open(link)
        assert reply.status == 204, reply.text

    async def look(self) -> dict[str, dict[str, Any]]:
        """The entries of the page, by template."""
        reply = await self.call("GET", "/play/stacks")
        assert reply.status == 200, reply.text
        return {entry["template"]: entry for entry in reply.json["stacks"]}

    async def start(self, template: str = "lab-1", status: int = 201, **more: Any) -> dict[str, Any]:
        reply = await self.call("POST", "/play/stacks", {"template": template} | more)
        assert reply.status == status, reply.text
        entry: dict[str, Any] = reply.json
        return entry

    async def until(self, status: str, template: str = "lab-1") -> dict[str, Any]:
        """The entry of the template once it has that status. Asks seldom, because a player may ask 600 times a minute."""
        async with asyncio.timeout(DEADLINE):
            while (entry := (await self.look())[template])["status"] != status:
                await asyncio.sleep(0.05)
            return entry


@asynccontextmanager
async def browser(at: Client, **options: Any) -> AsyncIterator[Browser]:
    """A browser in which nobody has opened a link yet."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Browser(session=session, url=at.url, **options)


@asynccontextmanager
async def player(at: Client, **link: Any) -> AsyncIterator[Browser]:
    """A player who has opened a new link."""
    async with browser(at) as opened:
        await opened.enter(await make_link(at, **link))
        yield opened
