"""The output at the end of a rehearsal: the goals and the verdict, the figures, the plan, and what is left.

Owns: the form of a goal (``running-p95=10s``, ``failed=1%``), and that every start counts: a stack that never reached the
stage took forever; the tables, which the terminal and the page share; and the fields of ``--json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.names import did_you_mean
from stackd.rehearse.measure import (
    Group,
    Results,
    Stage,
    Times,
    create_time,
    mean_lag,
    measure,
    percentile,
    summary,
)
from stackd.rehearse.plan import Plan
from stackd.rehearse.player import Rehearsal
from stackd.rehearse.run import Measured, last_end
from stackd.units import format_duration, parse_duration

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


def parse_goal(text: str) -> Goal:
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
    slow = "; ".join(results.bottleneck)
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


Rows = list[list[str]]
Titled = tuple[str, Sequence[str], Rows]
SLOWEST = 8
_NUMBER = re.compile(r"–|\d[\d.]*( ms| s|%| of \d+)?")
TIMES = ("count", "p50", "p95", "p99", "longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A rehearsal that is over. ``began`` is Unix time; ``left`` stacks may be left, and expire in ``left_seconds``."""

    ident: str
    plan: Plan
    began: float
    seconds: float
    version: str
    clock_ahead: float | None
    clock_error: float | None
    results: Results
    verdict: Verdict
    goals: Sequence[Goal]
    interrupted: bool
    left: int
    left_sentence: str
    left_seconds: float

    def tables(self) -> Iterator[Titled]:
        """The tables: title, heads and rows of each."""
        results = self.results
        yield "from the press to", ("", *TIMES), list(self._stages())
        yield (
            "goals", ("goal", "", "found"),
            [[one.goal, "met" if one.met else "missed", one.sentence] for one in self.verdict.goals],
        )  # fmt: skip
        yield "failures", ("why", "stacks"), [[one.example, str(one.count)] for one in results.reasons]
        yield "a create's time at the daemon", ("", "mean", "share"), list(self._create_time())
        if len(results.kinds) > 1:
            yield "time to running by kind", *_groups(results.kinds)
        if len(results.images) > 1:
            yield "time to running by image, the slowest", *_groups(results.images[:SLOWEST])
        yield "time to running by node, the slowest", *_groups(results.nodes[:SLOWEST])
        yield "about the measurement", ("", ""), list(self._about())

    def _stages(self) -> Iterator[list[str]]:
        for name, times in self.results.stages.items():
            if name != Stage.REACHABLE.value or self.plan.probe != "none":
                yield [name, *_cells(times, f"{times.count} of {self.results.started}")]
        for name, times in (("delete", self.results.deletes), ("status read", self.results.reads)):
            if times.count:
                yield [f"a {name}'s answer", *_cells(times, str(times.count))]

    def _create_time(self) -> Iterator[list[str]]:
        spent = self.results.create_time
        if spent is None or not spent.total:
            return
        for name, seconds in spent.parts().items():
            yield [name, f"{seconds * 1000:.1f} ms", f"{seconds / spent.total:.0%}"]
        yield ["all", f"{spent.total * 1000:.1f} ms", f"{spent.creates} creates"]

    def _about(self) -> Iterator[list[str]]:
        results, own = self.results, self.results.own
        rates = f"{results.accepted_rate:.1f} accepted a second, {results.running_rate:.1f} running a second"
        yield ["throughput", rates]
        if results.create_time is not None and self.seconds:
            asked = results.create_time.requests
            yield ["API server", f"{asked} requests of stackd's, {asked / self.seconds:.1f} a second"]
        if self.plan.probe != "none":
            refused = f"{results.first_refused} did not answer at first, after the stack was reported as running"
            yield ["addresses", refused]
        if results.failed_reads:
            yield ["status reads", f"{results.failed_reads} failed"]
        yield [
            "this machine",
            f"loop at most {own['loop_lag_max'] * 1000:.0f} ms late (p99 {own['loop_lag_p99'] * 1000:.0f} ms), creates sent"
            f" at most {own['sent_late_max'] * 1000:.0f} ms late, {own['cpu_busiest']:.0%} of a core at its busiest",
        ]
        yield from (["", f"this machine may have been the bottleneck: {why}"] for why in results.bottleneck)
        yield ["", f"load {own['load']:.1f} on {own['cpus']:.0f} CPUs at the end"]
        yield ["the daemon's loop", f"{results.daemon_lag * 1000:.1f} ms late on average"]
        if self.clock_ahead is not None and self.clock_error is not None:
            yield ["clocks", f"the daemon's is {self.clock_ahead:+.3f} s, known to {self.clock_error * 1000:.0f} ms"]
        yield from ([f"{count} times", problem] for problem, count in results.troubles.items())

    def fields(self) -> dict[str, object]:
        """The fields for ``--json``."""
        plan = {name: value for name, value in asdict(self.plan).items() if name != "kinds"}
        return {
            "rehearsal": self.ident,
            "began_at": from_nanoseconds(round(self.began * NANOSECONDS)),
            "seconds": self.seconds,
            "stackd": self.version,
            "plan": {**plan, "kinds": {kind.name: count for kind, count in self.plan.counts()}},
            "verdict": {"holds": self.verdict.holds, "sentence": self.verdict.sentence},
            "goals": [asdict(one) for one in self.verdict.goals],
            "interrupted": self.interrupted,
            "left": self.left,
            "clock_ahead": self.clock_ahead,
            "clock_error": self.clock_error,
            **self.results.fields(),
        }

    def arrival(self) -> str:
        """The plan in a sentence."""
        plan = self.plan
        how = "all at once" if plan.rate is None else f"{plan.rate:g} a second"
        mix = ", ".join(f"{count} of {kind.name}" for kind, count in plan.counts())
        parts = [f"{plan.stacks} stacks, {how}: {mix}"]
        parts += [f"held for {format_duration(plan.hold)}"] if plan.hold else []
        parts += [f"{plan.churn:.0%} started anew meanwhile"] if plan.churn else []
        parts += [f"addresses tried by {plan.probe}"] if plan.probe != "none" else []
        return "; ".join([*parts, f"a status read every {format_duration(plan.poll)} while a stack starts"])


def outcome_of(rehearsal: Rehearsal, measured: Measured | None, goals: Sequence[Goal]) -> Outcome:
    """The outcome; ``measured`` is None if the rehearsal was cancelled."""
    interrupted = rehearsal.interrupted or measured is None
    plan, now, attempts, own = rehearsal.plan, rehearsal.now(), rehearsal.attempts, rehearsal.own
    before, after = (measured.before, measured.after) if measured is not None else (None, None)
    results = measure(
        attempts,
        reads=rehearsal.reads,
        failed_reads=rehearsal.failed_reads,
        deletes=rehearsal.deletes,
        create_time=create_time(before, after) if before and after else None,
        daemon_lag=mean_lag(before, after) if before and after else 0.0,
        own=own.figures(),
        bottleneck=own.bottleneck(summary(one.took(Stage.RUNNING) for one in attempts).p50),
        troubles=dict(rehearsal.troubles.most_common()),
    )
    unanswered = sum(attempt.unanswered for attempt in attempts)
    kept = sum(bool(attempt.stack_id) and not attempt.gone for attempt in attempts)
    left = kept if rehearsal.left is None else rehearsal.left
    sentence = f"{left} of its stacks may remain"
    return Outcome(
        ident=rehearsal.ident,
        plan=plan,
        began=rehearsal.wall,
        seconds=rehearsal.seconds or now,
        version=rehearsal.version,
        clock_ahead=rehearsal.clock_ahead,
        clock_error=rehearsal.clock_error,
        results=results,
        verdict=judge(results, goals, asked_for=plan.stacks, interrupted=interrupted),
        goals=goals,
        interrupted=interrupted,
        left=left + (unanswered if rehearsal.left != 0 else 0),
        left_sentence=f"{sentence}, and {unanswered} creates were never answered" if unanswered else sentence,
        left_seconds=last_end(attempts, plan.ttl, now) - now,
    )


def are_numbers(cells: Iterable[str]) -> bool:
    """Whether a column of a table has only numbers."""
    return all(_NUMBER.fullmatch(cell) for cell in cells)


def _groups(groups: Sequence[Group]) -> tuple[Sequence[str], Rows]:
    heads = ("", "stacks", "failed", "p50", "p95", "longest", "to start", "to ready")
    rows = []
    for group in groups:
        spread = ((group.running, "p50"), (group.running, "p95"), (group.running, "longest"))
        values = [*spread, (group.starting, "p50"), (group.becoming_ready, "p50")]
        rows.append([group.name, str(group.started), str(group.failed), *(_seconds(*value) for value in values)])
    return heads, rows


def _cells(times: Times, count: str) -> list[str]:
    return [count, *(_seconds(times, name) for name in TIMES[1:])]


def _seconds(times: Times, name: str) -> str:
    value = getattr(times, name)
    return "–" if not times.count else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"
