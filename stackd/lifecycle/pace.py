"""When the refill yields to the creates that pools answer (assigns), and how many stacks it makes at a time.

Owns: when the refill begins. Single or steady assigns leave gaps, in which it begins. A burst leaves no gaps: it begins
when the burst is over. Owns, too, how many stacks the refill makes at a time: the emptier a pool that creates take
from, the larger the refill's share of the cluster's capacity. Nothing waits for ever. Times are in monotonic seconds,
and are passed in by the caller.
"""

from __future__ import annotations

from collections import deque

CROWD = 10
CROWD_SECONDS = 0.1
"""This many assigns within this many seconds are a burst."""

GAP_SECONDS = 0.002
"""When to check again while an assign is under way: it takes about one commit and one patch."""


AT_ONCE = 8
"""How many creates of the refill run at a time, of ``context.CREATES_AT_ONCE``: the others are for clients."""

AT_ONCE_NEARLY_FULL, NEARLY_FULL = 2, 0.75
"""The same while pools answer creates, for a pool that is at least this full: it has time."""

AT_ONCE_IN_TRAFFIC, HALF_FULL = 4, 0.5
"""The same for a pool that is less full than that, but at least this full."""

AT_ONCE_NEARLY_EMPTY, NEARLY_EMPTY = 24, 0.25
"""The same for a pool that is less full than this: what it cannot give, the cluster has to make for clients anyway."""


def refills_at_once(full: float, *, traffic: bool) -> int:
    """How many stacks the refill makes at a time for a pool that is filled to the share ``full`` (0 to 1). Pure."""
    if not traffic:
        return AT_ONCE
    if full >= NEARLY_FULL:
        return AT_ONCE_NEARLY_FULL
    if full >= HALF_FULL:
        return AT_ONCE_IN_TRAFFIC
    return AT_ONCE if full >= NEARLY_EMPTY else AT_ONCE_NEARLY_EMPTY


class AssignPace:
    """The assigns of one daemon: how many are under way, and when the latest came."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=CROWD)
        self._under_way = 0

    def begun(self, now: float) -> None:
        """A create looks for a stack in a pool; the caller must call ``done`` for it."""
        self._under_way += 1
        self._latest.append(now)

    def done(self) -> None:
        """It has got a stack or found none."""
        self._under_way -= 1

    def wait(self, now: float, since: float, longest: float) -> float:
        """In how many seconds work that waits since ``since`` may begin (0: now); it never waits beyond ``longest``."""
        pause = max(GAP_SECONDS if self._under_way else 0.0, self._burst_ends(now))
        return max(0.0, min(pause, since + longest - now))

    def traffic(self, now: float) -> bool:
        """Whether an assign is under way or came just now."""
        return bool(self._under_way or (self._latest and now - self._latest[-1] < CROWD_SECONDS))

    def _burst_ends(self, now: float) -> float:
        """In how many seconds the current burst is over if no other assign comes; 0 if there is none."""
        if len(self._latest) < CROWD or self._latest[-1] - self._latest[0] >= CROWD_SECONDS:
            return 0.0
        return self._latest[-1] + CROWD_SECONDS - now
