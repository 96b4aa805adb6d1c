"""The brakes of invariant 8: on the wrong cluster, or when too much would end that nobody asked for, stackd stops and says so.

Owns: whether a brake is on, why, and the operator's word that releases it. Knows nothing of how the objects are removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

from stackd.clock import Clock
from stackd.errors import Held

log = logging.getLogger(__name__)

FREE_ENDINGS = 10
"""Up to this many unasked-for endings are never held back (design, invariant 8)."""

WINDOW_SECONDS = 60.0
"""Endings that trickle in one by one within this time count as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongCluster:
    """The uid of kube-system that the file remembers, and the one that answered."""

    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"the file belongs to the cluster with kube-system uid {self.expected}, but {self.found} answers; "
            "nothing is created or removed until the right cluster is back"
        )


class Brake:
    """Which brakes are on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._endings: deque[float] = deque()
        self._held: dict[str, str] = {}
        self._released = False
        self.wrong_cluster: WrongCluster | None = None
        self._identity_known = asyncio.Event()

    @property
    def identity_in_doubt(self) -> bool:
        """Whether the cluster has yet to say who it is: from the start on, and each time that it was away."""
        return not self._identity_known.is_set()

    @identity_in_doubt.setter
    def identity_in_doubt(self, doubted: bool) -> None:
        if doubted:
            self._identity_known.clear()
        else:
            self._identity_known.set()

    async def identity_known(self, timeout: float) -> None:
        """Return when the cluster has said who it is. Raises TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            await self._identity_known.wait()

    @property
    def held(self) -> dict[str, str]:
        """What is held back: a stack's id, and what would have been done to it."""
        return dict(self._held)

    @property
    def on(self) -> bool:
        """Whether any brake is on."""
        return self.wrong_cluster is not None or bool(self._held)

    def reasons(self) -> list[str]:
        """One sentence for each brake that is on."""
        reasons = [str(self.wrong_cluster)] if self.wrong_cluster else []
        if self._held:
            reasons.append(
                f"{len(self._held)} stacks would be ended or removed although nobody asked for it; "
                "see `stackd reconcile --plan`, release with `stackd reconcile --confirm`"
            )
        return reasons

    def admit_creates(self) -> None:
        """Raise Held where nothing may be created: on the wrong cluster."""
        if self.wrong_cluster is not None:
            raise Held(f"no stack can be created: {self.wrong_cluster}")

    def allow(self, endings: dict[str, str], total: int, max_share: float) -> bool:
        """Whether ``endings`` (id → what would be done, none of it asked for) of ``total`` stacks may go ahead.

        Those of the last minute count with them. If not, they are held until they stop being true or are confirmed.
        """
        if self.wrong_cluster is not None:
            return False
        if not endings:
            return True
        now = self._clock.monotonic()
        while self._endings and self._endings[0] < now - WINDOW_SECONDS:
            self._endings.popleft()
        count = len(self._endings) + len(endings.keys() | self._held.keys())
        of = total + len(self._endings)
        if self._released or count <= FREE_ENDINGS or count <= max_share * of:
            self._endings.extend([now] * len(endings))
            self.forget(endings)
            return True
        if not self._held:
            log.error("brake: %d of %d stacks would be ended or removed although nobody asked for it", count, of)
        self._held.update(endings)
        return False

    def forget(self, stack_ids: dict[str, str] | set[str]) -> None:
        """These need no holding any more: they were done, or are true no longer."""
        for stack_id in stack_ids:
            self._held.pop(stack_id, None)

    def confirm(self) -> int:
        """The operator agrees: the next pass may do what is held. Returns how many that is."""
        self._released = True
        return len(self._held)

    def pass_done(self) -> None:
        """A whole pass has been made; a confirmation counts for one only."""
        if self._released:
            self._endings.clear()
        self._released = False
