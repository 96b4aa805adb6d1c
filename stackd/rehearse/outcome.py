"""The output at the end of a rehearsal: the goals and the verdict, the figures, the plan, and the stacks that may remain.

Owns: the form of a goal (``running-p95=10s``, ``failed=1%``), and that every start counts: a stack that never reached the
stage counts as slower than every goal; the tables, which the terminal and the page share; and the fields of ``--json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.names import did_you_mean
from stackd.rehearse.measure import (
    PARTS,
    Group,
    Results,
    Stage,
    Times,
    create_time,
    mean_lag,
    measure,
    percentile,
    spent_in_all,
)
from stackd.rehearse.player import Phase, Rehearsal
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


def parse_goal(text: str) -> Goal:
    """A goal from ``running-p95=10s`` or ``failed=1%``. Raises ValueError with what is wrong."""
    text = text.strip()
    name, _, value = text.partition("=")
    if not value:
        raise ValueError(f'"{text}" is not a goal such as running-p95=10s or failed=1%')
    if name == FAILED:
        relative = value.endswith("%")
        try:
            limit = float(value.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < math.inf:
            raise ValueError(f'"{text}": write failed=3 or failed=1%')
        return Goal(text=text, what=FAILED, limit=limit, relative=relative)
    match = _GOAL.fullmatch(name)
    if match is None or match[1] not in TIMED:
        word, names = name.partition("-")[0], (*TIMED, FAILED)
        hint = "" if word in names else did_you_mean(word, names)
        raise ValueError(f'"{name}" is not one of {", ".join(f"{one}-pNN" for one in TIMED)} and {FAILED}{hint}')
    share = float(match[2] or 100) / 100
    if share <= 0:
        raise ValueError(f'"{name}": a percentile must be above 0')
    return Goal(text=text, what=match[1], limit=parse_duration(value), share=share)


def judge(
    results: Results, goals: Sequence[Goal], checks: Sequence[GoalResult] = (), *, asked_for: int, interrupted: bool
) -> Verdict:
    """The verdict on ``asked_for`` stacks. Without a goal for failures, none may fail; all ``checks`` must pass."""
    stated = [*goals] if any(goal.what == FAILED for goal in goals) else [parse_goal("failed=0"), *goals]
    judged = [(_failures if goal.what == FAILED else _percentile)(results, goal) for goal in stated] + [*checks]
    missed = "; ".join(result.sentence for result in judged if not result.met)
    running = results.stages[Stage.RUNNING.value]
    slow = "; ".join(results.bottleneck)
    caveat = f" But this machine may have been the bottleneck: {slow}." if slow else ""
    if interrupted:
        done = f"stopped early, with {results.started} of {asked_for} stacks started and {running.count} running"
        sentence = f"No verdict: {done}."
    elif missed:
        sentence = f"It does not hold: {missed}.{caveat}"
    else:
        sentence = (
            f"It holds: {running.count} of {results.started} stacks ran, half of them within {running.p50:.2f} s of the"
            f" press, 95 of 100 within {running.p95:.2f} s, the last after {running.longest:.2f} s.{caveat}"
        )
    return Verdict(holds=not interrupted and not missed, sentence=sentence, goals=judged)


def _check(name: str, result: Mapping[str, Any]) -> GoalResult:
    healthy = result["healthy"]
    ended = "passes" if healthy else "has never run" if healthy is None else "fails"
    why = "" if healthy else " ".join((result.get("trouble") or result.get("message") or "").split())
    sentence = f"the check of {name} {ended}{why and f': {why}'}"
    return GoalResult(goal=f"check of {name}", met=bool(healthy), found=None, sentence=sentence)


def _percentile(results: Results, goal: Goal) -> GoalResult:
    values = results.times[goal.what]
    total = results.started if goal.what in results.stages else len(values)
    time = percentile([*values, *[math.inf] * (total - len(values))], goal.share)
    name = "all" if goal.share == 1 else f"p{goal.share * 100:g}"
    sentence = f"{goal.what} {name} is {time:.2f} s (goal {goal.text})"
    if not total:
        sentence = f"{goal.what} was not measured"
    elif math.isinf(time):
        sentence = f"{total - len(values)} of {total} were never {goal.what} (goal {goal.text})"
    met = bool(total) and time <= goal.limit
    return GoalResult(goal=goal.text, met=met, found=time if total and time < math.inf else None, sentence=sentence)


def _failures(results: Results, goal: Goal) -> GoalResult:
    limit = goal.limit * results.started if goal.relative else goal.limit
    most = ", most of them because of" if len(results.reasons) > 1 else ""
    why = f"{most}: {results.reasons[0].example}" if results.reasons else ""
    sentence = f"{results.failed} of {results.started} failed{why}"
    return GoalResult(goal=goal.text, met=results.failed <= limit, found=float(results.failed), sentence=sentence)


Rows = list[list[str]]
Titled = tuple[str, Sequence[str], Rows]
SLOWEST = 8
_NUMBER = re.compile(r"–|\d[\d.]*( ms| s|%| of \d+)?")
TIMES = tuple(one.name for one in fields(Times))
GROUP = ("", "stacks", "failed", "p50", "p95", "longest", "to start", "to ready")


class Outcome:
    """A rehearsal that has ended, or was cancelled; ``remaining`` stacks may exist, and expire in ``remaining_seconds``."""

    def __init__(self, rehearsal: Rehearsal, goals: Sequence[Goal]) -> None:
        self.rehearsal, self.plan, self.goals = rehearsal, rehearsal.plan, goals
        attempts, own, added, now = rehearsal.attempts, rehearsal.own, rehearsal.added, rehearsal.now()
        results = measure(
            attempts,
            reads=rehearsal.reads,
            failed_reads=rehearsal.failed_reads,
            deletes=rehearsal.deletes,
            create_time=create_time(added),
            daemon_lag=mean_lag(added),
            own=own.figures(),
            troubles=dict(rehearsal.problems.most_common()),
        )
        self.results = replace(results, bottleneck=own.bottleneck(results.stages[Stage.RUNNING.value].p50))
        self.seconds = rehearsal.seconds or now
        self.interrupted = rehearsal.stop.is_set() or rehearsal.phase is not Phase.DONE
        checks = [_check(*one) for one in rehearsal.checks.items()]
        self.verdict = judge(self.results, goals, checks, asked_for=self.plan.stacks, interrupted=self.interrupted)
        unanswered, remaining = sum(attempt.unanswered for attempt in attempts), rehearsal.remaining
        kept = sum(bool(attempt.stack_id) and not attempt.gone for attempt in attempts)
        sure = kept if remaining is None else remaining
        ends = [now + self.plan.ttl if one.unanswered else one.expires for one in attempts]
        self.remaining = sure + (unanswered if remaining != 0 else 0)
        self.remaining_seconds = max(ends, default=now) - now
        self.remaining_sentence = f"{sure} of its stacks may remain"
        if unanswered:
            self.remaining_sentence += f", and {unanswered} creates were never answered"

    def tables(self) -> Iterator[Titled]:
        results, goals = self.results, self.verdict.goals
        yield "from the press to", ("", *TIMES), list(self._stages())
        met = [[one.goal, "met" if one.met else "missed", one.sentence] for one in goals]
        yield "goals", ("goal", "", "measured"), met
        yield "failures", ("why", "stacks"), [[one.example, str(one.count)] for one in results.reasons]
        yield "a create's time at the daemon", ("", "mean", "share"), self._create_time()
        kinds, images = (groups if len(groups) > 1 else () for groups in (results.kinds, results.images))
        yield "time to running by kind", GROUP, _groups(kinds)
        yield "time to running by image, the slowest", GROUP, _groups(images[:SLOWEST])
        yield "time to running by node, the slowest", GROUP, _groups(results.nodes[:SLOWEST])
        yield "about the measurement", ("", ""), list(self._about())

    def _stages(self) -> Iterator[list[str]]:
        for name, times in self.results.stages.items():
            if name != Stage.REACHABLE.value or self.plan.probe != "none":
                yield [name, f"{times.count} of {self.results.started}", *_spread(times)]
        for name, times in (("delete", self.results.deletes), ("status read", self.results.reads)):
            if times.count:
                yield [f"a {name}'s answer", str(times.count), *_spread(times)]

    def _create_time(self) -> Rows:
        spent = self.results.create_time
        if not spent:
            return []
        total, parts = spent_in_all(spent), {words: spent[name] for name, words in PARTS.items()}
        rows = [[words, f"{seconds * 1000:.1f} ms", f"{seconds / total:.0%}"] for words, seconds in parts.items()]
        return [*rows, ["all", f"{total * 1000:.1f} ms", f"{spent['creates']} creates"]]

    def _about(self) -> Iterator[list[str]]:
        results, own, rehearsal = self.results, self.results.own, self.rehearsal
        yield [
            "throughput",
            f"{results.accepted_rate:.1f} accepted a second, {results.running_rate:.1f} running a second",
        ]
        if results.create_time and self.seconds:
            asked = results.create_time["requests"]
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
        if (spares := rehearsal.spares) is not None:
            most = self.plan.most_in_a_second
            advice = f"; set stacks.spare_services to {most}" if spares < most else ""
            yield ["spare Services", f"{spares} at the start, and at most {most} presses in a second{advice}"]
        yield ["the daemon's loop", f"{results.daemon_lag * 1000:.1f} ms late on average"]
        if (ahead := rehearsal.clock_ahead) is not None and (error := rehearsal.clock_error) is not None:
            yield ["clocks", f"the daemon's is {ahead:+.3f} s, known to {error * 1000:.0f} ms"]
        yield from ([f"{count} times", problem] for problem, count in results.troubles.items())

    def fields(self) -> dict[str, object]:
        plan = {name: value for name, value in asdict(self.plan).items() if name != "kinds"}
        return {
            "rehearsal": self.rehearsal.ident,
            "began_at": from_nanoseconds(round(self.rehearsal.wall * NANOSECONDS)),
            "seconds": self.seconds,
            "stackd": self.rehearsal.version,
            "plan": {**plan, "kinds": {kind.name: count for kind, count in self.plan.counts()}},
            "verdict": {"holds": self.verdict.holds, "sentence": self.verdict.sentence},
            "goals": [asdict(one) for one in self.verdict.goals],
            "interrupted": self.interrupted,
            "left": self.remaining,
            "clock_ahead": self.rehearsal.clock_ahead,
            "clock_error": self.rehearsal.clock_error,
            **{name: value for name, value in asdict(self.results).items() if name != "times"},
            "stacks": [attempt.fields() for attempt in self.rehearsal.attempts],
        }

    def arrival(self) -> str:
        """The plan in a sentence."""
        plan = self.plan
        how = "all at once" if plan.rate is None else f"{plan.rate:g} a second"
        mix = ", ".join(f"{count} of {kind.name}" for kind, count in plan.counts())
        parts = [f"{plan.stacks} stacks, {how}: {mix}"]
        parts += [f"held for {format_duration(plan.hold)}"] if plan.hold else []
        parts += [f"{plan.churn:.0%} started again meanwhile"] if plan.churn else []
        parts += [f"addresses tried by {plan.probe}"] if plan.probe != "none" else []
        return "; ".join([*parts, f"a status read every {format_duration(plan.poll)} while a stack starts"])


def are_numbers(cells: Iterable[str]) -> bool:
    return all(_NUMBER.fullmatch(cell) for cell in cells)


def _groups(groups: Sequence[Group]) -> Rows:
    return [
        [
            one.name, str(one.started), str(one.failed), *_spread(one.running, ("p50", "p95", "longest")),
            *_spread(one.starting, ("p50",)), *_spread(one.becoming_ready, ("p50",)),
        ]
        for one in groups
    ]  # fmt: skip


def _spread(times: Times, names: Sequence[str] = TIMES[1:]) -> list[str]:
    values = (getattr(times, name) for name in names)
    return ["–" if not times.count else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s" for value in values]
