"""The pages for browsers: open to all, with a strict content policy, and not there if switched off."""

from __future__ import annotations

import asyncio

from stackd.web.bodies import RENDER_AT_ONCE
from tests.harness import Harness, seed

PAGES = (
    "/docs/integrate", "/dashboard", "/docs", "/static/dashboard/main.js", "/static/shared/base.css", "/favicon.ico",
    "/play", "/static/play/box.js", "/static/play/de.json",
)  # fmt: skip


async def test_pages_need_no_key(at: Harness) -> None:
    for path in PAGES:
        reply = await at.call("GET", path, key=None)
        assert reply.status == 200, path
        assert {
            "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
            "frame-ancestors 'none'", "require-trusted-types-for 'script'",
        } <= {*reply.headers["Content-Security-Policy"].split("; ")}  # fmt: skip
        for name, value in (("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")):
            assert reply.headers[name] == value
        assert reply.headers["X-Frame-Options"] == "DENY"
        tag = {"If-None-Match": reply.headers["Etag"]}
        again = await at.call("GET", path, key=None, headers=tag)
        assert (again.status, again.text) == (304, "")
        other = await at.call("GET", "/static/dashboard/api.js", key=None, headers=tag)
        assert (other.status, other.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")


async def test_pages_and_long_lists_are_compressed_for_who_takes_it(at: Harness) -> None:
    body = seed() | {"labels": {"team": "a-label-that-many-share"}}
    await asyncio.gather(*(at.post("/stacks", body, 201) for _ in range(RENDER_AT_ONCE + 2)))
    zipped, plain = {"Accept-Encoding": "gzip"}, {"Accept-Encoding": "identity"}
    listed = "/stacks?fields=stack_id,labels"
    for path in ("/dashboard", "/static/dashboard/table.js", "/docs/links", "/openapi.json", listed):
        first = await at.call("GET", path, headers=plain)
        second = await at.call("GET", path, headers=zipped)
        assert (second.headers.get("Content-Encoding"), second.text) == ("gzip", first.text), path
        assert "Content-Encoding" not in first.headers
        if "Etag" in first.headers:
            assert int(second.headers["Content-Length"]) < int(first.headers["Content-Length"]) / 2
            assert (first.headers["Vary"], first.headers["Etag"] != second.headers["Etag"]) == ("Accept-Encoding", True)
            again = await at.call("GET", path, headers=zipped | {"If-None-Match": second.headers["Etag"]})
            assert (again.status, again.text) == (304, "")
    picture = await at.call("HEAD", "/static/guide/box.png", headers=zipped)
    assert "Content-Encoding" not in picture.headers, "it is compressed already"


async def test_nothing_but_the_pages_files_can_be_had(at: Harness) -> None:
    for path in (
        "dashboard/none.js",
        "dashboard/..%2f..%2fapp.py",
        "..%2f..%2f/app.py",
        "%2e%2e/pages.py",
        "dashboard",
    ):
        reply = await at.call("GET", f"/static/{path}", key=None)
        assert (reply.status in (401, 404), "def " in reply.text) == (True, False), path
