"""Responses without a handler: refusals in JSON, the key checked first, not cacheable; and those that are ready."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from stackd.web.stacks import STREAM_ABOVE
from tests.harness import KEY, Harness, seed

AUTH = f"X-API-KEY: {KEY}\r\n"


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


HEADS = [
    ("GET /nope HTTP/1.1", 404),
    ("GET /nope HTTP/1.0", 404),
    ("GET /openapi_json HTTP/1.1", 404),
    ("GET /stacks/ HTTP/1.1", 404),
    ("GET /stacks/a/status/ HTTP/1.1", 404),
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
]


async def test_the_key_comes_first_and_what_is_refused_is_said_in_json(at: Harness) -> None:
    for head, status in HEADS:
        for key, expected in (("", 401), ("X-API-KEY: sk-wrong\r\n", 401), (AUTH, status)):
            code, headers, body = await answer(at, f"{head}\r\n{key}".removesuffix("\r\n"))
            assert code == expected, body
            assert list(json.loads(body)) == ["error"]
            assert headers["content-type"] == "application/json"
            assert headers["cache-control"] == "no-store"
            assert headers["server"] == "stackd"
            assert "set-cookie" not in headers
            assert ("allow" in headers) == (code == 405)


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


# ---- ready answers: written in one piece, and otherwise equal to those that aiohttp writes


CHANGING = {"date", "x-request-id"}
PATIENCE = 150
MOST_UNREAD = 24 * 1024 * 1024


async def exchange(at: Harness, *requests: str) -> list[tuple[str, dict[str, str], bytes]]:
    """Send all requests in one write; return all responses, once the server has answered each or has closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    writer.write("".join(requests).replace("\n", "\r\n").encode())
    answers = []
    for request in requests:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if request.startswith("HEAD") else int(headers["content-length"])
        answers.append((status, headers, await reader.readexactly(length)))
    writer.close()
    await writer.wait_closed()
    return answers


def asking(path: str, method: str = "GET", version: str = "1.1", more: str = "") -> str:
    return f"{method} {path} HTTP/{version}\nHost: stackd\nX-API-KEY: {KEY}\n{more}\n"


@pytest.mark.parametrize("form", ["", "/status"])
async def test_it_has_the_headers_of_an_ordinary_answer(at: Harness, form: str) -> None:
    path = f"/stacks/{(await at.create())['stack_id']}"
    await at.until_status(path.rpartition("/")[2], "running")
    requests = (
        asking(path + form),
        asking(path + form, method="HEAD"),
        asking(path + form, version="1.0", more="Connection: keep-alive\n"),
        asking(path + form, more="Connection: close\n"),
    )
    ready, head, old, last = [(await exchange(at, request))[0] for request in requests]
    constant = {name: value for name, value in ready[1].items() if name not in CHANGING}
    assert set(ready[1]) == {"content-type", "content-length", "cache-control", "date", "server", "x-request-id"}
    for status, headers, body in (head, old, last):
        assert status.endswith(" 200 OK")
        headers.pop("connection", None)
        assert set(headers) == set(ready[1])
        assert {name: headers[name] for name in constant} == constant
        assert body in (ready[2], b"")
    assert ready[2] == old[2] == last[2]
    assert head[2] == b""


async def test_a_client_that_asks_and_does_not_read_is_soon_not_listened_to(at: Harness) -> None:
    path = f"/stacks/{(await at.create())['stack_id']}"
    many = asking(path).replace("\n", "\r\n").encode() * 100
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.connect(("127.0.0.1", at.port))
        client.setblocking(False)
        refused = sent = 0
        while refused < PATIENCE and sent < MOST_UNREAD:
            try:
                sent += client.send(many)
                refused = 0
            except BlockingIOError:
                refused += 1
            await asyncio.sleep(0.001)
        assert refused == PATIENCE, f"{sent} bytes of requests were taken while no answer was read"


async def test_a_long_list_is_sent_in_pieces_and_not_to_head(at: Harness) -> None:
    order = seed()
    order["pod_spec"] += f"\n      env: [{{name: LONG, value: {'x' * 7_000}}}]"
    ids = [(await at.create(order))["stack_id"] for _ in range(STREAM_ABOVE // 7_000 + 1)]
    for stack_id in ids:
        await at.until_status(stack_id, "running")
    whole, head = await at.call("GET", "/stacks"), await at.call("HEAD", "/stacks")
    assert len(whole.text) > STREAM_ABOVE
    assert [stack["stack_id"] for stack in whole.json["stacks"]] == ids
    assert whole.headers["Content-Length"] == head.headers["Content-Length"] == str(len(whole.text))
    assert head.text == ""
