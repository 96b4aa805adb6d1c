"""API keys: scopes, rotation, guessing, and that no key is ever shown."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stackd.keys import ApiKey, digest
from stackd.web.app import ROUTES
from stackd.web.listing import STREAM_ABOVE
from tests.harness import KEY, READ_KEY, Harness, harness, seed

FLAG = "FLAG{not-for-the-log}"


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Harness]:
    """A stackd with a key that may do everything and a key that may only read."""
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "reader"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "read"\n')
    async with harness(tmp_path, config=config) as ready:
        yield ready


async def test_a_key_that_may_only_read_reads_and_changes_nothing(two: Harness) -> None:
    stack_id = (await two.create())["stack_id"]
    for path in ("/healthz", "/stats", "/stacks", f"/stacks/{stack_id}", f"/stacks/{stack_id}/status"):
        assert (await two.call("GET", path, key=READ_KEY)).status == 200
        assert (await two.call("HEAD", path, key=READ_KEY)).status == 200
    for method, path in (
        ("POST", "/stacks"),
        ("DELETE", f"/stacks/{stack_id}"),
        ("POST", "/stacks/batch-delete"),
        ("POST", "/stacks/batch"),
        ("POST", "/reconcile/confirm"),
    ):
        reply = await two.call(method, path, seed(), key=READ_KEY)
        assert (reply.status, "'reader'" in reply.error) == (403, True)
    assert (await two.call("POST", "/capacity", seed(), key=READ_KEY)).status == 200, "it changes nothing"
    assert len(await two.objects("pods")) == 1


async def test_a_key_for_metrics_reads_those_and_nothing_of_any_tenant(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[[auth.keys]]\nname = "scraper"\nsha256 = "{digest(READ_KEY).hex()}"\nscope = "metrics"\n')
    async with harness(tmp_path, config=config) as at:
        stack_id = (await at.create())["stack_id"]
        for path in ("/metrics", "/healthz", "/readyz", "/owner"):
            for method in ("GET", "HEAD"):
                assert (await at.call(method, path, key=READ_KEY)).status == 200
        refused = "the API key 'scraper' may only read /healthz, /metrics, /owner, /readyz"
        for route in ROUTES:
            if route.public or route.path in ("/healthz", "/readyz", "/owner"):
                continue
            path = route.path.format(stack_id=stack_id, job_id="job-1")
            reply = await at.call(route.method, path, seed(), key=READ_KEY)
            assert (reply.status, reply.error) == (403, refused), route
        for method, path in (("POST", "/healthz"), ("GET", "/nothing"), ("POST", "/metrics")):
            assert (await at.call(method, path, key=READ_KEY)).status == 403
        assert (await at.call("GET", "/docs", key=READ_KEY)).status == 200
        assert len(await at.objects("pods")) == 1


async def test_whoever_guesses_is_slowed_down_by_address_and_a_valid_key_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = {"STACKD_LIMITS__FAILED_AUTH_PER_MINUTE": "2"}

    async def guess(at: Harness, forwarded: str, key: str | None = "sk-wrong") -> int:
        return (await at.call("GET", "/stacks", key=key, headers={"X-Forwarded-For": forwarded})).status

    async with harness(tmp_path, settings) as at:
        assert [await guess(at, "203.0.113.1", None) for _ in range(5)] == [401] * 5, "without a key it is no guess"
        found = [await guess(at, f"203.0.113.{number}") for number in range(3)]
        assert found == [401, 401, 429], "without trusted proxies nobody chooses the own address"
        reply = await at.call("GET", "/stacks", key=None)
        assert (reply.status, "limits.failed_auth_per_minute" in reply.error) == (429, True)
        assert 0 < int(reply.headers["Retry-After"]) <= 30
        assert (await at.call("GET", "/stacks")).status == 200
    assert "203.0.113" not in caplog.text
    caplog.clear()
    settings["STACKD_SERVER__TRUSTED_PROXIES"] = "127.0.0.1, 198.51.100.0/24"
    async with harness(tmp_path, settings) as at:
        assert [await guess(at, "203.0.113.5") for _ in range(3)] == [401, 401, 429]
        assert await guess(at, "203.0.113.6") == 401
        assert await guess(at, "203.0.113.77, 203.0.113.5") == 429, "what the caller itself has invented is on the left"
        assert await guess(at, "203.0.113.5, 198.51.100.9") == 429, "through two proxies"
        assert await guess(at, "203.0.113.5", KEY) == 200
    clients = {vars(record).get("client") for record in caplog.records if record.name == "stackd.request"}
    assert clients == {"203.0.113.5", "203.0.113.6"}


async def test_no_output_shows_a_key_or_a_flag(two: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    body = seed()
    body["pod_spec"] += f"\n      env:\n        - name: FLAG\n          value: {json.dumps(FLAG)}"
    shown = []
    for key, query in ((KEY, ""), (None, f"?api_key={KEY}"), ("sk-wrong-key", ""), (None, "?api_key=sk-wrong-key")):
        for method, path in (
            ("POST", "/stacks"),
            ("GET", "/nothing"),
            ("PUT", "/stacks"),
            ("GET", "/metrics"),
            ("GET", "/readyz"),
            ("GET", "/reconcile"),
            ("DELETE", "/stacks/stack-none"),
            ("POST", "/stacks/batch-delete"),
        ):
            reply = await two.call(method, path + query, body, key=key, headers={"Idempotency-Key": "x"})
            shown.append((path, reply))
    await two.call("POST", "/stacks", body | {"api_key": KEY})
    two.cluster.faults.add_fault(verb="create", resource="pods", action="status", code=500, count=1)
    await two.call("POST", "/stacks", body)
    text = caplog.text + "".join(str(vars(record)) for record in caplog.records)
    assert "POST /stacks" in text
    for secret in (KEY, READ_KEY, "sk-wrong-key", digest(KEY).hex(), FLAG):
        assert secret not in text
        for path, reply in shown:
            if secret != FLAG or path != "/stacks":
                assert secret not in reply.text
                assert secret not in str(reply.headers)


AUTH = f"X-API-KEY: {KEY}\r\n"


async def answer(at: Harness, head: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the only response to these lines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
    try:
        writer.write(f"{head}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(30):
            received = await reader.read()
    finally:
        writer.transport.abort()
    first, *lines = received.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, received.partition(b"\r\n\r\n")[2]


HEADS = [
    ("GET /nope HTTP/1.1", 404), ("GET /nope HTTP/1.0", 404), ("GET /stacks/ HTTP/1.1", 404),
    ("GET /nope%0d%0aX HTTP/1.1", 404), ("GET /stacks/a%0ab/no/such HTTP/1.1", 404), ("GET //stacks HTTP/1.1", 404),
    ("GET /stacks/%0d%0aSet-Cookie:%20a=b HTTP/1.1", 404), ("PUT /stacks HTTP/1.1", 405), ("OPTIONS * HTTP/1.1", 405),
    ("CONNECT example.org:443 HTTP/1.1", 405), ("PURGE /docs HTTP/1.1", 405),
]  # fmt: skip


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


async def test_no_answer_of_the_api_is_kept_by_a_cache(at: Harness) -> None:
    stack_id = (await at.create())["stack_id"]
    for method, path in (
        *(("GET", path) for path in ("/healthz", "/stacks?limit=1", f"/stacks/{stack_id}/logs", "/metrics", "/stacks/x")),
        ("HEAD", "/stacks"), ("POST", "/stacks"), ("DELETE", f"/stacks/{stack_id}"),
    ):  # fmt: skip
        for key in (KEY, None):
            assert (await at.call(method, path, seed(), key=key)).headers["Cache-Control"] == "no-store", (method, path)


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


async def test_a_key_says_what_it_may_do(at: Harness) -> None:
    tenant = ApiKey(name="ctfd", sha256=digest(READ_KEY), scope="tenant", labels={"event": "a"})
    at.put_keys_in_force(*at.config.auth.keys, tenant)
    assert (await at.call("GET", "/key", key=READ_KEY)).json == {
        "name": "ctfd",
        "scope": "tenant",
        "labels": {"event": "a"},
    }
    assert (await at.call("GET", "/key")).json["scope"] == "admin"
    assert (await at.call("GET", "/key", key=None)).status == 401
