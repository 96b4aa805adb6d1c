"""Behind a reverse proxy, callers share a connection: what one of them sends never becomes part of another's request.

The raw requests also check each new release of aiohttp, whose parser has kept trailers for the next request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from tests.brakes import MANY, running, until_held, vanish
from tests.daemons import daemon, on
from tests.harness import KEY, METRICS_KEY, Harness, eventually, fast_cluster, harness, key_for_checks
from tests.ports import free_port
from tests.raw import connected, everything

EXAMPLES = Path(__file__).parents[2] / "examples" / "two-vms"

AUTH = b"X-API-KEY: " + KEY.encode() + b"\r\n"
CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n"
TRAILERS = b"0\r\nX-API-KEY: wrong\r\nIdempotency-Key: smuggled\r\nX-Request-ID: smuggled\r\n\r\n"
SMUGGLED = b"GET /stacks HTTP/1.1\r\nHost: a\r\nX-Request-ID: smuggled\r\n\r\n"
SHORT = b"Host: a\r\nContent-Length: %d\r\n" % len(SMUGGLED)
"""Announces a body that looks like a request."""

FIRST = {
    "trailers, no key": b"POST /stacks HTTP/1.1\r\n" + CHUNKED + b"\r\n" + TRAILERS,
    "trailers, a key": b"POST /stacks HTTP/1.1\r\n" + AUTH + CHUNKED + b"\r\n2\r\n{}\r\n" + TRAILERS,
    "trailers, a read": b"GET /healthz HTTP/1.1\r\n" + AUTH + CHUNKED + b"\r\n" + TRAILERS,
    "trailers, a ready answer": b"GET /stacks HTTP/1.1\r\n" + AUTH + CHUNKED + b"\r\n" + TRAILERS,
    "trailers, no route": b"PUT /nowhere HTTP/1.1\r\n" + CHUNKED + b"\r\n" + TRAILERS,
    "trailers, not a path": b"OPTIONS * HTTP/1.1\r\n" + CHUNKED + b"\r\n" + TRAILERS,
    "trailers, an upgrade": b"GET /healthz HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    + AUTH + CHUNKED + b"\r\n" + TRAILERS,
    "a body, no key": b"POST /stacks HTTP/1.1\r\n" + SHORT + b"\r\n" + SMUGGLED,
    "a body, a read": b"GET /healthz HTTP/1.1\r\n" + AUTH + SHORT + b"\r\n" + SMUGGLED,
    "a body, a delete": b"DELETE /stacks/stack-0 HTTP/1.1\r\n" + AUTH + SHORT + b"\r\n" + SMUGGLED,
    "a body, an upgrade": b"GET /healthz HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n"
    + AUTH + SHORT + b"\r\n" + SMUGGLED,
    "an unwanted expectation": b"POST /stacks HTTP/1.1\r\nExpect: 200-ok\r\n" + SHORT + b"\r\n" + SMUGGLED,
    "a body that is expected": b"POST /stacks HTTP/1.1\r\nExpect: 100-continue\r\n" + SHORT + b"\r\n" + SMUGGLED,
    "an upgrade": b"GET /healthz HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + AUTH + b"\r\n",
}  # fmt: skip


async def test_the_next_request_on_a_connection_is_the_next_callers_own(at: Harness) -> None:
    second = b"GET /stats HTTP/1.1\r\nHost: a\r\nX-Request-ID: own\r\nConnection: close\r\n" + AUTH + b"\r\n"
    for (name, first), pipelined in product(FIRST.items(), (True, False)):
        async with connected(at) as (reader, writer):
            writer.write(first + second if pipelined else first)
            received = b""
            if not pipelined:
                received = await reader.readuntil(b"}")
                writer.write(second)
            received += await everything(reader)
        answers = re.findall(rb"HTTP/1\.1 (\d+) .*?\r\nX-Request-ID: (\S+)", received, re.DOTALL)
        assert len(answers) in (1, 2), (name, received)
        assert answers[1:] in ([], [(b"200", b"own")]), (name, received)
        assert b"smuggled" not in received, name


# ---- a real HAProxy, configured as shipped

RESTART_SECONDS = 4.0


@asynccontextmanager
async def haproxy(folder: Path, one: int, two: int) -> AsyncIterator[str]:
    """The URL of an HAProxy in front of the stackds at these two ports."""
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    text, port = (EXAMPLES / "haproxy.cfg").read_text(), free_port()
    for documented, here in (
        (r"bind :8443 ssl crt \S+", f"bind 127.0.0.1:{port}"),  # the other test of this file has TLS
        (r" ssl verify required .*", ""),
        (r"sk-\.\.\.", METRICS_KEY),
        (r"192\.0\.2\.1:8081", f"127.0.0.1:{one}"),
        (r"192\.0\.2\.2:8081", f"127.0.0.1:{two}"),
    ):
        text, count = re.subn(documented, here, text)
        assert count, documented
    file = folder / "haproxy.cfg"
    file.write_text(text)
    process = await asyncio.create_subprocess_exec(program, "-q", "-db", "-f", file)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def status(url: str, path: str) -> int:
    async with aiohttp.request("GET", url + path, headers={"X-API-KEY": KEY}) as answer:
        return answer.status


@asynccontextmanager
async def two_behind_haproxy(folder: Path, **settings: str) -> AsyncIterator[tuple[Harness, Harness, str]]:
    """An owner, a standby, and the URL of the HAProxy in front of them."""
    config = key_for_checks(folder)
    for name in ("vm1", "vm2"):
        (folder / name).mkdir()
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        harness(folder / "vm1", settings, cluster=cluster, config=config, host="vm1") as one,
        harness(folder / "vm2", settings, cluster=cluster, config=config, host="vm2", wait=False) as two,
    ):
        await two.until_metric("stackd_standby", 1)
        async with haproxy(folder, one.port, two.port) as url:
            for at in (one, two):  # HAProxy uses both until two checks have failed
                await at.until_at_least("stackd_http_requests_total", 3, route="/owner")
            yield one, two, url


async def test_no_caller_gets_anothers_headers_through_haproxy(tmp_path: Path) -> None:
    """HAProxy sends all but a client's first request over connections that others have used."""
    async with two_behind_haproxy(tmp_path) as (one, _, url):
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            for request in (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", FIRST["trailers, no key"]):
                writer.write(request)
                assert b"smuggled" not in await reader.readuntil(b"}")
            async with one.session.get(url + "/stats", headers={"X-API-KEY": KEY}) as answer:
                assert (answer.status, answer.headers["X-Request-ID"] == "smuggled") == (200, False)
            writer.transport.abort()


async def test_a_caller_behind_haproxy_cannot_pass_for_another_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with two_behind_haproxy(tmp_path, STACKD_SERVER__TRUSTED_PROXIES="127.0.0.1") as (_, _, url):
        outside = aiohttp.TCPConnector(local_addr=("127.0.0.77", 0))
        forged = {"X-Forwarded-For": "198.51.100.7", "X-API-KEY": KEY}
        async with aiohttp.ClientSession(connector=outside, headers=forged) as session:
            await session.get(url + "/nowhere")

        def callers() -> list[str]:
            found = [vars(record) for record in caplog.records if getattr(record, "route", "") == "(elsewhere)"]
            return [one["client"] for one in found]

        await eventually(callers)
        assert callers() == ["127.0.0.77"]


async def test_haproxy_sends_reads_to_the_owner_also_while_a_brake_keeps_it_from_being_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        two_behind_haproxy(tmp_path) as (one, two, url),
        aiohttp.request("GET", url + "/events?fields=stack_id", headers={"X-API-KEY": KEY}) as events,
    ):
        ids = await running(one, MANY)
        await vanish(one, ids)
        await until_held(one, MANY)
        for at in (one, two):
            checks = await at.metric("stackd_http_requests_total", route="/owner")
            await at.until_at_least("stackd_http_requests_total", checks + 4, route="/owner")
        assert [await status(url, path) for path in ("/readyz", "/stats", "/stacks")] == [503, 200, 200]
        last = (await one.create())["stack_id"]
        await events.content.readuntil(last.encode())
    assert not [record for record in caplog.records if getattr(record, "route", "") == "/owner"]


async def test_a_request_waits_in_haproxy_for_an_owner_that_restarts(tmp_path: Path) -> None:
    """While stackd restarts, systemd holds its socket: connections are made, and nobody answers, as with a SIGSTOP."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = on(cluster, tmp_path) | {"STACKD_CONFIG": str(key_for_checks(tmp_path))}
        async with daemon(tmp_path, env) as process, haproxy(tmp_path, process.real.port, free_port()) as url:

            async def found() -> bool:
                try:
                    return await status(url, "/stats") == 200
                except aiohttp.ClientError:  # it does not listen yet
                    return False

            await eventually(found, pause=0.1)
            process.send(signal.SIGSTOP)
            asking = [asyncio.create_task(status(url, "/stats")) for _ in range(5)]
            await asyncio.sleep(RESTART_SECONDS)
            process.send(signal.SIGCONT)
            assert await asyncio.gather(*asking) == [200] * 5
