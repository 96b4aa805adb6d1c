"""How long to go on, and how long to wait in between."""

from __future__ import annotations

import asyncio
import random


class Deadline:
    """A point in time, ``seconds`` from its making, on the event loop's clock."""

    __slots__ = ("_at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at = asyncio.get_running_loop().time() + seconds

    @property
    def spent(self) -> float:
        """Seconds since its making."""
        return self.seconds - (self._at - asyncio.get_running_loop().time())

    @property
    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self._at - asyncio.get_running_loop().time())


class Backoff:
    """Pauses that double, each a random share of its bound, so that many who wait do not come back at once."""

    __slots__ = ("_bound", "_first", "_most")

    def __init__(self, *, first: float, most: float) -> None:
        self._first = self._bound = first
        self._most = most

    def pause(self, at_least: float = 0.0) -> float:
        """The next pause in seconds; between half of its bound and all of it, and ``at_least`` so long."""
        seconds = self._bound * random.uniform(0.5, 1.0)
        self._bound = min(self._most, self._bound * 2)
        return max(at_least, seconds)

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._bound = self._first
