"""The output at the end of a rehearsal: the verdict, the figures, the plan, and what is left.

Owns: the tables, which the terminal and the page share, and the fields of ``--json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from stackd.clock import NANOSECONDS, from_nanoseconds
from stackd.rehearse.attempts import Stage
from stackd.rehearse.goals import Goal, Verdict, judge
from stackd.rehearse.measure import Group, Results, Side, Times, create_time, mean_lag, measure, summary
from stackd.rehearse.plan import Plan
from stackd.rehearse.rehearsal import Rehearsal
from stackd.rehearse.run import Measured, last_end
from stackd.units import format_duration

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
        spent = self.results.side.create_time
        if spent is None or not spent.total:
            return
        for name, seconds in spent.parts().items():
            yield [name, f"{seconds * 1000:.1f} ms", f"{seconds / spent.total:.0%}"]
        yield ["all", f"{spent.total * 1000:.1f} ms", f"{spent.creates} creates"]

    def _about(self) -> Iterator[list[str]]:
        results, side, own = self.results, self.results.side, self.results.side.own
        rates = f"{results.accepted_rate:.1f} accepted a second, {results.running_rate:.1f} running a second"
        yield ["throughput", rates]
        if side.create_time is not None and self.seconds:
            asked = side.create_time.requests
            yield ["API server", f"{asked} requests of stackd's, {asked / self.seconds:.1f} a second"]
        if self.plan.probe != "none":
            refused = f"{results.first_refused} did not answer at first, after the stack was reported as running"
            yield ["addresses", refused]
        if side.failed_reads:
            yield ["status reads", f"{side.failed_reads} failed"]
        yield [
            "this machine",
            f"loop at most {own['loop_lag_max'] * 1000:.0f} ms late (p99 {own['loop_lag_p99'] * 1000:.0f} ms), creates sent"
            f" at most {own['sent_late_max'] * 1000:.0f} ms late, {own['cpu_busiest']:.0%} of a core at its busiest",
        ]
        yield from (["", f"this machine may have been the bottleneck: {why}"] for why in side.bottleneck)
        yield ["", f"load {own['load']:.1f} on {own['cpus']:.0f} CPUs at the end"]
        yield ["the daemon's loop", f"{side.daemon_lag * 1000:.1f} ms late on average"]
        if self.clock_ahead is not None and self.clock_error is not None:
            yield ["clocks", f"the daemon's is {self.clock_ahead:+.3f} s, known to {self.clock_error * 1000:.0f} ms"]
        yield from ([f"{count} times", problem] for problem, count in side.troubles.items())

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
    side = Side(
        reads=rehearsal.reads,
        failed_reads=rehearsal.failed_reads,
        deletes=rehearsal.deletes,
        create_time=create_time(before, after) if before and after else None,
        daemon_lag=mean_lag(before, after) if before and after else 0.0,
        own=own.figures(),
        bottleneck=own.bottleneck(summary(one.took(Stage.RUNNING) for one in attempts).p50),
        troubles=dict(rehearsal.troubles.most_common()),
    )
    results = measure(attempts, side)
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
