"""Clocks that can be passed in (the daemon uses the system's, tests their own), and times as text.

Owns: RFC 3339 as the API, Kubernetes and our records write it, to and from nanoseconds since the Unix epoch. Owns, too,
whether the machine's clock can be trusted, by the ``Date`` of the API server's responses and by the monotonic clock, which
shows whether it was set; and the time that is written while it is not, so that nothing is wrong once the clock is corrected.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

NANOSECONDS: Final = 1_000_000_000
DAY_SECONDS: Final = 86400.0
_FRACTION_DIGITS: Final = 9

BOOT_VARIABLE = "STACKD_BOOT_ID"


def has_passed(now: int, since: int, nanoseconds: int) -> bool:
    """Whether so much time has passed since then. If the clock was set back further than that, it has: nothing waits for as
    long as that was."""
    return abs(now - since) >= nanoseconds


class Clock(Protocol):
    """Wall-clock and monotonic time."""

    def now(self) -> int:
        """Nanoseconds since the Unix epoch (UTC). May jump."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back, and goes on while the machine is suspended; only differences mean
        anything."""


boottime: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds since the machine booted, including the time while it was suspended."""


class SystemClock:
    """The machine's clocks. By CLOCK_MONOTONIC, each resume would look as if the wall clock was set."""

    now = staticmethod(time.time_ns)
    monotonic = staticmethod(boottime)


def boot_id() -> str:
    """The id of this boot, unique among all boots of all machines; empty if it is unknown.

    The service's sandbox hides the file, so the unit passes the id in the environment (``%b``).
    """
    text = os.environ.get(BOOT_VARIABLE, "")
    if not text:
        try:
            text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
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
    text = to_the_second(seconds)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


@lru_cache(maxsize=4096)
def to_the_second(seconds: int) -> str:
    """``2026-02-10T02:02:26``, in UTC; cached, because much is created, logged and expires in the same second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _whole_seconds(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"not an RFC 3339 time (no offset): {text!r}")
    return int(moment.timestamp()) * NANOSECONDS


def utc_minute(seconds: float) -> str:
    """Seconds since the epoch → ``2026-11-25 17:29 UTC``, for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


# ---- whether the machine's clock can be trusted

SKEW_SECONDS = 60.0  # by how much this machine's clock and the API server's may differ
JUMP_SECONDS = 5.0
"""Between two responses the wall clock and the monotonic one drift apart by less, unless the former is set."""


class WallClock:
    """The wall clock, which the API server confirms or not.

    ``sudden_until`` is the time (nanoseconds) to which the clock was set forward: a stack whose end is not later may
    have expired only because of that; 0 if it never was. ``changed`` is set when the clock is confirmed for the first
    time, and each time when it is confirmed after it was set; whoever has acted on it clears it. ``asked_at``: when
    (monotonic seconds) the API server was last asked for its time.
    """

    def __init__(self, clock: Clock) -> None:
        self.sudden_until = 0
        self.changed = False
        self.asked_at = -math.inf
        self.clock = clock
        # How far the wall clock was ahead of the monotonic one: when confirmed, at the last response, when last right.
        self._confirmed: float | None = None
        self._seen: float | None = None
        self._right: float | None = None
        self._skew = 0.0
        self._never_agreed = True

    def now(self) -> int:
        """Nanoseconds since the epoch, by the machine's clock while it is trusted. Otherwise by the monotonic clock
        since the two clocks last agreed; if they never did, since the API server's last ``Date``."""
        now = self.clock.now()
        if self._right is None or self._agrees(now):
            return now
        return round((self._right + self.clock.monotonic()) * NANOSECONDS)

    def monotonic(self) -> float:
        return self.clock.monotonic()

    @property
    def trusted(self) -> bool:
        """Whether the API server agrees with the clock, and the clock was not set since then."""
        return self._agrees(self.clock.now())

    def trusted_now(self) -> int | None:
        """The machine's clock (nanoseconds), None if it is not ``trusted``."""
        now = self.clock.now()
        return now if self._agrees(now) else None

    def why_untrusted(self) -> str:
        """Why the clock is not trusted, in a sentence; empty if it is, and before the API server's first response."""
        now = self.clock.now()
        if self._seen is None or self._agrees(now):
            return ""
        jump = self._ahead(now) - self._seen
        if abs(jump) >= JUMP_SECONDS:
            return f"the clock of this machine was set by {jump:+.0f} s: no stack expires until the API server's time agrees"
        return (
            f"the clock of this machine is {abs(self._skew):.0f} s {'ahead of' if self._skew > 0 else 'behind'} the API "
            "server's: no stack expires until they agree; set it right, and keep both with NTP"
        )

    def observe_date(self, date: str, seconds: float) -> None:
        """The API server has just answered a request that took ``seconds`` with this ``Date``; a response without a
        valid date does not count against the clock."""
        now = self.clock.now()
        ahead, skew = self._ahead(now), _skew(now / NANOSECONDS, seconds, date)
        if skew is None:
            if self._seen is None:
                self._confirm(ahead)
                self._never_agreed = True  # no response has confirmed it
            return
        before, self._skew = self.why_untrusted(), skew
        seen, self._seen = self._seen, ahead
        if abs(skew) > SKEW_SECONDS:
            if self._never_agreed:
                self._right = ahead - skew
            self._confirmed = None
            if (why := self.why_untrusted()) and not before:
                log.error("%s", why)
            return
        if seen is not None and ahead - seen >= JUMP_SECONDS:
            self.sudden_until = now
        self.sudden_until = min(self.sudden_until, now)
        if before:
            log.warning("the clock of this machine and the API server's agree again")
        self._confirm(ahead)

    def _confirm(self, ahead: float) -> None:
        if self._confirmed is None or abs(ahead - self._confirmed) >= JUMP_SECONDS:
            self.changed = True
        self._confirmed = self._seen = self._right = ahead
        self._never_agreed = False

    def _agrees(self, now: int) -> bool:
        return self._confirmed is not None and abs(self._ahead(now) - self._confirmed) < JUMP_SECONDS

    def _ahead(self, now: int) -> float:
        """How far the wall clock, just read as ``now``, is ahead of the monotonic one. One decision uses one reading."""
        return now / NANOSECONDS - self.clock.monotonic()


@lru_cache(maxsize=2)  # a busy second has many equal dates
def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _skew(now: float, seconds: float, date: str) -> float | None:
    """By how many seconds the clock is at least ahead of ``date``, which was written during the request; None for no date."""
    if (sent := _seconds(date)) is None:
        return None
    return now - seconds - sent - 1 if now - seconds > sent + 1 else min(0.0, now - sent)
