"""Requests that are refused before any handler: in JSON, the right status, the key checked first, not cacheable."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.harness import KEY, Harness, harness, seed

AUTH = f"X-API-KEY: {KEY}\r\n"
CREATE = "POST /stacks HTTP/1.1\r\nContent-Length: 2"


async def answer(at: Harness, head: str, body: str = "") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the only response to these lines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        writer.write(f"{head}\r\nHost: a\r\nConnection: close\r\n\r\n{body}".encode())
        async with asyncio.timeout(30):
            received = await reader.read()
    finally:
        writer.transport.abort()
    first, *lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /nope HTTP/1.1", 404),
        ("GET /nope HTTP/1.0", 404),
        ("GET /nope%0d%0aX HTTP/1.1", 404),
        ("GET /stacks%0A HTTP/1.1", 404),
        ("GET /stacks/a%0ab/no/such HTTP/1.1", 404),
        ("GET /%00%0a%7f%c3%28 HTTP/1.1", 404),
        ("GET //stacks HTTP/1.1", 404),
        ("GET /stacks/%0d%0aSet-Cookie:%20a=b HTTP/1.1", 404),
        ("TRACE /nope HTTP/1.1", 404),
        ("PUT /stacks HTTP/1.1", 405),
        ("PATCH /stacks HTTP/1.1", 405),
        ("OPTIONS /stacks HTTP/1.1", 405),
        ("OPTIONS * HTTP/1.1", 405),
        ("CONNECT example.org:443 HTTP/1.1", 405),
        ("PURGE /docs HTTP/1.1", 405),
        ("POST /stacks HTTP/1.1\r\nExpect: the-unexpected\r\nContent-Length: 0", 417),
        ("POST /nope HTTP/1.1\r\nExpect: the-unexpected\r\nContent-Length: 0", 417),
    ],
)
async def test_the_key_comes_first_and_what_is_refused_is_said_in_json(at: Harness, head: str, status: int) -> None:
    for key, expected in (("", 401), ("X-API-KEY: sk-wrong\r\n", 401), (AUTH, status)):
        code, headers, body = await answer(at, f"{head}\r\n{key}".removesuffix("\r\n"))
        assert code == expected, body
        assert list(json.loads(body)) == ["error"]
        assert headers["content-type"] == "application/json"
        assert headers["cache-control"] == "no-store"
        assert headers["server"] == "stackd"
        assert "set-cookie" not in headers
        assert ("allow" in headers) == (code == 405)


@pytest.mark.parametrize(
    "head",
    [
        "FOO /stacks HTTP/1.1",
        "get /stacks HTTP/1.1",
        "GET nope HTTP/1.1",
        "GET /stacks HTTP/3",
        "GET /sta cks HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /stacks HTTP/1.1\r\nContent-Length: x",
        "GET /stacks HTTP/1.1\r\nX-A: " + "a" * 20_000,
    ],
)
async def test_what_cannot_be_read_is_said_in_json_too(at: Harness, head: str) -> None:
    code, headers, body = await answer(at, head)
    assert code in (400, 431)
    assert list(json.loads(body)) == ["error"]
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"


async def test_an_unknown_method_is_called_that(at: Harness) -> None:
    code, _, body = await answer(at, f"FOO /stacks?api_key={KEY} HTTP/1.1\r\n{AUTH}".removesuffix("\r\n"))
    assert (code, json.loads(body)) == (400, {"error": "this is not an HTTP request with a known method"})


async def test_one_who_speaks_http_1_0_is_not_told_to_go_on(at: Harness) -> None:
    head = f"POST /stacks HTTP/1.0\r\nExpect: 100-continue\r\n{AUTH}Content-Length: 2"
    code, _, body = await answer(at, head, "{}")
    assert (code, "target_port is required" in json.loads(body)["error"]) == (400, True)


async def test_no_answer_of_the_api_is_kept_by_a_cache(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    for method, path in (
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/stats"),
        ("GET", "/stacks"),
        ("GET", "/stacks?limit=1"),
        ("HEAD", "/stacks"),
        ("GET", f"/stacks/{stack_id}"),
        ("GET", f"/stacks/{stack_id}/status"),
        ("GET", f"/stacks/{stack_id}/timeline"),
        ("GET", f"/stacks/{stack_id}/logs"),
        ("GET", "/metrics"),
        ("GET", "/capacity"),
        ("GET", "/reconcile"),
        ("GET", "/stacks/stack-none"),
        ("DELETE", f"/stacks/{stack_id}"),
    ):
        reply = await at.call(method, path)
        assert reply.headers["Cache-Control"] == "no-store", (method, path)
    assert (await at.call("POST", "/stacks", seed())).headers["Cache-Control"] == "no-store"
    assert (await at.call("GET", "/stacks", key=None)).headers["Cache-Control"] == "no-store"


async def test_a_connection_too_many_is_kept_by_no_cache(tmp_path: Path) -> None:
    async with harness(tmp_path, {"STACKD_LIMITS__CONNECTIONS": "1"}) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: a\r\n{AUTH}\r\n".encode())
        await reader.readuntil(b'{"status":"ok"}')
        code, headers, _ = await answer(at, "GET /healthz HTTP/1.1")
        assert (code, headers["cache-control"]) == (503, "no-store")
        writer.transport.abort()
