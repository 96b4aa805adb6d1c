"""Time for the embedded cluster: timestamps, and a clock with delays that can be passed in. Does not know objects."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import Protocol


class DelayingClock(Protocol):
    """Wall-clock time and delays."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` from the event loop after `seconds`; 0 means soon, but never immediately."""


class LoopClock:
    """The machine's time and the running event loop's timers."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Schedule the call on the running loop."""
        loop = asyncio.get_running_loop()
        if seconds > 0:
            loop.call_later(seconds, action)
        else:
            loop.call_soon(action)


class ManualClock:
    """A clock that moves only by `advance`. Zero delays still go to the event loop, so that responses come first."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """The clock's current time."""
        return self._now

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Keep the call until `advance` reaches its time; schedule a zero delay on the running loop."""
        if seconds > 0:
            heapq.heappush(self._due, (self._now + seconds, next(self._order), action))
        else:
            asyncio.get_running_loop().call_soon(action)

    def advance(self, seconds: float) -> None:
        """Move the clock, and make every call that becomes due, each at its own time."""
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            self._now, _, action = heapq.heappop(self._due)
            action()
        self._now = end


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes `metav1.Time`."""
    return _timestamp(int(seconds))


@lru_cache(maxsize=64)
def _timestamp(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def http_date(seconds: float) -> str:
    """The time in the form of the `Date` header."""
    return _http_date(int(seconds))


@lru_cache(maxsize=64)
def _http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def micro_timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with six fraction digits, as Kubernetes writes `metav1.MicroTime`."""
    return f"{timestamp(seconds)[:-1]}.{int(seconds % 1 * 1_000_000):06d}Z"
