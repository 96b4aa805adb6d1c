"""What time it is, and what time a machine takes it to be: both can be set, through sixteen bytes in a shared file.

Owns the offsets: of the time itself, which the API server has, too; and by how much the daemon's machine is wrong about it.
Monotonic clocks are not touched, as on a machine whose time is set.
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
    """The time, in nanoseconds. ``leaps``: by so much has it moved on in no time; ``changes``: so often was a clock set."""

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
        """How far the time is ahead of this machine's."""
        offset: int = _OFFSETS.unpack_from(self._memory)[0]
        return offset

    @property
    def wrong(self) -> int:
        """How far the daemon's machine is ahead of the time."""
        wrong: int = _OFFSETS.unpack_from(self._memory)[1]
        return wrong

    def jump(self, seconds: float) -> None:
        """Let it be later, or earlier."""
        self._highest = self.highest()
        self.leaps += max(0, round(seconds * _NANOSECONDS))
        self.changes += 1
        _OFFSETS.pack_into(self._memory, 0, self.offset + round(seconds * _NANOSECONDS), self.wrong)

    def set_wrong(self, seconds: float) -> None:
        """Let the daemon's machine be so far ahead; 0: it is right."""
        self.changes += 1
        _OFFSETS.pack_into(self._memory, 0, self.offset, round(seconds * _NANOSECONDS))

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return _real_time_ns() + self.offset

    def on_machine(self) -> int:
        """What the daemon's machine takes for now."""
        return self.now() + self.wrong

    def highest(self) -> int:
        """The latest time that it has ever been."""
        return max(self._highest, self.now())


def install(path: str) -> None:
    """Let this process read its wall clock there: ``time``, and APScheduler, which asks ``datetime``."""
    from apscheduler.schedulers import base

    skew = Skew(Path(path))

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(skew.on_machine() / _NANOSECONDS, tz)

    time.time_ns = skew.on_machine
    time.time = lambda: skew.on_machine() / _NANOSECONDS
    base.datetime = Skewed
