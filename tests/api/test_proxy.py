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
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import aiohttp
import pytest

from stackd.embedded import EmbeddedCluster
from tests.brakes import MANY, running, until_held, vanish
from tests.certificates import authority, issued
from tests.daemons import daemon, on
from tests.harness import (
    KEY,
    METRICS_KEY,
    Client,
    Harness,
    eventually,
    fast_cluster,
    harness,
    key_for_checks,
    seed,
    until,
)
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


# ---- a real HAProxy, and the script of keepalived, as shipped

RESTART_SECONDS = 4.0


def adapted(name: str, *replaced: tuple[str, object]) -> str:
    text = (EXAMPLES / name).read_text()
    for documented, here in replaced:
        assert documented in text, documented
        text = text.replace(documented, str(here))
    return text


@asynccontextmanager
async def haproxy(folder: Path, one: int, two: int, *, tls: bool = True) -> AsyncIterator[int]:
    """The port of an HAProxy in front of the stackds at these two ports.

    With TLS, a check that has failed is soon repeated, and a handshake may take two seconds.
    """
    program = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed (Debian: apt install haproxy)")
    port, file = free_port(), folder / "haproxy.cfg"
    text = adapted(
        file.name,
        ("bind :8443", f"bind 127.0.0.1:{port}"),
        ("/etc/haproxy/stackd.pem", folder / "haproxy.pem"),
        ("/etc/haproxy/ca.pem", folder / "ca.crt"),
        ("inter 1s", "inter 2s fastinter 100ms" if tls else "inter 1s"),
        ("sk-...", METRICS_KEY),
        ("192.0.2.1:8081", f"127.0.0.1:{one}"),
        ("192.0.2.2:8081", f"127.0.0.1:{two}"),
    )
    file.write_text(text if tls else re.sub(" ssl (crt|verify required) .*", "", text))
    process = await asyncio.create_subprocess_exec(program, "-q", "-db", "-f", file)
    try:
        yield port
    finally:
        process.terminate()
        await process.wait()


async def owns_stacks(folder: Path, at: Client) -> bool:
    """What the script of keepalived says on the machine of this stackd."""
    key = folder / "stackd-key"
    key.write_text(METRICS_KEY)
    files = ("/etc/keepalived/ca.pem", folder / "ca.crt"), ("/etc/keepalived/stackd-key", key)
    script = adapted("owns-stacks", *files, ("port=8081", f"port={at.port}"))
    process = await asyncio.create_subprocess_exec("sh", "-c", script, "owns-stacks", "owner", "lapsed")
    return await process.wait() == 0


def trusted(folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.check_hostname = False
    return context


async def status(at: Client, path: str, method: str = "GET", body: object = None) -> int:
    """The status of the answer; 0 without one, as when HAProxy gives up the stackd that was asked."""
    try:
        return (await at.call(method, path, body)).status
    except aiohttp.ClientError:
        return 0


@asynccontextmanager
async def two_behind_haproxy(folder: Path, **settings: str) -> AsyncIterator[tuple[Harness, Harness, Client]]:
    """An owner, a standby, and a client of the HAProxy in front of them."""
    config, pair = key_for_checks(folder), issued(folder, authority(folder), host="DNS:stackd.example.org")
    (folder / "haproxy.pem").write_text(pair.cert.read_text() + pair.key.read_text())
    settings |= {"STACKD_SERVER__TLS_CERT": str(pair.cert), "STACKD_SERVER__TLS_KEY": str(pair.key)}
    for name in ("vm1", "vm2"):
        (folder / name).mkdir()
    async with (
        EmbeddedCluster(fast_cluster()) as cluster,
        harness(folder / "vm1", settings, cluster=cluster, config=config, host="vm1") as one,
        harness(folder / "vm2", settings, cluster=cluster, config=config, host="vm2", wait=False) as two,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted(folder))) as session,
        haproxy(folder, one.port, two.port) as port,
    ):
        for at in (one, two):
            at.session, at.url = session, f"https://127.0.0.1:{at.port}"
        await two.until_metric("stackd_standby", 1)
        # HAProxy uses both until two checks of each of its backends have failed.
        await two.until_at_least("stackd_http_requests_total", 4, route="/owner")
        yield one, two, Client(session=session, url=f"https://127.0.0.1:{port}")


async def test_no_caller_gets_anothers_headers_or_address_through_haproxy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HAProxy sends all but a client's first request over connections that others have used."""
    caplog.set_level(logging.INFO)
    async with two_behind_haproxy(tmp_path, STACKD_SERVER__TRUSTED_PROXIES="127.0.0.1") as (_, _, front):
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=trusted(tmp_path))
            for request in (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", FIRST["trailers, no key"]):
                writer.write(request)
                assert b"smuggled" not in await reader.readuntil(b"}")
            answer = await front.call("GET", "/stats")
            assert (answer.status, answer.headers["X-Request-ID"] == "smuggled") == (200, False)
            writer.transport.abort()
        outside = aiohttp.TCPConnector(local_addr=("127.0.0.77", 0), ssl=trusted(tmp_path))
        forged = {"X-Forwarded-For": "198.51.100.7", "X-API-KEY": KEY}
        async with aiohttp.ClientSession(connector=outside, headers=forged) as session:
            await session.get(front.url + "/nowhere")

        def callers() -> set[str]:
            return {vars(one)["client"] for one in caplog.records if getattr(one, "route", "") == "(elsewhere)"}

        await eventually(lambda: "127.0.0.77" in callers())
        assert "198.51.100.7" not in callers()


async def test_haproxy_sends_reads_to_the_owner_also_while_a_brake_keeps_it_from_being_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        two_behind_haproxy(tmp_path) as (one, _, front),
        front.session.get(front.url + "/events?fields=stack_id", headers={"X-API-KEY": KEY}) as events,
    ):
        ids = await running(one, MANY)
        await vanish(one, ids)
        await until_held(one, MANY)
        checks = await one.metric("stackd_http_requests_total", route="/owner")
        await one.until_at_least("stackd_http_requests_total", checks + 2, route="/owner")
        assert [await status(front, path) for path in ("/readyz", "/stats", "/stacks")] == [503, 200, 200]
        last = (await one.create())["stack_id"]
        await events.content.readuntil(last.encode())
    assert not [record for record in caplog.records if getattr(record, "route", "") == "/owner"]


async def test_haproxy_sends_reads_to_an_owner_that_has_lapsed_until_there_is_one(tmp_path: Path) -> None:
    async with two_behind_haproxy(tmp_path, STACKD_CLUSTER__LEASE_DURATION="4s") as (one, two, front):
        path = f"/stacks/{await one.running()}/status"
        assert [await owns_stacks(tmp_path, at) for at in (one, two)] == [True, False]
        await one.faults.refuse()
        await until(one.role, lambda role: role == "lapsed")
        await until(lambda: status(front, path), lambda seen: seen == 200)
        assert [await owns_stacks(tmp_path, at) for at in (one, two)] == [True, False]
        await until(lambda: status(front, "/stacks", "POST", seed()), lambda seen: seen == 503)
        await one.faults.listen()
        await until(lambda: status(front, "/stacks", "POST", seed()), lambda seen: seen == 201)


async def test_a_request_waits_in_haproxy_for_an_owner_that_restarts(tmp_path: Path) -> None:
    """While stackd restarts, systemd holds its socket: connections are made, and nobody answers, as with a SIGSTOP."""
    async with EmbeddedCluster(fast_cluster()) as cluster:
        env = on(cluster, tmp_path) | {"STACKD_CONFIG": str(key_for_checks(tmp_path))}
        async with (
            daemon(tmp_path, env) as process,
            haproxy(tmp_path, process.real.port, free_port(), tls=False) as port,
        ):
            front = Client(session=process.real.session, url=f"http://127.0.0.1:{port}")

            await until(lambda: status(front, "/stats"), lambda seen: seen == 200)  # it does not listen yet
            process.send(signal.SIGSTOP)
            asking = [asyncio.create_task(status(front, "/stats")) for _ in range(5)]
            await asyncio.sleep(RESTART_SECONDS)
            process.send(signal.SIGCONT)
            assert await asyncio.gather(*asking) == [200] * 5
