"""Time, as something that can be handed in: the daemon gets the system's, tests their own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

NANOSECONDS = 1_000_000_000


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
    """Seconds since the machine's start, those among them in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id(environ: Mapping[str, str] = os.environ, file: Path = _BOOT_FILE) -> str:
    """What tells this start of this machine from every other one of any machine; empty where that is not known.

    The service's sandbox hides the file, so that the unit hands the id over (``%b``).
    """
    given = environ.get(BOOT_VARIABLE, "")
    if not given:
        try:
            given = file.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""
    return given.strip().replace("-", "").lower()
