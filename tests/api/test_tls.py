"""The API over TLS: its certificate is renewed without a restart, and no client can stay in the handshake for long."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from stackd.validity import validity
from tests.certificates import EC, self_signed, trusting
from tests.harness import KEY, Harness, Machine, eventually

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
REQUEST = f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\n\r\n".encode()
Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def start(vm: Machine, timeout: str = "1h", **settings: str) -> tuple[Harness, str, str]:
    """A stackd with a new certificate, and the paths of certificate and key; slow clients are cut off after so long."""
    cert, key = self_signed(vm.folder, kind=EC)
    settings |= {"server__tls_cert": cert, "server__tls_key": key, "limits__slow_client_timeout": timeout}
    return await vm.start(**settings), cert, key


async def silent(at: Harness, count: int, cert: str = "") -> list[Client]:
    """Clients that connect and send nothing: not even a TLS hello, unless they trust a certificate."""
    ssl = trusting(cert) if cert else None
    return [await asyncio.open_connection("127.0.0.1", at.port, ssl=ssl) for _ in range(count)]


async def are_cut_off(clients: list[Client]) -> None:
    """Return once the other side has closed all these connections; it may not have sent anything."""
    async with asyncio.timeout(30):
        for reader, writer in clients:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


def descriptors() -> int:
    """How many file descriptors this process has open; the test's own end of each connection is one of them."""
    return len(os.listdir("/proc/self/fd"))


async def name_served(at: Harness, *certs: str) -> str:
    """The name in the certificate of a new connection, over which a request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(*certs))
    writer.write(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert b'{"status":"ok"}' in await reader.read()
    name: str = dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])["commonName"]
    writer.close()
    return name


async def test_a_handshake_that_does_not_come_is_cut_off(vm: Machine) -> None:
    at, cert, _ = await start(vm, "1s")
    assert await name_served(at, cert) == "one"
    url = f"https://127.0.0.1:{at.port}/metrics?api_key={KEY}"
    async with at.session.get(url, ssl=trusting(cert)) as answer:
        text = await answer.text()
    ends = re.search(r"^stackd_tls_certificate_expiry_timestamp_seconds (.*)$", text, re.MULTILINE)
    assert ends is not None
    assert float(ends[1]) == validity(Path(cert)).ends
    ((reader, plain),) = await silent(at, 1)
    plain.write(b"GET /healthz HTTP/1.1\r\n\r\n")
    assert b"HTTP" not in await reader.read(), "plain HTTP is refused"
    plain.close()
    clients = [*await silent(at, 50), *await silent(at, 1, cert)]
    assert await name_served(at, cert) == "one"
    await are_cut_off(clients)


async def test_silent_clients_count_as_connections_and_give_way_to_those_who_ask(vm: Machine) -> None:
    at, cert, _ = await start(vm, limits__connections="20")
    before = descriptors()
    clients = await silent(at, 10, cert) + await silent(at, 100)
    await are_cut_off(clients[:90])  # the oldest go first
    assert await name_served(at, cert) == "one"
    await eventually(lambda: descriptors() <= before + len(clients) + 21, lambda: f"{descriptors()} after {before}")
    for _, writer in clients:
        writer.transport.abort()
    # A connection to the cluster that was opened meanwhile has both its ends in this process.
    await eventually(lambda: descriptors() <= before + 3, lambda: f"{descriptors()} after {before}")
    assert await name_served(at, cert) == "one"


async def test_where_all_are_known_clients_a_silent_one_more_is_cut_off(vm: Machine) -> None:
    at, cert, _ = await start(vm, limits__connections="1")
    ((reader, writer),) = await silent(at, 1, cert)
    for _ in range(3):
        writer.write(REQUEST)
        await reader.readuntil(b'{"status":"ok"}')
        await are_cut_off(await silent(at, 1))
    writer.transport.abort()
    at, cert, _ = await start(vm)
    clients = await silent(at, 5)
    async with asyncio.timeout(30):
        await vm.stop()
    await are_cut_off(clients)
