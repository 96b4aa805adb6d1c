"""Ready answers: written in one piece, and otherwise equal to those that aiohttp writes."""

from __future__ import annotations

import asyncio
import socket

import pytest

from stackd.web.stacks import STREAM_ABOVE
from tests.harness import KEY, Harness, seed

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


async def test_the_clients_own_request_id_comes_back(at: Harness) -> None:
    path = f"/stacks/{(await at.create())['stack_id']}/status"
    ((_, headers, _),) = await exchange(at, asking(path, more="X-Request-ID: mine-1\n"))
    assert headers["x-request-id"] == "mine-1"


async def test_requests_in_one_write_are_answered_in_order(at: Harness) -> None:
    ids = [(await at.create())["stack_id"] for _ in range(3)]
    answers = await exchange(at, *(asking(f"/stacks/{stack_id}/status") for stack_id in ids * 5))
    assert [body.split(b'"')[3].decode() for _, _, body in answers] == ids * 5


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
