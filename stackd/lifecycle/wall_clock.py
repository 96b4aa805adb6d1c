"""Whether the wall clock can be trusted, because expiry by it cannot be undone.

Owns the comparison of the machine's clock with the API server's (the ``Date`` of its responses) and with the monotonic
clock, which shows between two responses whether the wall clock was set. Owns, too, the time that is used while the
machine's clock is not trusted, so that nothing is written that would be wrong once it is corrected. Does not know what
is held back meanwhile.
"""

from __future__ import annotations

import logging
from email.utils import parsedate_to_datetime
from functools import lru_cache

from stackd.clock import NANOSECONDS, Clock

log = logging.getLogger(__name__)

SKEW_SECONDS = 60.0
"""By how much this machine's clock and the API server's may differ."""

JUMP_SECONDS = 5.0
"""Between two responses the wall clock and the monotonic one drift apart by less, unless the former is set."""


class WallClock:
    """The wall clock, which the API server confirms or not.

    ``sudden_until`` is the time (nanoseconds) to which the clock was set forward: a stack whose end is not later may
    have expired only because of that; 0 if it never was. ``changed`` is set when the clock is confirmed for the first
    time, and each time when it is confirmed after it was set; whoever has acted on it clears it.
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
        """Nanoseconds since the epoch, by the machine's clock while it is trusted. Otherwise by the monotonic clock
        since the two clocks last agreed; if they never did, since the API server's last ``Date``.
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
        """Whether the API server agrees with the clock, and the clock was not set since then."""
        return self._agrees(self._clock.now())

    def trouble(self) -> str:
        """Why the clock is not trusted, in a sentence; empty if it is, and before the API server's first response."""
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
        """The API server has just answered a request that took ``seconds`` with this ``Date``; a response without a
        valid date does not count against the clock."""
        now = self._clock.now()
        ahead, skew = self._ahead(now), _skew(now / NANOSECONDS, seconds, date)
        if skew is None:
            if self._seen is None:
                self._confirm(ahead)
                self._never_agreed = True  # no response has confirmed it
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
        """How far the wall clock, just read as ``now``, is ahead of the monotonic clock.

        One decision uses one reading: the clock may be set between two readings.
        """
        return now / NANOSECONDS - self._clock.monotonic()


def _skew(now: float, seconds: float, date: str) -> float | None:
    """By how many seconds the clock is at least ahead of ``date`` (negative: behind), which has whole seconds.

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
    """The date in seconds since the epoch, None if invalid; cached, because a busy second has many equal dates."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
