"""Reads when a certificate becomes valid and expires. Python's ``ssl`` reports that of a peer's certificate only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stackd.clock import DAY_SECONDS

WARN_SECONDS: Final = 14 * DAY_SECONDS
"""How long before a certificate or token expires stackd warns about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The first and the last moment of validity, in seconds since the epoch."""

    begins: float
    ends: float


def validity(path: Path) -> Validity:
    """The validity of the first certificate in a PEM file. Raises OSError or ValueError."""
    from cryptography import x509  # six megabytes, which a stackd without certificates does without

    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Validity(begins=begins.timestamp(), ends=ends.timestamp())
