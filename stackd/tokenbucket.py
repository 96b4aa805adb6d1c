"""A token bucket on its user's clock: for limits on callers, and for rate-limited work of the daemon."""

from __future__ import annotations

A_SECOND = 1.0
A_MINUTE = 60.0


class TokenBucket:
    """A token bucket: ``limit`` tokens per ``period`` seconds, refilled evenly.

    It holds at most the tokens of one period, but at least one, and starts full.
    """

    __slots__ = ("_left", "_since")

    def __init__(self, now: float, limit: float) -> None:
        self._left = max(1.0, limit)
        self._since = now

    def wait(self, now: float, limit: float, period: float) -> float:
        """0 if a token is left, otherwise the seconds until there is one."""
        left = self._refilled(now, limit, period)
        return (1.0 - left) * period / limit if left < 1.0 else 0.0

    def take(self, now: float, limit: float, period: float) -> float:
        """Take a token if one is left; returns what ``wait`` returns."""
        wait = self.wait(now, limit, period)
        if not wait:
            self._left, self._since = self._refilled(now, limit, period) - 1.0, now
        return wait

    def take_some(self, now: float, limit: float, period: float, most: int) -> int:
        """Take up to ``most`` tokens; returns how many were taken."""
        left = self._refilled(now, limit, period)
        taken = max(0, min(most, int(left)))
        self._left, self._since = left - taken, now
        return taken

    def _refilled(self, now: float, limit: float, period: float) -> float:
        return min(max(1.0, limit), self._left + (now - self._since) * limit / period)
