"""The time of everything in a world: it can be set ahead, through eight bytes in a shared file.

Monotonic clocks are not changed, as on a machine whose time is set.
"""

from __future__ import annotations

import mmap
import struct
import time
from datetime import datetime, tzinfo
from pathlib import Path

_OFFSET = struct.Struct("<q")
_SECOND = 10**9
_real_time_ns = time.time_ns


class Skew:
    """Times are nanoseconds; ``leaps``: the sum of all leaps ahead."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSET.size)
        self.leaps = 0

    def jump(self, seconds: float) -> None:
        self.leaps += round(seconds * _SECOND)
        _OFFSET.pack_into(self._memory, 0, self.leaps)

    def now(self) -> int:
        return _real_time_ns() + int(_OFFSET.unpack_from(self._memory)[0])


def install(path: str) -> None:
    """Let this process take its wall clock from there: ``time``, and ``datetime`` in APScheduler."""
    from apscheduler.schedulers import base

    from stackd.clock import SystemClock

    skew = Skew(Path(path))

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(skew.now() / _SECOND, tz)

    time.time_ns = skew.now
    SystemClock.now = staticmethod(skew.now)
    time.time = lambda: skew.now() / _SECOND
    base.datetime = Skewed
