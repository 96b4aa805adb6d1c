"""What may end stacks unasked: the brake of invariant 8, and the wall clock, by which expiry cannot be undone.

Owns: how many unrequested endings are too many, and the operator's confirmation; whether the machine's clock can be
trusted, by the ``Date`` of the API server's responses and by the monotonic clock, which shows whether it was set; and the
time that is written while it is not, so that nothing is wrong once the clock is corrected.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache

from stackd.clock import NANOSECONDS, Clock

log = logging.getLogger(__name__)

FREE_ENDINGS = 10  # up to this many unrequested endings are never held back
WINDOW_SECONDS = 60.0  # unrequested endings within this time are counted together, even if they come one by one
CONFIRMED_SECONDS = 60.0
"""A confirmation that no pass could use by then expires: the operator has not seen what is held later."""

SKEW_SECONDS = 60.0  # by how much this machine's clock and the API server's may differ
JUMP_SECONDS = 5.0
"""Between two responses the wall clock and the monotonic one drift apart by less, unless the former is set."""


class Brake:
    """What is held back: ``held``, the stack's id and what would have been done to it."""

    def __init__(self, clock: Clock) -> None:
        self.held: dict[str, str] = {}
        self._clock = clock
        self._endings: dict[str, float] = {}
        self._confirmed: frozenset[str] = frozenset()
        self._confirmed_until = 0.0

    def why_held(self) -> str:
        """How many stacks are held back, and what to do; empty if none are."""
        if not self.held:
            return ""
        return (
            f"{len(self.held)} stacks would be ended or removed although nobody asked for it; "
            "see `stackd reconcile --plan`, release with `stackd reconcile --confirm`"
        )

    def hold_back(self, endings: Mapping[str, str], among: Collection[str], max_share: float) -> frozenset[str]:
        """The ids of ``endings`` (id → what would be done, unrequested) that may not go ahead; ``among`` are all ids.

        Endings of the last minute count as well, each id once however often it is tried. A held id stays held until it
        no longer applies (``forget``) or is confirmed.
        """
        now = self._clock.monotonic()
        self._endings = {name: at for name, at in self._endings.items() if at >= now - WINDOW_SECONDS}
        confirmed = self.confirmed
        self.forget(endings.keys() & confirmed)
        unconfirmed = {name: what for name, what in endings.items() if name not in confirmed}
        counted = self._endings.keys() | self.held.keys() | unconfirmed.keys()
        total = len(counted | set(among))
        if not unconfirmed or len(counted) <= FREE_ENDINGS or len(counted) <= max_share * total:
            self._endings = dict.fromkeys(unconfirmed, now) | self._endings
            self.forget(unconfirmed)
            return frozenset()
        if not self.held:
            what = "would be ended or removed although nobody asked for it"
            log.error("brake: %d of %d stacks %s", len(counted), total, what)
        self.held.update(unconfirmed)
        return frozenset(unconfirmed)

    def forget(self, stack_ids: Iterable[str]) -> None:
        """Stop holding these ids: they were carried out, or no longer apply."""
        for stack_id in stack_ids:
            self.held.pop(stack_id, None)

    @property
    def confirmed(self) -> frozenset[str]:
        """The ids whose endings the operator has released, as long as that confirmation is valid."""
        return self._confirmed if self._clock.monotonic() < self._confirmed_until else frozenset()

    def confirm(self) -> frozenset[str]:
        """Release what is held now, for the next pass that can be made or for a minute. Returns the ids."""
        self._confirmed = frozenset(self.held)
        self._confirmed_until = self._clock.monotonic() + CONFIRMED_SECONDS
        return self._confirmed

    def pass_done(self) -> None:
        """A pass was made: the confirmation is used up, and the endings that led to it no longer count."""
        if self.confirmed:
            self._endings.clear()
        self._confirmed = frozenset()


class WallClock:
    """The wall clock, which the API server confirms or not.

    ``sudden_until`` is the time (nanoseconds) to which the clock was set forward: a stack whose end is not later may
    have expired only because of that; 0 if it never was. ``changed`` is set when the clock is confirmed for the first
    time, and each time when it is confirmed after it was set; whoever has acted on it clears it. ``asked_at``: when
    (monotonic seconds) the API server was last asked for its time.
    """

    def __init__(self, clock: Clock) -> None:
        self.sudden_until = 0
        self.changed = False
        self.asked_at = -math.inf
        self._clock = clock
        # How far the wall clock was ahead of the monotonic one: when confirmed, at the last response, when last right.
        self._confirmed: float | None = None
        self._seen: float | None = None
        self._right: float | None = None
        self._skew = 0.0
        self._never_agreed = True

    def now(self) -> int:
        """Nanoseconds since the epoch, by the machine's clock while it is trusted. Otherwise by the monotonic clock
        since the two clocks last agreed; if they never did, since the API server's last ``Date``."""
        now = self._clock.now()
        if self._right is None or self._agrees(now):
            return now
        return round((self._right + self._clock.monotonic()) * NANOSECONDS)

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._clock.monotonic()

    @property
    def trusted(self) -> bool:
        """Whether the API server agrees with the clock, and the clock was not set since then."""
        return self._agrees(self._clock.now())

    def why_untrusted(self) -> str:
        """Why the clock is not trusted, in a sentence; empty if it is, and before the API server's first response."""
        now = self._clock.now()
        if self._seen is None or self._agrees(now):
            return ""
        jump = self._ahead(now) - self._seen
        if abs(jump) >= JUMP_SECONDS:
            return f"the clock of this machine was set by {jump:+.0f} s: no stack expires until the API server's time agrees"
        return (
            f"the clock of this machine is {abs(self._skew):.0f} s {'ahead of' if self._skew > 0 else 'behind'} the API "
            "server's: no stack expires until they agree; set it right, and keep both with NTP"
        )

    def observe_date(self, date: str, seconds: float) -> None:
        """The API server has just answered a request that took ``seconds`` with this ``Date``; a response without a
        valid date does not count against the clock."""
        now = self._clock.now()
        ahead, skew = self._ahead(now), _skew(now / NANOSECONDS, seconds, date)
        if skew is None:
            if self._seen is None:
                self._confirm(ahead)
                self._never_agreed = True  # no response has confirmed it
            return
        before, self._skew = self.why_untrusted(), skew
        seen, self._seen = self._seen, ahead
        if abs(skew) > SKEW_SECONDS:
            if self._never_agreed:
                self._right = ahead - skew
            self._confirmed = None
            if (why := self.why_untrusted()) and not before:
                log.error("%s", why)
            return
        if seen is not None and ahead - seen >= JUMP_SECONDS:
            self.sudden_until = now
        self.sudden_until = min(self.sudden_until, now)
        if before:
            log.warning("the clock of this machine and the API server's agree again")
        self._confirm(ahead)

    def _confirm(self, ahead: float) -> None:
        if self._confirmed is None or abs(ahead - self._confirmed) >= JUMP_SECONDS:
            self.changed = True
        self._confirmed = self._seen = self._right = ahead
        self._never_agreed = False

    def _agrees(self, now: int) -> bool:
        return self._confirmed is not None and abs(self._ahead(now) - self._confirmed) < JUMP_SECONDS

    def _ahead(self, now: int) -> float:
        """How far the wall clock, just read as ``now``, is ahead of the monotonic one. One decision uses one reading."""
        return now / NANOSECONDS - self._clock.monotonic()


@lru_cache(maxsize=2)  # a busy second has many equal dates
def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _skew(now: float, seconds: float, date: str) -> float | None:
    """By how many seconds the clock is at least ahead of ``date`` (negative: behind), which has whole seconds and was
    written at some moment of the request; None if it is no date."""
    if (sent := _seconds(date)) is None:
        return None
    return now - seconds - sent - 1 if now - seconds > sent + 1 else min(0.0, now - sent)
