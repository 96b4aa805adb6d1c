"""Clocks that can be passed in (the daemon uses the system's, tests their own), and times as text.

Owns: RFC 3339 as the API, Kubernetes and our records write it, to and from nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

NANOSECONDS: Final = 1_000_000_000
DAY_SECONDS: Final = 86400.0
_FRACTION_DIGITS: Final = 9

BOOT_VARIABLE = "STACKD_BOOT_ID"
_BOOT_FILE = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """Wall-clock and monotonic time."""

    def now(self) -> int:
        """Nanoseconds since the Unix epoch (UTC). May jump."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()


def boottime() -> float:
    """Seconds since the machine booted, including the time while it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id(environ: Mapping[str, str] = os.environ, file: Path = _BOOT_FILE) -> str:
    """The id of this boot, unique among all boots of all machines; empty if it is unknown.

    The service's sandbox hides the file, so the unit passes the id in the environment (``%b``).
    """
    text = environ.get(BOOT_VARIABLE, "")
    if not text:
        try:
            text = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""
    return text.strip().replace("-", "").lower()


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
    """Cached, because many stacks are created, and expire, in the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _whole_seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not an RFC 3339 time (no offset): {text!r}")
    return int(moment.timestamp()) * NANOSECONDS


def utc_minute(seconds: float) -> str:
    """Seconds since the epoch → ``2026-11-25 17:29 UTC``, for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
