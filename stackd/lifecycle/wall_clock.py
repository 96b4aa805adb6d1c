"""Whether the wall clock can be trusted: what expires by it cannot be undone.

Owns the comparison of the machine's clock with the API server's (the ``Date`` of its answers) and with the monotonic one,
which shows between two answers that the former was set; and what time it is as long as the machine's clock is not believed,
so that nothing is written by it that would be wrong when it has been put right. Does not know what is held back meanwhile.
"""

from __future__ import annotations

import logging
from email.utils import parsedate_to_datetime
from functools import lru_cache

from stackd.clock import NANOSECONDS, Clock

log = logging.getLogger(__name__)

SKEW_SECONDS = 60.0
"""This machine and the API server may differ by so much."""

JUMP_SECONDS = 5.0
"""The wall clock and the monotonic one drift apart by less than that between two answers, unless the former is set."""


class WallClock:
    """Confirmed by the API server, or not.

    ``sudden_until`` is the time (nanoseconds) to which the clock was set forward: what ends by then may be due only
    because of that; 0 if it never was. ``changed`` is set when the clock is confirmed for the first time, and each time
    that it is confirmed after it was set; whoever has acted upon that clears it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._confirmed: float | None = None
        self._seen: float | None = None
        self._right: float | None = None
        self._skew = 0.0
        self._never_agreed = True
        self.sudden_until = 0
        self.changed = False

    def now(self) -> int:
        """Nanoseconds since the epoch: by the machine's clock while it is believed, else by the monotonic one since the two
        clocks last agreed; where they never did, by what the API server last told.
        """
        now = self._clock.now()
        if self._right is None or self._agrees(now):
            return now
        return round((self._right + self._clock.monotonic()) * NANOSECONDS)

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._clock.monotonic()

    @property
    def trusted(self) -> bool:
        """Whether the API server agrees with the clock, and it was not set since then."""
        return self._agrees(self._clock.now())

    def trouble(self) -> str:
        """Why the clock is not trusted, in a sentence; empty while it is, and before the API server's first answer."""
        now = self._clock.now()
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
        """The API server has just answered a request of so many seconds with this ``Date``; one without it says nothing
        against the clock."""
        now = self._clock.now()
        ahead, skew = self._ahead(now), _skew(now / NANOSECONDS, seconds, date)
        if skew is None:
            if self._seen is None:
                self._confirm(ahead)
                self._never_agreed = True  # nobody has said so
            return
        before, self._skew = self.trouble(), skew
        seen, self._seen = self._seen, ahead
        if abs(skew) > SKEW_SECONDS:
            if self._never_agreed:
                self._right = ahead - skew
            self._confirmed = None
            if (trouble := self.trouble()) and not before:
                log.error("%s", trouble)
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
        """How far the wall clock, which has just been read, is ahead of the monotonic one.

        It is read once for all that is decided by it: it may be set between two readings.
        """
        return now / NANOSECONDS - self._clock.monotonic()


def _skew(now: float, seconds: float, date: str) -> float | None:
    """By how much the clock is at least ahead of the date's (negative: behind it), which is told to the second.

    The date was written at some moment of the request.
    """
    told = _seconds(date)
    if told is None:
        return None
    if now - seconds > told + 1:
        return now - seconds - told - 1
    return min(0.0, now - told)


@lru_cache(maxsize=2)
def _seconds(date: str) -> float | None:
    """The date in seconds since the epoch, None if it is none; a busy second has many answers with the same one."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
