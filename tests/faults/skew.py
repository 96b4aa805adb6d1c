"""The true time, and the time of the daemon's machine: both can be set, through sixteen bytes in a shared file.

Owns: two offsets: of the true time, which the API server has, and of the daemon's machine from the true time. Monotonic
clocks are not changed, as on a machine whose time is set.
"""

from __future__ import annotations

import mmap
import struct
import time
from datetime import datetime, tzinfo
from pathlib import Path

_OFFSETS = struct.Struct("<qq")
_NANOSECONDS = 1_000_000_000
_real_time_ns = time.time_ns


class Skew:
    """The time in nanoseconds; ``leaps``: the sum of all leaps ahead; ``changes``: how often a clock was set."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSETS.pack(0, 0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSETS.size)
        self._highest = 0
        self.leaps = 0
        self.changes = 0

    @property
    def offset(self) -> int:
        """How far the true time is ahead of this machine's clock."""
        offset: int = _OFFSETS.unpack_from(self._memory)[0]
        return offset

    @property
    def wrong(self) -> int:
        """How far the clock of the daemon's machine is ahead of the true time."""
        wrong: int = _OFFSETS.unpack_from(self._memory)[1]
        return wrong

    def jump(self, seconds: float) -> None:
        """Move the true time forward or back."""
        self._highest = self.highest()
        self.leaps += max(0, round(seconds * _NANOSECONDS))
        self.changes += 1
        _OFFSETS.pack_into(self._memory, 0, self.offset + round(seconds * _NANOSECONDS), self.wrong)

    def set_wrong(self, seconds: float) -> None:
        """Set the clock of the daemon's machine ahead by this much; 0 makes it right."""
        self.changes += 1
        _OFFSETS.pack_into(self._memory, 0, self.offset, round(seconds * _NANOSECONDS))

    def now(self) -> int:
        """The true time in nanoseconds since the epoch."""
        return _real_time_ns() + self.offset

    def on_machine(self) -> int:
        """The time of the daemon's machine."""
        return self.now() + self.wrong

    def highest(self) -> int:
        """The latest true time so far."""
        return max(self._highest, self.now())


def install(path: str) -> None:
    """Let this process take its wall clock from there: ``time``, and ``datetime`` in APScheduler."""
    from apscheduler.schedulers import base

    skew = Skew(Path(path))

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(skew.on_machine() / _NANOSECONDS, tz)

    time.time_ns = skew.on_machine
    time.time = lambda: skew.on_machine() / _NANOSECONDS
    base.datetime = Skewed
