"""The goals of a rehearsal, and the verdict.

Owns: the form of a goal (``running-p95=10s``, ``failed=1%``), and that every start counts: a stack that never reached
the stage took forever. Without a goal for failures, none may fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stackd.names import did_you_mean
from stackd.rehearse.attempts import Stage
from stackd.rehearse.measure import Results, percentile
from stackd.units import parse_duration

FAILED = "failed"
TIMED = (*(stage.value for stage in Stage), "reads", "deletes")
_GOAL = re.compile(r"([a-z]+)-(?:p(\d{1,2}(?:\.\d+)?)|(max))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A percentile (``share``) of ``what`` within ``limit`` seconds; ``failed`` is a count, or a ``relative`` share."""

    text: str
    what: str
    limit: float
    share: float = 1.0
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalResult:
    """Whether a goal was met; ``found`` is the measured time in seconds, or how many failed. None means never."""

    goal: str
    met: bool
    found: float | None
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether the event holds, with a sentence and the result of each goal."""

    holds: bool
    sentence: str
    goals: Sequence[GoalResult]


NONE_FAILS = Goal(text="failed=0", what=FAILED, limit=0)


def parse(text: str) -> Goal:
    """A goal from ``running-p95=10s`` or ``failed=1%``. Raises ValueError with what is wrong."""
    name, equals, value = text.strip().partition("=")
    if not equals or not value:
        raise ValueError(f'"{text}" is not a goal such as running-p95=10s or failed=1%')
    if name == FAILED:
        return _failed(text, value)
    match = _GOAL.fullmatch(name)
    if match is None or match[1] not in TIMED:
        word, known = name.partition("-")[0], (*TIMED, FAILED)
        hint = "" if word in known else did_you_mean(word, known)
        raise ValueError(f'"{name}" is not one of {", ".join(f"{one}-pNN" for one in TIMED)} and {FAILED}{hint}')
    share = 1.0 if match[3] else float(match[2]) / 100
    if share <= 0:
        raise ValueError(f'"{name}": a percentile must be above 0')
    return Goal(text=text.strip(), what=match[1], limit=parse_duration(value), share=share)


def _failed(text: str, value: str) -> Goal:
    relative = value.endswith("%")
    try:
        limit = float(value.removesuffix("%")) / (100 if relative else 1)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < math.inf:
        raise ValueError(f'"{text}": write failed=3 or failed=1%')
    return Goal(text=text.strip(), what=FAILED, limit=limit, relative=relative)


def judge(results: Results, goals: Sequence[Goal], *, asked_for: int, interrupted: bool) -> Verdict:
    """The verdict on ``asked_for`` stacks. Without a goal for failures, none may fail."""
    stated = list(goals) if any(goal.what == FAILED for goal in goals) else [NONE_FAILS, *goals]
    found = [_held(results, goal) for goal in stated]
    missed = [result.sentence for result in found if not result.met]
    running = results.stages[Stage.RUNNING.value]
    if interrupted:
        done = f"stopped early, with {results.started} of {asked_for} stacks started and {running.count} running"
        return Verdict(holds=False, sentence=f"No verdict: {done}.", goals=found)
    slow = "; ".join(results.side.bottleneck)
    caveat = f" But this machine may have been the bottleneck: {slow}." if slow else ""
    if missed:
        return Verdict(holds=False, sentence=f"It does not hold: {'; '.join(missed)}.{caveat}", goals=found)
    sentence = (
        f"It holds: {running.count} of {results.started} stacks ran, half of them within {running.p50:.2f} s of the press,"
        f" 95 of 100 within {running.p95:.2f} s, the last after {running.longest:.2f} s.{caveat}"
    )
    return Verdict(holds=True, sentence=sentence, goals=found)


def _held(results: Results, goal: Goal) -> GoalResult:
    if goal.what == FAILED:
        return _failures_held(results, goal)
    values = results.times[goal.what]
    total = results.started if goal.what in set(Stage) else len(values)
    needed = max(1, math.ceil(total * goal.share))
    name = "all" if goal.share == 1 else f"p{goal.share * 100:g}"
    if not total:
        return GoalResult(goal=goal.text, met=False, found=None, sentence=f"{goal.what} was not measured")
    if len(values) < needed:
        sentence = f"{total - len(values)} of {total} were never {goal.what} (goal {goal.text})"
        return GoalResult(goal=goal.text, met=False, found=None, sentence=sentence)
    found = percentile([*values, *[math.inf] * (total - len(values))], goal.share)
    sentence = f"{goal.what} {name} is {found:.2f} s (goal {goal.text})"
    return GoalResult(goal=goal.text, met=found <= goal.limit, found=found, sentence=sentence)


def _failures_held(results: Results, goal: Goal) -> GoalResult:
    limit = goal.limit * results.started if goal.relative else goal.limit
    most = ", most of them because of" if len(results.reasons) > 1 else ""
    why = f"{most}: {results.reasons[0].example}" if results.reasons else ""
    sentence = f"{results.failed} of {results.started} failed{why}"
    return GoalResult(goal=goal.text, met=results.failed <= limit, found=float(results.failed), sentence=sentence)
