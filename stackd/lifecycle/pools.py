"""The stacks that wait in pools, by template: which may be assigned, and how the pool of each template is doing.

Owns: that concurrent creates pick different stacks, and the one that has been ready longest first, or else the oldest
that starts; what is remembered of a pool's failures; and a pool's figures, which ``/templates``, doctor, the metrics
and the dashboard read through ``Pools.figures``. The file decides that a stack is assigned only once. Row changes keep
this module up to date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stackd.clock import NANOSECONDS, has_passed
from stackd.model import NOT_READY, Stack, StackStatus
from stackd.templates import Template
from stackd.timing import FIRST_PAUSE, LONGEST_PAUSE, PROVEN_SECONDS
from stackd.workqueue import RetryPolicy

PATCHED_AT_ONCE = 32
"""How many Services of assigned stacks are patched at a time; in a burst the others wait, before their deadline begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """One template's unassigned stacks by state, and the creates that found one (``hits``) or none (``misses``).
    ``reason`` is why the pool is not filled; empty while it is full or being filled."""

    ready: int = 0
    starting: int = 0
    failing: int = 0
    hits: int = 0
    misses: int = 0
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Pool:
    """How the pool of one template is doing. ``not_before`` in monotonic seconds; ``digest`` of the template in force.
    ``closes``: when its stacks end at the latest, by their rows (nanoseconds; 0: at any time; None: they are to be compared).

    ``waits`` are its rows, the latest to become ready behind the others; ``shared`` its shared stacks: one, and those that
    are being deleted. ``making`` counts creates under way, whose rows
    may not exist yet.
    ``crashed_at``: when (nanoseconds) one of its stacks was last seen to have ended by itself, or not to become ready again;
    0: none has, or another has run for PROVEN_SECONDS since.
    """

    waits: dict[str, Stack] = field(default_factory=dict)
    shared: dict[str, Stack] = field(default_factory=dict)
    making: int = 0
    crashed_at: int = 0
    hits: int = 0
    misses: int = 0
    failures: int = 0
    reason: str = ""
    not_before: float = 0.0
    digest: str = ""
    closes: int | None = None

    def failed(self, why: str, now: float, *, longest: float = LONGEST_PAUSE) -> None:
        """Record a failure; each one delays the next try longer."""
        self.failures += 1
        self.pause(now + RetryPolicy(first=FIRST_PAUSE, longest=longest).bound(self.failures), why)

    def pause(self, until: float, why: str = "") -> None:
        self.reason, self.not_before = why or self.reason, max(self.not_before, until)

    def forget_failures(self, now: int, digest: str) -> None:
        """Forget earlier failures once the template has changed, or a stack has proven that it works: one that came to run after
        the last crash, or the shared one, has run for PROVEN_SECONDS; ``now`` in nanoseconds."""
        proven = round(PROVEN_SECONDS * NANOSECONDS)
        if self.digest != digest or any(has_passed(now, row.updated_at, proven) for row in self.proofs()):
            self.succeeded()
        self.digest = digest

    def proofs(self) -> list[Stack]:
        """The stacks that prove that the template works again, once they have run for a while; none if it has not failed."""
        shared = self.shared.values() if self.failures else ()
        return [*self.since_crash(), *(row for row in shared if is_ready(row))]

    def since_crash(self) -> list[Stack]:
        """The stacks of the template in force that came to run since the last crash, and run; none if there was none."""
        rows = self.waits.values() if self.crashed_at else ()
        return [
            row for row in rows if is_ready(row) and row.digest == self.digest and row.updated_at >= self.crashed_at
        ]

    def succeeded(self) -> None:
        """Forget the failures: a stack could be made."""
        self.failures, self.reason, self.not_before, self.crashed_at = 0, "", 0.0, 0


class Pools:
    """The pools of one daemon, by the name of the template; includes templates that no longer exist.

    ``patching``    held while the Service of a stack that was just assigned is patched
    ``preempting``  held from the choice of stacks for preemption until the intent to delete them is committed
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Pool] = {}
        self.patching = asyncio.Semaphore(PATCHED_AT_ONCE)
        self.preempting = asyncio.Lock()
        self._taken: set[str] = set()

    def of(self, name: str) -> Pool:
        return self.by_name.setdefault(name, Pool())

    def load(self, rows: Iterable[Stack]) -> None:
        for row in rows:
            self.row_changed(None, row)

    def row_changed(self, before: Stack | None, after: Stack | None) -> None:
        """Subscriber of the store: keep the pools up to date."""
        if (row := after or before) is not None and row.shared:
            kept = self.of(row.template or "").shared
            kept.pop(row.stack_id, None)
            if after is not None:
                kept[row.stack_id] = after
            return
        before = before if before is not None and before.unassigned and not before.spare else None
        after = after if after is not None and after.unassigned and not after.spare else None
        if before is not None:
            pool = self.of(before.template or "")
            if after is None or not (is_ready(before) and is_ready(after)):
                pool.waits.pop(before.stack_id, None)
        if after is not None:
            self.of(after.template or "").waits[after.stack_id] = after

    def shared_stack(self, name: str) -> str | None:
        shared = self.by_name[name].shared.values() if name in self.by_name else ()
        return next((row.stack_id for row in shared if row.accepted and row.deleting_since is None), None)

    def pick(self, digest: str) -> Stack | None:
        """Take the stack of that digest that has been ready longest, or else the oldest that starts, if there is one.
        Nobody else gets it until ``release``. One that starts is not taken if such stacks fail to."""
        taken = next(filter(is_ready, self._free(digest, self.by_name.values())), None)
        if taken is None:
            starting = filter(is_starting, self._free(digest, (p for p in self.by_name.values() if not p.failures)))
            taken = min(starting, key=lambda row: row.created_at, default=None)
        if taken is not None:
            self._taken.add(taken.stack_id)
        return taken

    def _free(self, digest: str, pools: Iterable[Pool]) -> Iterator[Stack]:
        rows = (row for pool in pools for row in pool.waits.values())
        return (row for row in rows if row.digest == digest and row.stack_id not in self._taken)

    def release(self, stack_ids: Iterable[str]) -> None:
        """Release stacks that were taken: those that still wait in the pool can be taken again."""
        self._taken.difference_update(stack_ids)

    def figures(self, template: Template) -> PoolFigures:
        pool = self.by_name.get(template.name, Pool())
        rows = [row for row in pool.waits.values() if row.deleting_since is None]
        ready = sum(is_ready(row) and row.digest == template.digest for row in rows)
        starting = sum(row.status is StackStatus.CREATING and row.accepted and not row.ended for row in rows)
        failing = sum(has_failed(row) or has_lost_readiness(row) for row in rows)
        if pool.failures:
            failing = max(failing, template.pool - ready - starting)
        return PoolFigures(
            ready=ready,
            starting=starting + pool.making,
            failing=max(0, failing),
            hits=pool.hits,
            misses=pool.misses,
            reason=pool.reason,
        )


def is_ready(row: Stack) -> bool:
    """Whether the row of a stack in a pool says that it runs, and is ready."""
    return row.is_to_run and row.status is StackStatus.RUNNING and not has_lost_readiness(row)


def has_lost_readiness(row: Stack) -> bool:
    """Whether the row says that the stack runs, and is not ready any more: it cannot be given away."""
    return row.status is StackStatus.RUNNING and row.status_reason == NOT_READY


def is_starting(row: Stack) -> bool:
    """Whether the row of a stack in a pool says that it comes to run: nothing is known that keeps it from that."""
    return row.is_to_run and row.status is StackStatus.CREATING and not row.status_reason


def has_failed(row: Stack) -> bool:
    """Whether the row of a stack in a pool says that it will not come to run."""
    return row.accepted and (row.ended or row.status not in (StackStatus.CREATING, StackStatus.RUNNING))
