"""The dashboard, the API's docs and the guides, for browsers: static files from the package, and Markdown rendered once.

Owns: what these pages may load (a strict Content-Security-Policy), and how they are cached and compressed. They hold no
data: they request it from the API, with a key that a person types in.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
from collections.abc import Callable
from functools import cache, lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from stackd.config.sections import AuthSection
from stackd.errors import NotFound
from stackd.templates.markdown import parser
from stackd.web.api import ApiCall, Handler, route
from stackd.web.responses import JSON, File

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

FOLDER = Path(__file__).parent / "static"
TEXT_CHARSET = "utf-8"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
)
"""What the pages may load. With trusted types, the browser refuses to turn text into markup."""

PROTECTION = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
ZIP = "gzip"
MOST_ZIPPED = 256
DASHBOARD = "dashboard/index.html"
PLAY = "play/index.html"
ENTRIES = {
    "/docs": "docs/index.html",
    "/dashboard": DASHBOARD,
    "/play": PLAY,
    "/favicon.ico": "shared/icon.svg",
}
MENU = FOLDER / "docs" / "menu.html"
GUIDES = "guide/"
LINK = re.compile(r"([\w-]+)\.md(#.*)?")
MEDIA = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": JSON,
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".md": "text/markdown",
}


@cache
def files() -> dict[str, File]:
    """All files of the pages by their path; read once, so that an upgrade on disk does not mix two versions."""
    paths = sorted(path for path in FOLDER.rglob("*") if path.suffix in MEDIA)
    return {path.relative_to(FOLDER).as_posix(): file_of(_body(path), MEDIA[path.suffix]) for path in paths}


def _body(path: Path) -> bytes:
    """The bytes of the file; the pages of the docs have the menu of the guides in them."""
    body = path.read_bytes()
    return body.replace(b"{{guides}}", MENU.read_bytes().strip()) if path.suffix == ".html" else body


def _page(path: str) -> Callable[[Handler], Handler]:
    """A route of a page: it holds no data, so it needs no key."""
    return route("GET", path, public=True, standby=True)


@_page("/")
@_page("/docs/")
@_page("/play/")
@_page("/dashboard/")
async def redirect(call: ApiCall) -> web.Response:
    """Redirect to the page without the query, which may hold a key."""
    path = call.request.path.rstrip("/")
    front = "/dashboard" if call.api.context.config.server.dashboard else "/docs"
    return web.Response(status=302, headers={hdrs.LOCATION: path or front})


@_page("/docs")
@_page("/play")
@_page("/dashboard")
@_page("/favicon.ico")
@_page("/static/{folder}/{file}")
async def static(call: ApiCall) -> web.Response:
    """A page, or a file of one; no dashboard if ``server.dashboard`` is off."""
    path = call.request.path
    if path == "/dashboard" and not call.api.context.config.server.dashboard:
        raise NotFound("the dashboard is switched off (server.dashboard)")
    name = ENTRIES.get(path) or "{folder}/{file}".format_map(call.parts)
    if name not in files():
        raise NotFound(f"no such file: {path}")
    config = call.api.context.config
    if name == PLAY:
        page = files()[PLAY].body.decode().replace("{{host}}", escape(config.play.host_name))
        return send(call, file_of(page.encode(), "text/html"))
    return send(call, dashboard(config.auth) if name == DASHBOARD else files()[name])


def dashboard(auth: AuthSection) -> File:
    """The dashboard's page. It says whether requests need a key and where people sign in, so that it need not ask; and
    names its modules, so that the browser requests all at once."""
    issuer = urlsplit(auth.oidc.issuer).netloc if auth.enabled and auth.oidc else ""
    modules = (path for path in files() if path.startswith("dashboard/") and path.endswith(".js"))
    links = "".join(f'<link rel="modulepreload" href="/static/{path}" />' for path in modules)
    page = files()[DASHBOARD].body.decode().replace("{{modules}}", links)
    page = page.replace("{{open}}", str(not auth.enabled).lower()).replace("{{issuer}}", escape(issuer))
    return file_of(page.encode(), "text/html")


@_page("/docs/{page}")
async def guide(call: ApiCall) -> web.Response:
    """A guide."""
    page = call.parts["page"]
    if page not in guides():
        raise NotFound(f"no such page: {call.request.path}")
    return send(call, await asyncio.to_thread(rendered, page))


def send(call: ApiCall, file: File) -> web.Response:
    """The file, or 304 if the client has it."""
    body, tag, headers = file.body, file.tag, {**PROTECTION, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if ZIP in call.request.headers.get(hdrs.ACCEPT_ENCODING, "") and file.media != MEDIA[".png"]:
        body, tag = zipped(file), f"{tag}-{ZIP}"
        headers[hdrs.CONTENT_ENCODING] = ZIP
    headers[hdrs.ETAG] = f'"{tag}"'
    if any(each.value in (tag, "*") for each in call.request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = None if file.media == JSON else TEXT_CHARSET
    return web.Response(body=body, headers=headers, content_type=file.media, charset=charset)


@lru_cache(MOST_ZIPPED)
def zipped(file: File) -> bytes:
    return gzip.compress(file.body, mtime=0)


def file_of(body: bytes, media: str) -> File:
    return File(body=body, media=media, tag=hashlib.sha256(body).hexdigest()[:32])


@cache
def guides() -> frozenset[str]:
    """The names of the guides: all pages of ``docs/``."""
    return frozenset(Path(path).stem for path in files() if path.startswith(GUIDES) and path.endswith(".md"))


@cache
def rendered(name: str) -> File:
    """The page of a guide. The first call takes some 50 ms: call it in a thread."""
    markdown = parser()
    markdown.add_render_rule("fence", _code)
    markdown.add_render_rule("link_open", _link)
    markdown.add_render_rule("image", _image)
    return _guide(name, markdown, files()[f"{GUIDES}{name}.md"].body.decode())


def anchor(heading: str) -> str:
    """The id of a heading, as pages that host repositories make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _guide(name: str, markdown: Any, text: str) -> File:
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


def _image(renderer: RendererHTML, tokens: list[Token], place: int, options: Any, env: Any) -> str:
    tokens[place].attrs["src"] = f"/static/{GUIDES}{tokens[place].attrs['src']}"
    return renderer.image(tokens, place, options, env)


def _link(renderer: RendererHTML, tokens: list[Token], place: int, options: Any, env: Any) -> str:
    """A link to another guide leads to its page; one to what is only in the repository is plain text."""
    token = tokens[place]
    href = str(token.attrs.pop("href"))
    if (link := LINK.fullmatch(href)) and f"{GUIDES}{link[1]}.md" in files():
        token.attrs["href"] = f"/docs/{link[1]}{link[2] or ''}"
    elif href.startswith(("#", "https://")):
        token.attrs["href"] = href
    else:
        close = next(one for one in tokens[place:] if one.type == "link_close")
        token.tag = close.tag = "span"
    return renderer.renderToken(tokens, place, options, env)
