"""Certificates like those of clusters, made with openssl; of authorities with and without RFC 5280's extensions."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HAVE_OPENSSL = shutil.which("openssl") is not None
EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")
KEY = (*EC, "-nodes")
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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert, self.key)
        return context


def authority(folder: Path, name: str = "ca", extensions: Sequence[str] = COMPLETE) -> Pair:
    """A self-signed root certificate with exactly these extensions."""
    pair = Pair(cert=folder / f"{name}.crt", key=folder / f"{name}.key")
    config = _config(folder / f"{name}.cnf", extensions)
    _openssl(
        "req", "-x509", *KEY, "-config", config, "-subj", f"/CN={name}", "-days", "30",
        "-keyout", pair.key, "-out", pair.cert,
    )  # fmt: skip
    return pair


def issued(
    folder: Path,
    by: Pair,
    *,
    name: str = "server",
    host: str = "IP:127.0.0.1",
    days: int = 30,
    plain: bool = False,
) -> Pair:
    """A certificate for ``host``; ``plain``: without key identifiers. With zero or negative ``days`` it has expired."""
    pair = Pair(cert=folder / f"{name}.crt", key=folder / f"{name}.key")
    request = folder / f"{name}.csr"
    _openssl("req", "-new", *KEY, "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
    identifiers = NO_KEY_IDS if plain else ("subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
    extensions = _config(folder / f"{name}.cnf", (f"subjectAltName={host}", *identifiers))
    past = ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z")
    times: tuple[object, ...] = ("-days", days) if days > 0 else past
    _openssl(
        "x509", "-req", "-in", request, "-CA", by.cert, "-CAkey", by.key, "-CAcreateserial",
        "-extfile", extensions, "-extensions", "these", *times, "-out", pair.cert,
    )  # fmt: skip
    return pair


def _config(path: Path, extensions: Sequence[str]) -> Path:
    lines = ["[req]", "distinguished_name = name", "x509_extensions = these", "[name]", "[these]", *extensions]
    path.write_text("\n".join(lines) + "\n")
    return path


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


def self_signed(folder: Path, name: str = "one", *, days: int = 90, kind: tuple[str, ...] = EC) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", days)
    _openssl("req", "-x509", *kind, "-nodes", "-keyout", key, "-out", cert, *subject)
    return str(cert), str(key)


def trusting(*certs: str) -> ssl.SSLContext:
    client = ssl.create_default_context()
    for cert in certs:
        client.load_verify_locations(cert)
    client.set_alpn_protocols(["h2", "http/1.1"])
    return client
