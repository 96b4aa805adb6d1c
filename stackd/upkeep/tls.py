"""The TLS certificate and its key: loaded at the start, and again when their files change.

A pair that cannot be used is refused and logged; the one in force stays. Each load makes a new context for later
connections: OpenSSL keeps one pair for each kind of key, so in the old context an earlier EC certificate would still be
served beside a new RSA one. Open connections keep their context.

A certificate that has expired, or soon will, is logged at the start and once a day.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stackd.clock import DAY_SECONDS, utc_minute
from stackd.config import Config
from stackd.errors import ConfigError
from stackd.validity import WARN_SECONDS, validity

log = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
# For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# What OpenSSL says of two keys of one kind, and of two kinds, such as a certificate for EC and a private key for RSA.
_MISMATCHES = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
Stamp = tuple[int, int, int]


def stamp_of(path: str | Path) -> Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class Certificate:
    """The pair of ``server.tls_cert`` and ``server.tls_key``; ``context`` is for new connections, ``ends`` says when the
    certificate expires, in seconds since the epoch.
    """

    def __init__(self, cert: str, key: str, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._files = (cert, key)
        self._stamps: list[Stamp | None] = []
        self._reminded_at = 0.0
        self.context = _context()
        self.ends = 0.0

    @classmethod
    def of(cls, config: Config) -> Certificate | None:
        """The configured pair, loaded; None if TLS is not configured. Raises ConfigError."""
        server = config.server
        if not server.tls_cert:
            return None
        certificate = cls(server.tls_cert, server.tls_key)
        try:
            certificate.load()
        except OSError as error:
            raise ConfigError([f"[server] tls_cert, tls_key: {_words(error)}"]) from error
        return certificate

    def load(self) -> None:
        """Load the pair and put it in force. Raises OSError (``ssl.SSLError`` is one); then the old pair stays."""
        self._stamps = [stamp_of(file) for file in self._files]
        fresh = _context()
        # Without a password, OpenSSL would prompt for that of an encrypted key at the terminal and wait.
        fresh.load_cert_chain(*self._files, password=lambda: "")
        self.context = fresh
        with suppress(OSError, ValueError):
            self.ends = validity(Path(self._files[0])).ends
        self._reminded_at = 0.0
        self.remind()

    def reload_changed(self) -> None:
        if [stamp_of(file) for file in self._files] == self._stamps:
            return
        try:
            self.load()
        except OSError as error:
            log.error("the new TLS certificate is not used, the old one stays: %s", _words(error))
        else:
            log.info("TLS certificate loaded again from %s", self._files[0])

    def remind(self) -> None:
        """Log that the certificate has expired, is not valid yet, or will expire soon; once a day."""
        now = self._now()
        if now - self._reminded_at < DAY_SECONDS:
            return
        wrong, unusable = timeliness(Path(self._files[0]), now)
        if wrong:
            self._reminded_at = now
            log.log(logging.ERROR if unusable else logging.WARNING, "%s", wrong)

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.reload_changed()
            self.remind()


def timeliness(cert: Path, now: float) -> tuple[str, bool]:
    """What is wrong with the certificate's period of validity, and whether that makes it unusable; empty: nothing is.

    ``now`` in seconds since the epoch.
    """
    try:
        valid = validity(cert)
    except (OSError, ValueError) as error:
        return f"server.tls_cert: its time cannot be read: {error}", False
    if now > valid.ends:
        return f"server.tls_cert: the certificate expired on {utc_minute(valid.ends)}", True
    if now < valid.begins:
        return f"server.tls_cert: it is not valid before {utc_minute(valid.begins)}", True
    if valid.ends - now < WARN_SECONDS:
        days = int((valid.ends - now) / DAY_SECONDS)
        return f"server.tls_cert: it expires in {days} days, on {utc_minute(valid.ends)}", False
    return "", False


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _words(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return f"they cannot be read: {error.strerror or error}"
    if error.reason in _MISMATCHES:
        return "they do not belong together: the private key is not that of the certificate"
    why = error.reason or error
    return f"they cannot be used ({why}); a PEM certificate chain and its unencrypted key are expected"
