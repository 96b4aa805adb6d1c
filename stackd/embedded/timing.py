"""Time for the embedded cluster: timestamps, and a clock with delays that can be passed in. Does not know objects."""

from __future__ import annotations

import asyncio
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
