"""A token bucket, on a clock that its users name: for limits on callers, and for what the daemon does at a pace."""

from __future__ import annotations

A_SECOND = 1.0
A_MINUTE = 60.0


class TokenBucket:
    """A token bucket: an allowance of ``limit`` in ``period`` seconds that refills evenly.

    It holds what the limit gives in one period, and at least one; it begins with the first limit, full.
    """

    __slots__ = ("_left", "_since")

    def __init__(self, now: float, limit: float) -> None:
        self._left = max(1.0, limit)
        self._since = now

    def wait(self, now: float, limit: float, period: float) -> float:
        """0 if there is one left, or the seconds until there is one again."""
        left = self._refilled(now, limit, period)
        return (1.0 - left) * period / limit if left < 1.0 else 0.0

    def take(self, now: float, limit: float, period: float) -> float:
        """Take one if there is one left; returns what ``wait`` returns."""
        wait = self.wait(now, limit, period)
        if not wait:
            self._left, self._since = self._refilled(now, limit, period) - 1.0, now
        return wait

    def take_some(self, now: float, limit: float, period: float, most: int) -> int:
        """Take as many of ``most`` as are left; how many that are."""
        left = self._refilled(now, limit, period)
        taken = max(0, min(most, int(left)))
        self._left, self._since = left - taken, now
        return taken

    def _refilled(self, now: float, limit: float, period: float) -> float:
        return min(max(1.0, limit), self._left + (now - self._since) * limit / period)
