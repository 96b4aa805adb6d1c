"""How far a rehearsal is, for whoever looks on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stackd.rehearse.attempts import Stage, reasons
from stackd.rehearse.measure import Times, has_failed, summary
from stackd.rehearse.rehearsal import Rehearsal

WINDOW_SECONDS = 5.0
SHOWN = 4
NOT_SEEN_LIVE = Stage.SCHEDULED
"""When a node took a stack is read from the timelines at the end."""


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
