"""A rehearsal under way: its clock, its attempts by stack, and what its players share. Does nothing by itself."""

from __future__ import annotations

import asyncio
import enum
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stackd.rehearse.attempts import Attempt, seen, without_ids
from stackd.rehearse.connection import Answer, Connection, NoAnswer
from stackd.rehearse.measure import OwnLoad
from stackd.rehearse.plan import Plan
from stackd.waiters import set_within


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
    None while that is unknown. ``over`` is set when all players have to finish. ``left`` is how many stacks remain,
    None while that is unknown.
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

    async def ask(
        self, what: str, method: str, path: str, body: object = None, *, accept: tuple[int, ...] = (), **options: Any
    ) -> Answer | None:
        """An answer, good or of an accepted status; None if there is none, with the problem recorded."""
        try:
            answer = await self.connection.ask(method, path, body, **options)
        except NoAnswer as error:
            self.trouble(f"{what}: {error}")
            return None
        if answer.good or answer.status in accept:
            return answer
        self.trouble(f"{what}: {without_ids(answer.reason)}")
        return None

    def accepted(self, attempt: Attempt) -> None:
        """Assign the attempt its stack, and apply a status that came before the create's answer."""
        self.by_stack[attempt.stack_id] = attempt
        if (early := self.early.pop(attempt.stack_id, None)) is not None:
            seen(attempt, early.status, early.reason, early.at)

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
