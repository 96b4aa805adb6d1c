"""The API over TLS: its certificate is renewed without a restart, and no client can stay in the handshake for long."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import pytest

from stackd.upkeep import tls
from stackd.validity import validity
from tests.harness import KEY, Harness, eventually, harness, until
from tests.unit.upkeep.test_certificate import EC, RSA, make, trusting

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def settings(cert: str, key: str) -> dict[str, str]:
    return {
        "STACKD_SERVER__TLS_CERT": cert,
        "STACKD_SERVER__TLS_KEY": key,
        "STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "300ms",
    }


async def silent(at: Harness, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Clients that connect and send nothing, not even a TLS hello."""
    return [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(count)]


def descriptors() -> int:
    """How many file descriptors this process has open; the test's own end of each connection is one of them."""
    return len(os.listdir("/proc/self/fd"))


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side closes; return whether it closed without sending anything."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def name_served(at: Harness, *certs: str) -> str:
    """The name in the certificate of a new connection, over which a request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(*certs))
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nConnection: close\r\n\r\n".encode())
    assert b'{"status":"ok"}' in await reader.read()
    name: str = dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])["commonName"]
    writer.close()
    return name


async def test_requests_are_answered_over_tls_with_the_certificate_in_the_file(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with harness(tmp_path, settings(cert, key)) as at:
        assert await name_served(at, cert) == "one"
        url = f"https://127.0.0.1:{at.port}/metrics?api_key={KEY}"
        async with at.session.get(url, ssl=trusting(cert)) as answer:
            ends = re.search(
                r"^stackd_tls_certificate_expiry_timestamp_seconds (.*)$", await answer.text(), re.MULTILINE
            )
            assert ends is not None
            assert float(ends[1]) == validity(Path(cert)).ends


async def test_a_handshake_that_does_not_come_is_cut_off_and_others_go_on(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with harness(tmp_path, settings(cert, key)) as at:
        only_hello = await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(cert))
        clients = [*await silent(at, 50), only_hello]
        assert await name_served(at, cert) == "one"
        async with asyncio.timeout(30):
            for reader, writer in clients:
                assert await ended(reader)
                writer.close()


async def test_silent_clients_count_as_connections_and_give_way_to_those_who_ask(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    patient = settings(cert, key) | {"STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "1h", "STACKD_LIMITS__CONNECTIONS": "20"}
    async with harness(tmp_path, patient) as at:
        before = descriptors()
        hello = [await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(cert)) for _ in range(10)]
        clients = hello + await silent(at, 100)
        async with asyncio.timeout(30):
            assert all([await ended(reader) for reader, _ in clients[:90]]), "the oldest go first"
            assert await name_served(at, cert) == "one"
        await eventually(lambda: descriptors() <= before + len(clients) + 21, lambda: f"{descriptors()} after {before}")
        for _, writer in clients:
            writer.transport.abort()
        await eventually(lambda: descriptors() <= before + 1, lambda: f"{descriptors()} after {before}")
        assert await name_served(at, cert) == "one"


async def test_where_all_are_known_clients_a_silent_one_more_is_cut_off(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    patient = settings(cert, key) | {"STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "1h", "STACKD_LIMITS__CONNECTIONS": "1"}
    async with harness(tmp_path, patient) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(cert))
        request = f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\n\r\n".encode()
        for _ in range(3):
            writer.write(request)
            await reader.readuntil(b'{"status":"ok"}')
            ((other, its),) = await silent(at, 1)
            async with asyncio.timeout(30):
                assert await ended(other)
            its.close()
        writer.transport.abort()


async def test_a_stop_does_not_wait_for_silent_clients(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    patient = settings(cert, key) | {"STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "1h"}
    async with asyncio.timeout(30):
        async with harness(tmp_path, patient) as at:
            clients = await silent(at, 5)
            assert await name_served(at, cert) == "one"
    for reader, writer in clients:
        assert await ended(reader)
        writer.close()


async def test_new_connections_get_the_new_certificate_and_open_ones_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_SECONDS", 0.02)
    cert, key = make(tmp_path, kind=EC)
    patient = settings(cert, key) | {"STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "1m"}
    async with harness(tmp_path, patient) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port, ssl=trusting(cert))
        new_cert, new_key = make(tmp_path, "two", kind=RSA)
        both = (str(shutil.copy(cert, tmp_path / "old")), str(shutil.copy(new_cert, tmp_path / "new")))
        shutil.move(new_cert, cert)
        shutil.move(new_key, key)

        await until(lambda: name_served(at, *both), lambda seen: seen == "two")
        assert {await name_served(at, *both) for _ in range(5)} == {"two"}
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_plain_http_at_a_tls_port_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with harness(tmp_path, settings(cert, key)) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        assert await name_served(at, cert) == "one"
