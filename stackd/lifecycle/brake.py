"""The brakes of invariant 8: stackd stops on the wrong cluster, or when too many stacks would end unrequested.

Owns: whether a brake is on, why, and the operator's confirmation that releases it. Knows nothing of how objects are
removed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from stackd.clock import Clock

log = logging.getLogger(__name__)

FREE_ENDINGS = 10
"""Up to this many unrequested endings are never held back (design, invariant 8)."""

WINDOW_SECONDS = 60.0
"""Unrequested endings within this time are counted together, even if they come one by one."""

CONFIRMED_SECONDS = 60.0
"""A confirmation that no pass could use by then expires: the operator has not seen what is held later."""


class Brake:
    """Which brakes are on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endings: dict[str, float] = {}
        self._held: dict[str, str] = {}
        self._confirmed: frozenset[str] = frozenset()
        self._confirmed_until = 0.0

    @property
    def held(self) -> dict[str, str]:
        """What is held back: the stack's id, and what would have been done to the stack."""
        return dict(self._held)

    @property
    def on(self) -> bool:
        """Whether any brake is on."""
        return bool(self._held)

    def why_held(self) -> str:
        """How many stacks are held back, and what to do; empty if none are."""
        if not self._held:
            return ""
        return (
            f"{len(self._held)} stacks would be ended or removed although nobody asked for it; "
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
        if not unconfirmed:
            return frozenset()
        counted = self._endings.keys() | self._held.keys() | unconfirmed.keys()
        if len(counted) <= FREE_ENDINGS or len(counted) <= max_share * len(counted | set(among)):
            self._endings = dict.fromkeys(unconfirmed, now) | self._endings
            self.forget(unconfirmed)
            return frozenset()
        if not self._held:
            log.error(
                "brake: %d of %d stacks would be ended or removed although nobody asked for it",
                len(counted),
                len(counted | set(among)),
            )
        self._held.update(unconfirmed)
        return frozenset(unconfirmed)

    def forget(self, stack_ids: Iterable[str]) -> None:
        """Stop holding these ids: they were carried out, or no longer apply."""
        for stack_id in stack_ids:
            self._held.pop(stack_id, None)

    @property
    def confirmed(self) -> frozenset[str]:
        """The ids whose endings the operator has released, as long as that confirmation is valid."""
        return self._confirmed if self._clock.monotonic() < self._confirmed_until else frozenset()

    def confirm(self) -> frozenset[str]:
        """Release what is held now, and nothing else, for the operator. Returns the ids.

        The confirmation is valid for the next pass that can be made, or for a minute.
        """
        self._confirmed = frozenset(self._held)
        self._confirmed_until = self._clock.monotonic() + CONFIRMED_SECONDS
        return self._confirmed

    def pass_done(self) -> None:
        """A whole pass was made: the confirmation is used up, and the endings that led to it no longer count."""
        if self.confirmed:
            self._endings.clear()
        self._confirmed = frozenset()
