"""When what can wait gives way to the creates that pools answer (claims).

Owns: one rule for the refill and for telling pods that they were given away. Alone or at a steady rate claims leave gaps, and
what waits begins in those. A burst leaves none: what waits begins when it is over. Nothing is held up for ever. Times are
in monotonic seconds, and are the caller's.
"""

from __future__ import annotations

from collections import deque

CROWD = 10
CROWD_SECONDS = 0.1
"""So many claims within so many seconds are a burst."""

GAP_SECONDS = 0.002
"""When to look again while a claim is under way: it takes about one commit."""


class ClaimPace:
    """The claims of one daemon: how many are under way, and when the latest came."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=CROWD)
        self._under_way = 0

    def begun(self, now: float) -> None:
        """A claim has come; ``ended`` is owed for it."""
        self._under_way += 1
        self._latest.append(now)

    def ended(self) -> None:
        """It has been answered."""
        self._under_way -= 1

    def wait(self, now: float, since: float, hold: float) -> float:
        """In how many seconds something may begin that waits since then, 0 for now; ``hold`` seconds are the most it waits."""
        pause = max(GAP_SECONDS if self._under_way else 0.0, self._burst_ends(now))
        return max(0.0, min(pause, since + hold - now))

    def traffic(self, now: float) -> bool:
        """Whether a claim is under way or came just now."""
        return bool(self._under_way or (self._latest and now - self._latest[-1] < CROWD_SECONDS))

    def _burst_ends(self, now: float) -> float:
        """In how many seconds the present burst is over if no other claim comes; 0 where there is none."""
        if len(self._latest) < CROWD or self._latest[-1] - self._latest[0] >= CROWD_SECONDS:
            return 0.0
        return self._latest[-1] + CROWD_SECONDS - now
