"""Time, as something that can be handed in: the daemon gets the system's, tests their own."""

from __future__ import annotations

import time
from typing import Protocol

NANOSECONDS = 1_000_000_000


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
