"""The true time, and the time of the daemon's machine: both can be set, through sixteen bytes in a shared file.

The API server has the true time. Monotonic clocks are not changed, as on a machine whose time is set.
"""

from __future__ import annotations

import mmap
import struct
import time
from datetime import datetime, tzinfo
from pathlib import Path

_OFFSETS = struct.Struct("<qq")
_SECOND = 10**9
_real_time_ns = time.time_ns


class Skew:
    """Times are nanoseconds; ``leaps``: the sum of all leaps ahead; ``changes``: how often a clock was set."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSETS.pack(0, 0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSETS.size)
        self._highest = 0
        self.leaps = 0
        self.changes = 0

    def jump(self, seconds: float) -> None:
        self._highest = self.highest()
        self.leaps += max(0, round(seconds * _SECOND))
        offset, wrong = self._offsets()
        self._set(offset + round(seconds * _SECOND), wrong)

    def set_wrong(self, seconds: float) -> None:
        """Set the clock of the daemon's machine ahead by this much; 0 makes it right."""
        self._set(self._offsets()[0], round(seconds * _SECOND))

    def now(self) -> int:
        return _real_time_ns() + self._offsets()[0]

    def on_machine(self) -> int:
        return _real_time_ns() + sum(self._offsets())

    def highest(self) -> int:
        return max(self._highest, self.now())

    def _offsets(self) -> tuple[int, int]:
        """How far the true time is ahead of this machine's, and the daemon's machine of the true time."""
        offset, wrong = _OFFSETS.unpack_from(self._memory)
        return offset, wrong

    def _set(self, offset: int, wrong: int) -> None:
        self.changes += 1
        _OFFSETS.pack_into(self._memory, 0, offset, wrong)


def install(path: str) -> None:
    """Let this process take its wall clock from there: ``time``, and ``datetime`` in APScheduler."""
    from apscheduler.schedulers import base

    from stackd.clock import SystemClock

    skew = Skew(Path(path))

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(skew.on_machine() / _SECOND, tz)

    time.time_ns = skew.on_machine
    SystemClock.now = staticmethod(skew.on_machine)
    time.time = lambda: skew.on_machine() / _SECOND
    base.datetime = Skewed
