"""The dashboard and the API's docs: static files from the package, for browsers.

Owns: what these pages may load (a strict Content-Security-Policy) and how they are cached. They hold no data: they
request it from the API, with a key that a person types in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from stackd.errors import NotFound
from stackd.web.api import ApiCall
from stackd.web.responses import JSON

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
MEDIA = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".md": "text/markdown",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of the pages; ``tag`` changes with its bytes."""

    body: bytes
    media: str
    tag: str


@cache
def files() -> dict[str, File]:
    """All files of the pages by their path; read once, so that an upgrade on disk does not mix two versions."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in MEDIA)
    return {path.relative_to(FOLDER).as_posix(): file_of(path.read_bytes(), MEDIA[path.suffix]) for path in found}


async def dashboard(call: ApiCall) -> web.Response:
    """``GET /dashboard``: 404 if ``server.dashboard`` is off."""
    if not call.api.context.config.server.dashboard:
        raise NotFound("the dashboard is switched off (server.dashboard)")
    return _answer(call, "dashboard/index.html")


async def docs(call: ApiCall) -> web.Response:
    """``GET /docs``"""
    return _answer(call, "docs/index.html")


async def home(call: ApiCall) -> web.Response:
    """``GET /``: redirects to the dashboard, or to the docs if ``server.dashboard`` is off."""
    return _to("/dashboard" if call.api.context.config.server.dashboard else "/docs")


async def dashboard_below(_: ApiCall) -> web.Response:
    """``GET /dashboard/``, as bookmarks may have it"""
    return _to("/dashboard")


async def docs_below(_: ApiCall) -> web.Response:
    """``GET /docs/``"""
    return _to("/docs")


async def favicon(call: ApiCall) -> web.Response:
    """``GET /favicon.ico``: browsers request it by themselves."""
    return _answer(call, "shared/icon.svg")


async def static(call: ApiCall) -> web.Response:
    """``GET /static/{folder}/{file}``"""
    wanted = call.request.match_info
    return _answer(call, f"{wanted['folder']}/{wanted['file']}")


def _to(path: str) -> web.Response:
    """A redirect to a page, without the query, which may hold a key."""
    return web.Response(status=302, headers={hdrs.LOCATION: path})


def _answer(call: ApiCall, path: str) -> web.Response:
    file = files().get(path)
    if file is None:
        raise NotFound(f"no such file: {call.request.path}")
    return send(call, file)


def send(call: ApiCall, file: File) -> web.Response:
    """The file, or 304 if the client has it."""
    headers = {**PROTECTION, hdrs.ETAG: f'"{file.tag}"'}
    if any(each.value in (file.tag, "*") for each in call.request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    charset = None if file.media == JSON else TEXT_CHARSET
    return web.Response(body=file.body, headers=headers, content_type=file.media, charset=charset)


def file_of(body: bytes, media: str) -> File:
    """A file with these bytes."""
    return File(body=body, media=media, tag=hashlib.sha256(body).hexdigest()[:32])
