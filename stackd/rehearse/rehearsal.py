"""A rehearsal under way: what its players share, what they have seen, and its progress.

Owns: the clock of the rehearsal, its attempts by stack, and the snapshot of their progress for the live view. Does
nothing by itself.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stackd.rehearse.attempts import Attempt, Stage, reasons, seen
from stackd.rehearse.connection import Answer, Connection
from stackd.rehearse.measure import OwnLoad, Times, has_failed, summary
from stackd.rehearse.plan import Plan
from stackd.waiters import set_within

WINDOW_SECONDS = 5.0
"""The rates of a snapshot are over this time."""

SHOWN = 4
"""How many reasons, and how many troubles, a snapshot has."""

NOT_SEEN_LIVE = Stage.SCHEDULED
"""When a stack was scheduled is read from its timeline at the end."""


class Phase(enum.StrEnum):
    """The phase of a rehearsal."""

    ARRIVING = "players arrive"
    SETTLING = "stacks start"
    HOLDING = "holding"
    GATHERING = "reading timelines"
    CLEANING = "cleaning up"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSeen:
    """A status from the event stream, for a stack whose create is not yet answered."""

    status: str
    reason: str
    at: float


@dataclass(slots=True, kw_only=True, eq=False)
class Rehearsal:
    """One rehearsal. Times are seconds since ``began`` (the loop's clock); ``wall`` is the same moment in Unix time.

    ``clock_ahead`` is how far the daemon's clock is ahead of this machine's, known to ``clock_error`` seconds; both are
    None if the daemon has not told. ``over`` is set when all players have to finish. ``left`` is how many stacks
    remain, None while that is unknown.
    """

    plan: Plan
    connection: Connection
    ident: str
    began: float = field(default_factory=time.monotonic)
    wall: float = field(default_factory=time.time)
    phase: Phase = Phase.ARRIVING
    attempts: list[Attempt] = field(default_factory=list)
    by_stack: dict[str, Attempt] = field(default_factory=dict)
    early: dict[str, StatusSeen] = field(default_factory=dict)
    own: OwnLoad = field(default_factory=OwnLoad)
    reads: list[float] = field(default_factory=list)
    failed_reads: int = 0
    deletes: list[float] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hold_began: float | None = None
    version: str = ""
    clock_ahead: float | None = None
    clock_error: float | None = None
    interrupted: bool = False
    left: int | None = None
    seconds: float = 0.0

    def start(self) -> None:
        """Start the rehearsal's clock."""
        self.began, self.wall = time.monotonic(), time.time()

    def now(self) -> float:
        """The rehearsal's time."""
        return time.monotonic() - self.began

    def at(self, moment: float) -> float:
        """A moment of the loop's clock in the rehearsal's time."""
        return moment - self.began

    def of_daemon(self, unix: float) -> float:
        """A moment of the daemon's clock in the rehearsal's time."""
        return unix - (self.clock_ahead or 0.0) - self.wall

    def accepted(self, attempt: Attempt) -> None:
        """Assign the attempt its stack, and apply a status that came before the create's answer."""
        self.by_stack[attempt.stack_id] = attempt
        if (told := self.early.pop(attempt.stack_id, None)) is not None:
            seen(attempt, told.status, told.reason, told.at)

    def was_read(self, answer: Answer) -> None:
        """Record a status read."""
        self.reads.append(answer.seconds)
        self.own.waits.append(answer.waited)
        if not answer.good and answer.status != 404:
            self.failed_reads += 1
            self.trouble(f"status: {answer.reason}")

    def trouble(self, reason: str) -> None:
        """Record a problem that does not concern one stack."""
        self.troubles[reason] += 1

    async def rest(self, attempt: Attempt, seconds: float) -> bool:
        """Wait for news of the attempt; False if none came within ``seconds``, or the rehearsal is over."""
        attempt.news.clear()
        if self.over.is_set():
            return False
        return await set_within(attempt.news, seconds) and not self.over.is_set()

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as the rehearsal is over."""
        return not await set_within(self.over, max(0.0, seconds))

    def begin_hold(self) -> None:
        """Begin the hold: every stack runs or has failed, and players may start another one."""
        self.hold_began = self.now()
        self._wake()

    def finish(self) -> None:
        """Tell all players to finish."""
        self.over.set()
        self._wake()

    def _wake(self) -> None:
        for attempt in self.attempts:
            attempt.news.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """A stage: how long it took so far, and how many stacks a second reached it lately."""

    name: str
    times: Times
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A snapshot of a rehearsal."""

    ident: str
    phase: str
    seconds: float
    asked_for: int
    stages: Sequence[StageProgress]
    failed: int
    reads: int
    reasons: Sequence[tuple[str, int]]
    troubles: Sequence[tuple[str, int]]
    left: int | None


def progress_of(rehearsal: Rehearsal) -> Progress:
    """The snapshot of now."""
    now, attempts = rehearsal.now(), rehearsal.attempts
    stages = [
        StageProgress(
            name=stage.value,
            times=summary(sorted(took for one in attempts if (took := one.took(stage)) is not None)),
            rate=sum(now - WINDOW_SECONDS <= one.times.get(stage, -now) for one in attempts) / WINDOW_SECONDS,
        )
        for stage in Stage
        if stage is not NOT_SEEN_LIVE and (stage is not Stage.REACHABLE or rehearsal.plan.probe != "none")
    ]
    grouped = reasons(attempts).values()
    return Progress(
        ident=rehearsal.ident,
        phase=rehearsal.phase.value,
        seconds=now,
        asked_for=rehearsal.plan.stacks,
        stages=stages,
        failed=sum(map(has_failed, attempts)),
        reads=len(rehearsal.reads),
        reasons=[(found[0], len(found)) for found in grouped][:SHOWN],
        troubles=Counter(rehearsal.troubles).most_common(SHOWN),
        left=rehearsal.left,
    )
