"""How busy the machine's CPUs are while a row is measured."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """CPU seconds of the machine: those used, and all."""

    used: float = 0.0
    all: float = 0.0

    def __add__(self, other: Busy) -> Busy:
        return Busy(used=self.used + other.used, all=self.all + other.all)

    def __sub__(self, other: Busy) -> Busy:
        return Busy(used=self.used - other.used, all=self.all - other.all)

    @property
    def share(self) -> float:
        """From 0 to 1; 1 means that all CPUs were busy all the time."""
        return self.used / self.all if self.all else 0.0

    @classmethod
    def now(cls) -> Busy:
        """The CPU seconds since the machine was started."""
        times = psutil.cpu_times()
        # the time of guests is part of the user time already
        spent = sum(times) - sum(getattr(times, name, 0.0) for name in ("guest", "guest_nice"))
        return cls(used=spent - times.idle - getattr(times, "iowait", 0.0), all=spent)
