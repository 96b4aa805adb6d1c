"""The TLS certificate: what is used, what is refused with a reason, and what is reported of its validity."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from stackd.clock import DAY_SECONDS
from stackd.config import load
from stackd.upkeep.tls import Certificate, timeliness
from stackd.validity import validity
from tests.certificates import EC, RSA, self_signed, trusting

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def of(cert: str, key: str) -> Certificate:
    tls = {"STACKD_SERVER__TLS_CERT": cert, "STACKD_SERVER__TLS_KEY": key}
    loaded = load(None, {"STACKD_AUTH__ENABLED": "false", "STACKD_CLUSTER__MODE": "embedded"} | tls)
    return Certificate.of(loaded.config) or pytest.fail("TLS is configured")


async def served(certificate: Certificate, client: ssl.SSLContext) -> tuple[str | None, str | None, str]:
    """TLS version and ALPN protocol that a client gets, and the name in the certificate."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        made = writer.get_extra_info("ssl_object")
        name = dict(pair[0] for pair in made.getpeercert()["subject"])["commonName"]
        found = made.version(), made.selected_alpn_protocol(), name
        writer.close()
        return found


async def test_the_pair_is_served_with_modern_defaults_only(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    certificate = of(cert, key)
    assert await served(certificate, trusting(cert)) == ("TLSv1.3", "http/1.1", "one")
    second = trusting(cert)
    second.maximum_version = ssl.TLSVersion.TLSv1_2
    assert (await served(certificate, second))[0] == "TLSv1.2"
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_2
    old = [c["name"] for c in certificate.context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in old)


def test_the_time_of_a_certificate_is_read_as_openssl_reads_it(tmp_path: Path) -> None:
    for days in (1, 365 * 60):
        cert, _ = self_signed(tmp_path, days=days)
        shown = subprocess.check_output(["openssl", "x509", "-in", cert, "-noout", "-enddate"], text=True)
        valid = validity(Path(cert))
        assert valid.ends == ssl.cert_time_to_seconds(shown.strip().partition("=")[2])
        assert valid.ends - valid.begins == pytest.approx(days * DAY_SECONDS, abs=60)


def test_a_certificate_that_expires_is_reported_once_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cert, key = self_signed(tmp_path, days=90)
    begins = validity(Path(cert)).begins
    now = begins + DAY_SECONDS
    certificate = Certificate(cert, key, now=lambda: now)
    certificate.load()
    assert not caplog.records
    for later, level, said in (
        (80 * DAY_SECONDS, logging.WARNING, "expires in 10 days"),
        (80.5 * DAY_SECONDS, None, ""),
        (91 * DAY_SECONDS, logging.ERROR, "expired on"),
        (-1 * DAY_SECONDS, None, ""),
    ):
        caplog.clear()
        now = begins + later
        certificate.remind()
        assert [record.levelno for record in caplog.records] == ([level] if level else [])
        assert said in caplog.text
    assert "not valid before" in timeliness(Path(cert), begins - DAY_SECONDS)[0]


@pytest.mark.parametrize(("before", "after"), [(EC, RSA), (RSA, EC)])
async def test_only_the_new_pair_is_served_as_soon_as_both_files_have_changed_whatever_kind_of_key_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    caplog.set_level(logging.INFO)
    cert, key = self_signed(tmp_path, kind=before)
    certificate = of(cert, key)
    old = certificate.context
    new_cert, new_key = self_signed(tmp_path, "two", kind=after)
    both = trusting(cert, new_cert)
    os.replace(new_cert, cert)
    certificate.reload_changed()
    assert (await served(certificate, both))[2] == "one"
    assert "do not belong together" in caplog.text
    os.replace(new_key, key)
    certificate.reload_changed()
    assert (await served(certificate, both))[2] == "two"
    assert "loaded again" in caplog.text
    assert certificate.context is not old, "what is secured with the old one goes on"
