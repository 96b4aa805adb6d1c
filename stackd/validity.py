"""Reads when a certificate becomes valid and expires. Python's ``ssl`` reports that of a peer's certificate only.

Owns: parsing DER up to a certificate's validity (RFC 5280, section 4.1). Does not check the certificate.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from stackd.clock import DAY_SECONDS

BEGIN: Final = "-----BEGIN CERTIFICATE-----"
END: Final = "-----END CERTIFICATE-----"
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
WARN_SECONDS: Final = 14 * DAY_SECONDS
"""How long before a certificate or token expires stackd warns about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The first and the last moment of validity, in seconds since the epoch."""

    begins: float
    ends: float


def validity(path: Path) -> Validity:
    """The validity of the first certificate in a PEM file. Raises OSError or ValueError."""
    _, begin, rest = path.read_text(encoding="latin-1").partition(BEGIN)
    body, end, _ = rest.partition(END)
    if not begin or not end:
        raise ValueError("there is no PEM certificate in the file")
    try:
        (_, certificate), *_ = _items(ssl.PEM_cert_to_DER_cert(begin + body + end))
        (_, signed), *_ = _items(certificate)
        fields = [item for item in _items(signed) if item[0] != _VERSION]
        times = [_moment(tag, value) for tag, value in _items(fields[3][1])]
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("this is not a certificate") from error
    return Validity(begins=times[0], ends=times[1])


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and values of consecutive DER items."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        yield tag, data[at : at + length]
        at += length


def _moment(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
