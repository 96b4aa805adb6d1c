"""When what can wait gives way to the creates that pools answer (claims), and how much of it is done at a time.

Owns: one rule for the refill and for annotating pods that were given away. Alone or at a steady rate claims leave gaps, and
what waits begins in those. A burst leaves none: what waits begins when it is over. Owns, too, how many stacks the refill makes
at a time, and how many the deleter ends: the emptier a pool that claims take from, the more of what the cluster can do is the
refill's. Nothing is held up for ever. Times are in monotonic seconds, and are the caller's.
"""

from __future__ import annotations

from collections import deque

CROWD = 10
CROWD_SECONDS = 0.1
"""So many claims within so many seconds are a burst."""

GAP_SECONDS = 0.002
"""When to look again while a claim is under way: it takes about one commit."""


AT_ONCE = 8
"""Creates of the refill that are under way at a time, of ``context.CREATES_AT_ONCE``: the others are for clients."""

AT_ONCE_NEARLY_FULL, NEARLY_FULL = 2, 0.75
"""The same while pools answer creates, for a pool that is at least so full: it has time."""

AT_ONCE_IN_TRAFFIC, HALF_FULL = 4, 0.5
"""The same for one that is less full than that, and at least so full."""

AT_ONCE_NEARLY_EMPTY, NEARLY_EMPTY = 24, 0.25
"""The same for one that is less full than that: what it cannot give, the cluster has to make for clients all the same."""

ENDS_AT_ONCE_IN_NEED = 4
"""So many stacks are ended at a time in the background while creates lack what the cluster can do."""

ENDS_HOLD_SECONDS = 10.0
"""So long at most an end gives way to creates: then it holds back ports and nodes as well."""

LOOK_SECONDS = 0.05
"""How often an end that gives way looks whether it may begin."""


def refills_at_once(full: float, *, traffic: bool) -> int:
    """How many stacks the refill makes at a time for a pool that is so full (0 to 1). Pure."""
    if not traffic:
        return AT_ONCE
    if full >= NEARLY_FULL:
        return AT_ONCE_NEARLY_FULL
    if full >= HALF_FULL:
        return AT_ONCE_IN_TRAFFIC
    return AT_ONCE if full >= NEARLY_EMPTY else AT_ONCE_NEARLY_EMPTY


class EndPace:
    """The ends of one daemon that nobody waits for: how many are under way, and when the next may begin."""

    def __init__(self) -> None:
        self.under_way = 0

    def wait(self, now: float, since: float, *, in_need: bool) -> float:
        """In how many seconds to look again whether an end may begin that is intended since then; 0: it may.

        ``in_need``: creates lack what the cluster can do.
        """
        if not in_need or self.under_way < ENDS_AT_ONCE_IN_NEED:
            return 0.0
        return max(0.0, min(LOOK_SECONDS, since + ENDS_HOLD_SECONDS - now))


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
