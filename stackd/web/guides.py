"""The guides as pages: Markdown from the package, rendered once."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from aiohttp import web

from stackd.errors import NotFound
from stackd.web.api import ApiCall
from stackd.web.pages import File, file_of, files, send

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

FOLDER = "guide/"
LINK = re.compile(r"([\w-]+)\.md(#.*)?")


@cache
def guides() -> dict[str, File]:
    """The pages by name. The first call takes some 50 ms: call it in a thread."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("link_open", _link)
    names = {path.removeprefix(FOLDER).removesuffix(".md"): path for path in files() if path.startswith(FOLDER)}
    return {name: _page(name, markdown, files()[path].body.decode()) for name, path in names.items()}


async def guide(call: ApiCall) -> web.Response:
    """``GET /docs/{page}``"""
    page = (await asyncio.to_thread(guides)).get(call.request.match_info["page"])
    if page is None:
        raise NotFound(f"no such page: {call.request.path}")
    return send(call, page)


def anchor(heading: str) -> str:
    """The id of a heading, as pages that host repositories make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _page(name: str, markdown: Any, text: str) -> File:
    tokens: list[Token] = markdown.parse(text)
    headings = [
        (token, tokens[place + 1].content) for place, token in enumerate(tokens) if token.type == "heading_open"
    ]
    for token, heading in headings:
        token.attrSet("id", anchor(heading))
    title, *_ = (heading for token, heading in headings if token.tag == "h1")
    sections = "".join(
        f'<a href="#{anchor(heading)}">{escape(heading)}</a>' for token, heading in headings if token.tag == "h2"
    )
    page = files()["docs/guide.html"].body.decode()
    page = page.replace(f'href="/docs/{name}"', f'href="/docs/{name}" aria-current="page"')
    page = page.replace("{{title}}", escape(title)).replace("{{sections}}", sections)
    page = page.replace("{{content}}", markdown.renderer.render(tokens, markdown.options, {}))
    return file_of(page.encode(), "text/html")


def _code(_: RendererHTML, tokens: list[Token], place: int, *__: Any) -> str:
    return f'<pre tabindex="0">{escape(tokens[place].content)}</pre>\n'


def _link(renderer: RendererHTML, tokens: list[Token], place: int, options: Any, env: Any) -> str:
    """A link to another guide leads to its page; one to what is only in the repository is plain text."""
    token = tokens[place]
    href = str(token.attrs.pop("href"))
    if (link := LINK.fullmatch(href)) and f"{FOLDER}{link[1]}.md" in files():
        token.attrs["href"] = f"/docs/{link[1]}{link[2] or ''}"
    elif href.startswith(("#", "https://")):
        token.attrs["href"] = href
    else:
        close = next(one for one in tokens[place:] if one.type == "link_close")
        token.tag = close.tag = "span"
    return renderer.renderToken(tokens, place, options, env)
