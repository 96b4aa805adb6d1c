"""The TLS certificate and its key: loaded at the start, and again when their files change.

A pair that cannot be used is refused and said; the one in force stays. Connections that are open keep what they have.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

from stackd.config import Config
from stackd.errors import ConfigError

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0

Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """The pair of ``server.tls_cert`` and ``server.tls_key``."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = (cert, key)
        self._stamp: Stamp = ()
        self.context = _context()

    @classmethod
    def of(cls, config: Config) -> Certificate | None:
        """The configured pair, loaded; None where TLS is not configured. Raises ConfigError."""
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
        """Take the files' pair into force. Raises OSError (``ssl.SSLError`` is one); then the one before stays."""
        self._stamp = self._look()
        _context().load_cert_chain(*self._files)
        self.context.load_cert_chain(*self._files)

    def renew(self) -> None:
        """Load the pair again if the files have changed."""
        if self._look() == self._stamp:
            return
        try:
            self.load()
        except OSError as error:
            log.error("the new TLS certificate is not used, the old one stays: %s", _words(error))
        else:
            log.info("TLS certificate loaded again from %s", self._files[0])

    async def follow(self) -> None:
        """The following service."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.renew()

    def _look(self) -> Stamp:
        try:
            return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in map(os.stat, self._files))
        except OSError:
            return ()


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        why = error.reason or error
        return f"they cannot be used ({why}); a PEM certificate chain and its unencrypted key are expected"
    return f"they cannot be read: {error.strerror or error}"
