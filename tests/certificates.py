"""Certificates like those of clusters, made with openssl; of authorities with and without RFC 5280's extensions."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

HAVE_OPENSSL = shutil.which("openssl") is not None
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
NO_KEY_IDS = ("subjectKeyIdentifier=none", "authorityKeyIdentifier=none")
BARE = ("basicConstraints=CA:TRUE", *NO_KEY_IDS)
"""Neither keyUsage nor key identifiers, and basicConstraints is not critical: kubectl accepts it, as Go does."""

COMPLETE = (
    "basicConstraints=critical,CA:TRUE",
    "keyUsage=critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier=hash",
    "authorityKeyIdentifier=keyid",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The files of a certificate and of its key."""

    cert: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """The TLS context of a server that presents this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def authority(folder: Path, name: str = "ca", extensions: Sequence[str] = COMPLETE) -> Pair:
    """A self-signed root certificate with exactly these extensions."""
    made = Pair(cert=folder / f"{name}.crt", key=folder / f"{name}.key")
    config = _config(folder / f"{name}.cnf", extensions)
    _openssl(
        "req", "-x509", *KEY, "-config", config, "-subj", f"/CN={name}", "-days", "30",
        "-keyout", made.key, "-out", made.cert,
    )  # fmt: skip
    return made


def issued(
    folder: Path,
    by: Pair,
    *,
    name: str = "server",
    host: str = "IP:127.0.0.1",
    days: int = 30,
    plain: bool = False,
    authority: bool = False,
) -> Pair:
    """A certificate for ``host``, or of an ``authority``; ``plain``: without key identifiers.

    With zero or negative ``days`` it has expired.
    """
    made = Pair(cert=folder / f"{name}.crt", key=folder / f"{name}.key")
    request = folder / f"{name}.csr"
    _openssl("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
    identifiers = NO_KEY_IDS if plain else ("subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
    purpose = "basicConstraints=critical,CA:TRUE" if authority else f"subjectAltName={host}"
    extensions = _config(folder / f"{name}.cnf", (purpose, *identifiers))
    if days > 0:
        times: tuple[object, ...] = ("-days", days)
    else:
        times = ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z")
    _openssl(
        "x509", "-req", "-in", request, "-CA", by.cert, "-CAkey", by.key, "-CAcreateserial",
        "-extfile", extensions, "-extensions", "these", *times, "-out", made.cert,
    )  # fmt: skip
    return made


def _config(path: Path, extensions: Sequence[str]) -> Path:
    lines = ["[req]", "distinguished_name = name", "x509_extensions = these", "[name]", "[these]", *extensions]
    path.write_text("\n".join(lines) + "\n")
    return path


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


@dataclass(eq=False, slots=True, kw_only=True)
class TlsFront:
    """Speaks TLS and forwards everything to the plain server ``behind``. Resets connections, as a load balancer does.

    ``share`` of what arrives in either direction is lost, and its connection reset.
    """

    behind: int
    port: int = 0
    share: float = 0.0
    random: Random = field(default_factory=lambda: Random(1))
    resets: int = 0
    _open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(default_factory=set)

    def reset_all(self) -> None:
        """Reset all open connections: those that are kept for later, and those of watches and of running requests."""
        for pair in tuple(self._open):
            self._reset(pair)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            reader_behind, writer_behind = await asyncio.open_connection("127.0.0.1", self.behind)
        except OSError:
            writer.close()
            return
        pair = writer, writer_behind
        self._open.add(pair)
        await asyncio.gather(self._pass(reader, writer_behind, pair), self._pass(reader_behind, writer, pair))
        self._open.discard(pair)

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        try:
            while data := await source.read(65536):
                if self.random.random() < self.share:
                    return self._reset(pair)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    def _reset(self, pair: tuple[asyncio.StreamWriter, ...]) -> None:
        self.resets += 1
        for writer in pair:
            with suppress(OSError, AttributeError):  # it is closed already
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


@asynccontextmanager
async def tls_in_front(port: int, presents: Pair) -> AsyncIterator[TlsFront]:
    """A server that speaks TLS in front of the plain server at ``port``."""
    front = TlsFront(behind=port)
    server = await asyncio.start_server(front.accept, "127.0.0.1", 0, ssl=presents.server_context())
    front.port = server.sockets[0].getsockname()[1]
    try:
        yield front
    finally:
        server.close()
        front.reset_all()
