"""The figures of all runs: ratios beside their floors, and on which side of a bound a value is good."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stackd.rehearse import report
from stackd.rehearse.measure import percentile, summary
from stackd.rehearse.outcome import Titled


def milliseconds(seconds: Sequence[float], share: float) -> float:
    return percentile(sorted(seconds), share) * 1e3


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound; with ``at_most``, values up to it are good, else values from it on. ``text`` says what is compared."""

    name: str
    text: str
    bound: float
    unit: str = ""
    at_most: bool = True


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of the table: a goal and each run's value; for a ratio, also its two sides in the unit ``of``."""

    goal: Goal
    runs: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    of: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def met(self) -> bool:
        return self.median <= self.goal.bound if self.goal.at_most else self.median >= self.goal.bound

    def cells(self) -> list[str]:
        goal, medians = self.goal, [statistics.median(side) for side in (self.measured, self.floor) if self.floor]
        sides = [f"{number(value)} {self.of}" for value in medians] or ["", ""]
        spread = [f"{number(value)} {goal.unit}".strip() for value in (min(self.runs), self.median, max(self.runs))]
        bound = f"{'≤' if goal.at_most else '≥'} {goal.bound:g} {goal.unit}".strip()
        return [goal.name, *sides, *spread, bound, "" if self.met else "missed", self.note or goal.text]


@dataclass(slots=True)
class Results:
    """Everything measured, in the order of the first values. ``suffix`` ends the names while a row runs."""

    suffix: str = ""
    figures: dict[str, Figure] = field(default_factory=dict)
    costs: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    scale: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, goal: Goal, measured: float, floor: float | None = None, *, of: str = "", note: str = "") -> None:
        """Add one run's value for a goal, or its ratio to the floor; ``of`` is the unit of the two sides."""
        goal = replace(goal, name=goal.name + self.suffix)
        figure = self.figures.setdefault(goal.name, Figure(goal=goal, of=of, note=note))
        figure.measured.append(measured)
        if floor is not None:
            figure.floor.append(floor)
            measured = measured / floor if floor else float("inf")
        figure.runs.append(measured)

    def draw(self, chart: str, **lines: Sequence[float]) -> None:
        """Set the latencies of a chart, by line; the latest run replaces earlier ones."""
        self.latencies[chart + self.suffix] = {name: sorted(seconds) for name, seconds in lines.items()}

    def cost(self, name: str, value: float) -> None:
        """Add a value without a bound, such as CPU per operation."""
        self.costs.setdefault(name + self.suffix, []).append(value)

    def at_scale(self, line: str, stacks: int, value: float) -> None:
        self.scale.setdefault(line, {})[stacks] = value

    def tables(self) -> Iterator[Titled]:
        heads = ("row", "stackd", "floor", "min", "median", "max", "goal", "", "")
        yield "stackd beside its floors", heads, [figure.cells() for figure in self.figures.values()]
        costs = [
            [name, *map(number, (min(runs), statistics.median(runs), max(runs)))] for name, runs in self.costs.items()
        ]
        yield "what it costs", ("", "min", "median", "max"), costs
        counts = list(next(iter(self.scale.values()), ()))
        rows = [[line, *(number(points[count]) for count in counts)] for line, points in self.scale.items()]
        yield "cost against the number of stacks", ("", *map(str, counts)), rows

    def page(self) -> str:
        drawn = []
        for title, lines in self.latencies.items():
            totals = {name: len(one) for name, one in lines.items()}
            drawn.append(report.section(title, report.rises(lines, totals, title, "latency")))
        return report.document("Benchmarks", [*report.tables(self.tables()), *drawn])

    def as_json(self) -> dict[str, Any]:
        figures = [asdict(one) | {"median": one.median, "met": one.met} for one in self.figures.values()]
        latencies = {
            chart: {line: summary(seconds) for line, seconds in lines.items()}
            for chart, lines in self.latencies.items()
        }
        return {"figures": figures, "costs": self.costs, "scale": self.scale, "latencies": latencies}


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
