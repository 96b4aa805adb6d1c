"""RFC 3339 times as the API, Kubernetes and our records write them, to and from nanoseconds since the Unix epoch."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from stackd.clock import NANOSECONDS

_FRACTION_DIGITS = 9


@lru_cache(maxsize=4096)
def to_nanoseconds(text: str) -> int:
    """``2026-02-10T02:02:26.535664123Z`` → nanoseconds; keeps all nine digits. Raises ValueError."""
    head, dot, tail = text.partition(".")
    if not dot:
        return _whole_seconds(text)
    digits = len(tail) - len(tail.lstrip("0123456789"))
    fraction = tail[:digits]
    if not 1 <= digits <= _FRACTION_DIGITS:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    return _whole_seconds(head + tail[digits:]) + int(fraction.ljust(_FRACTION_DIGITS, "0"))


def from_nanoseconds(nanoseconds: int) -> str:
    """Nanoseconds → RFC 3339 in UTC with up to nine fraction digits, trailing zeros removed."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    text = _second(seconds)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Stacks are created, and expire, many in the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _whole_seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not an RFC 3339 time (no offset): {text!r}")
    return int(moment.timestamp()) * NANOSECONDS
