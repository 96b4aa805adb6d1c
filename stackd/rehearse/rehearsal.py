"""A rehearsal under way: what is common to its players, what they have seen, and how far it is.

Owns: the clock of the rehearsal, its attempts by stack, who has come how far, and the snapshot of that for whoever looks on.
Does nothing by itself.
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
"""Over so long the rates of a snapshot are counted."""

SHOWN = 4
"""So many reasons, and so many troubles, are in a snapshot."""

NOT_SEEN_LIVE = Stage.SCHEDULED
"""When a node took a stack is read from the timelines at the end."""


class Phase(enum.StrEnum):
    """What a rehearsal is at."""

    ARRIVING = "players arrive"
    SETTLING = "stacks start"
    HOLDING = "holding"
    GATHERING = "reading timelines"
    CLEANING = "cleaning up"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusSeen:
    """What the event stream told of a stack whose create is not yet answered."""

    status: str
    reason: str
    at: float


@dataclass(slots=True, kw_only=True, eq=False)
class Rehearsal:
    """One rehearsal. Times are seconds since ``began`` (the loop's clock); ``wall`` is the same moment in Unix time.

    ``clock_ahead`` is how far the daemon's clock is ahead of this machine's, known to ``clock_error`` seconds; both None
    where the daemon has not told. ``over`` is set once nobody is to do anything more. ``left`` is how many stacks remain,
    None while that is not known.
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
        """The rehearsal's time begins now."""
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
        """The attempt has a stack: what was told of it before its answer came counts now."""
        self.by_stack[attempt.stack_id] = attempt
        if (told := self.early.pop(attempt.stack_id, None)) is not None:
            seen(attempt, told.status, told.reason, told.at)

    def was_read(self, answer: Answer) -> None:
        """A status was read."""
        self.reads.append(answer.seconds)
        self.own.waits.append(answer.waited)
        if not answer.good and answer.status != 404:
            self.failed_reads += 1
            self.trouble(f"status: {answer.reason}")

    def trouble(self, reason: str) -> None:
        """Something did not go well that says nothing of one stack."""
        self.troubles[reason] += 1

    async def rest(self, attempt: Attempt, seconds: float) -> bool:
        """Wait until there is news of the attempt; False where none came within ``seconds``, or all is over."""
        attempt.news.clear()
        if self.over.is_set():
            return False
        return await set_within(attempt.news, seconds) and not self.over.is_set()

    async def pause(self, seconds: float) -> bool:
        """Wait; False as soon as all is over."""
        return not await set_within(self.over, max(0.0, seconds))

    def begin_hold(self) -> None:
        """Every stack has come to something: those who are to start anew may."""
        self.hold_began = self.now()
        self._wake()

    def finish(self) -> None:
        """Nobody does anything more."""
        self.over.set()
        self._wake()

    def _wake(self) -> None:
        for attempt in self.attempts:
            attempt.news.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """A stage: how long it took so far, and how many a second came so far lately."""

    name: str
    times: Times
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A snapshot."""

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
    """How far it is now."""
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
