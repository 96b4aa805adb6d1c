"""A wall clock that can be set: of one process, by another one, through eight bytes in a shared file.

Owns the offset. Monotonic clocks are not touched, as on a machine whose time is set.
"""

from __future__ import annotations

import mmap
import struct
import time
from datetime import datetime, tzinfo
from pathlib import Path

_OFFSET = struct.Struct("<q")
_NANOSECONDS = 1_000_000_000
_real_time_ns = time.time_ns


class Skew:
    """The offset of a clock, in nanoseconds."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _OFFSET.size)
        self._highest = 0

    @property
    def offset(self) -> int:
        """How far the clock is ahead of the machine's."""
        offset: int = _OFFSET.unpack_from(self._memory)[0]
        return offset

    def jump(self, seconds: float) -> None:
        """Set the clock forward, or back."""
        self._highest = self.highest()
        _OFFSET.pack_into(self._memory, 0, self.offset + round(seconds * _NANOSECONDS))

    def now(self) -> int:
        """Nanoseconds since the epoch, on this clock."""
        return _real_time_ns() + self.offset

    def highest(self) -> int:
        """The latest time that it has ever shown."""
        return max(self._highest, self.now())


def install(path: str) -> None:
    """Let this process read its wall clock there: ``time``, and APScheduler, which asks ``datetime``."""
    from apscheduler.schedulers import base

    skew = Skew(Path(path))

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(skew.now() / _NANOSECONDS, tz)

    time.time_ns = skew.now
    time.time = lambda: skew.now() / _NANOSECONDS
    base.datetime = Skewed
