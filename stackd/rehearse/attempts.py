"""The result of each press of "start": when, on which node, and what went wrong.

Owns: the records that a rehearsal fills while it runs. Times are seconds since its beginning, by the clock of the
machine that runs the rehearsal.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_ID = re.compile(r"\b(?:svc-)?(?:stack|job)-[0-9a-f]{16}\b")
_NUMBER = re.compile(r"\d+")
_LONGEST_REASON = 300


class Stage(enum.StrEnum):
    """The stage that a stack has reached, as the player who pressed start sees it."""

    ACCEPTED = "accepted"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    REACHABLE = "reachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The stage that a stack did not reach, and why; ``at`` is when that was known."""

    missed: Stage
    reason: str
    at: float


def without_ids(reason: str) -> str:
    """A reason without ids, which differ from stack to stack."""
    return _ID.sub("a stack", reason)


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One press of start. ``due`` is when the player pressed, ``sent`` when the request went out.

    ``again``          whether the player had a stack before
    ``started``        when the containers had started
    ``first_refused``  whether the address did not answer at the first try, although the API said that the stack runs
    ``lost``           why a stack that had been running did not last until the end
    ``expires``        when the stack expires; ``extends`` says that it can be extended
    ``unanswered``     there was no answer, so the daemon may still create a stack
    ``leaving``        the player, or the end of the rehearsal, deletes the stack
    ``news``           set whenever the record changes
    """

    player: int
    kind: str
    due: float
    again: bool = False
    sent: float | None = None
    stack_id: str = ""
    status: str = ""
    node: str = ""
    images: tuple[str, ...] = ()
    address: tuple[str, int] | None = None
    expires: float = 0.0
    extends: bool = True
    times: dict[Stage, float] = field(default_factory=dict)
    started: float | None = None
    first_refused: bool = False
    failure: Failure | None = None
    lost: str = ""
    unanswered: bool = False
    leaving: bool = False
    gone: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def reached(self, stage: Stage, at: float) -> None:
        """Record that the stack has reached a stage; the first time counts."""
        if stage not in self.times:
            self.times[stage] = at
            self.news.set()

    def fail(self, missed: Stage, reason: str, at: float) -> None:
        """Record that the stack cannot reach a stage, or ran and did not last; the first reason counts."""
        if missed is Stage.RUNNING and missed in self.times:
            self.lost = self.lost or reason[:_LONGEST_REASON]
        elif self.failure is None:
            self.failure = Failure(missed=missed, reason=reason[:_LONGEST_REASON], at=at)
        self.news.set()

    def took(self, stage: Stage) -> float | None:
        """Seconds from the press to the stage; None if it was not reached."""
        at = self.times.get(stage)
        return None if at is None else max(0.0, at - self.due)

    @property
    def kept(self) -> bool:
        """Whether there is a stack, and it is neither deleted nor about to be."""
        return bool(self.stack_id) and not self.leaving and not self.gone

    @property
    def failed(self) -> bool:
        """Whether the stack failed, or ran and did not last."""
        return self.failure is not None or bool(self.lost)


def seen(attempt: Attempt, status: str, reason: str, at: float) -> None:
    """Record a status of the stack from the API."""
    if attempt.leaving or attempt.gone:
        return
    attempt.status = status
    if status == "running":
        attempt.reached(Stage.RUNNING, at)
    elif status != "creating":
        attempt.fail(Stage.RUNNING, f"{status} ({reason})" if reason else status, at)


def ended(attempt: Attempt, at: float) -> None:
    """Record that the stack is gone, as the API says."""
    attempt.gone = True
    if not attempt.leaving:
        attempt.fail(Stage.RUNNING, f"gone before {'its time' if Stage.RUNNING in attempt.times else 'it ran'}", at)
    attempt.news.set()


def reasons(attempts: Iterable[Attempt]) -> dict[str, list[str]]:
    """What went wrong, by reason, the most frequent first; with all sentences that differ only in ids and numbers."""
    groups: dict[str, list[str]] = {}
    for attempt in attempts:
        if attempt.failure is not None:
            group = _NUMBER.sub("N", without_ids(attempt.failure.reason))
            groups.setdefault(group, []).append(attempt.failure.reason)
        elif attempt.lost:
            groups.setdefault(f"lost: {attempt.lost}", []).append(f"ran, and was lost: {attempt.lost}")
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))
