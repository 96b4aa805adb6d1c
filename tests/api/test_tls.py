"""The API over TLS: it is served, its certificate is renewed without a restart, and nobody dawdles at the handshake."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from stackd.config import load
from tests.stand import KEY, Stand, stand
from tests.unit.upkeep.test_certificate import make, trusting

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def settings(cert: str, key: str) -> dict[str, str]:
    return {
        "STACKD_SERVER__TLS_CERT": cert,
        "STACKD_SERVER__TLS_KEY": key,
        "STACKD_LIMITS__SLOW_CLIENT_TIMEOUT": "300ms",
    }


async def name_served(at: Stand, *certs: str) -> str:
    """The name in the certificate that a new connection gets, after a request was answered over it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.daemon.port, ssl=trusting(*certs))
    writer.write(f"GET /healthz HTTP/1.1\r\nHost: a\r\nX-API-KEY: {KEY}\r\nConnection: close\r\n\r\n".encode())
    assert b'{"status":"ok"}' in await reader.read()
    name: str = dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])["commonName"]
    writer.close()
    return name


async def test_requests_are_answered_over_tls_with_the_certificate_in_the_file(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with stand(tmp_path, settings(cert, key)) as at:
        assert await name_served(at, cert) == "one"


async def test_a_handshake_that_does_not_come_is_cut_off_and_others_go_on(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with stand(tmp_path, settings(cert, key)) as at:
        silent = [await asyncio.open_connection("127.0.0.1", at.daemon.port) for _ in range(50)]
        assert await name_served(at, cert) == "one"
        async with asyncio.timeout(5):
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()


async def test_plain_http_at_a_tls_port_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    async with stand(tmp_path, settings(cert, key)) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.daemon.port)
        writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()
        assert await name_served(at, cert) == "one"


def test_a_public_address_without_tls_is_warned_of(tmp_path: Path) -> None:
    base = {"STACKD_AUTH__KEY": KEY, "STACKD_CLUSTER__MODE": "embedded"}
    assert not load(None, base).warnings
    for host in ("0.0.0.0", "::", "192.0.2.1", "api.example.org"):
        (warning,) = load(None, base | {"STACKD_SERVER__HOST": host}).warnings
        assert "there is no TLS" in warning
    cert, key = make(tmp_path)
    assert not load(None, base | {"STACKD_SERVER__HOST": "0.0.0.0"} | settings(cert, key)).warnings
