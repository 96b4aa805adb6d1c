"""Samples and their figures. Owns: percentiles, ratios, and on which side of a bound a value is good."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MILLISECONDS = 1e3


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that ``share`` (0 to 1) of them do not exceed; 0 without samples."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound; with ``at_most``, values up to it are good, else values from it on. ``text`` says what is compared."""

    name: str
    text: str
    bound: float
    at_most: bool
    unit: str = ""

    def met(self, value: float) -> bool:
        """Whether the value is on the good side."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of the table: a goal and each run's value; for a ratio, also its two sides."""

    goal: Goal
    values: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    of: str = ""
    note: str = ""

    def add(self, measured: float, floor: float | None = None) -> None:
        """Add one run's result: a ratio if there is a floor, otherwise the value itself."""
        self.measured.append(measured)
        if floor is None:
            self.values.append(measured)
            return
        self.floor.append(floor)
        self.values.append(measured / floor if floor else float("inf"))

    @property
    def spread(self) -> tuple[float, float, float]:
        """Least, median, most."""
        return min(self.values), statistics.median(self.values), max(self.values)

    @property
    def met(self) -> bool:
        """Whether the median is on the good side of the bound."""
        return self.goal.met(self.spread[1])

    def as_json(self) -> dict[str, Any]:
        """All fields, for a file."""
        least, median, most = self.spread
        return {
            "name": self.goal.name,
            "text": self.goal.text,
            "bound": self.goal.bound,
            "at_most": self.goal.at_most,
            "min": least,
            "median": median,
            "max": most,
            "met": self.met,
            "runs": self.values,
            "measured": self.measured,
            "floor": self.floor,
            "unit": self.of,
            "note": self.note,
        }


class Results:
    """The figures of all runs, in the order of their first values, and the data of the charts."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}
        self.distributions: dict[str, dict[str, list[float]]] = {}
        self.scale: dict[str, dict[int, float]] = {}
        self.costs: dict[str, list[float]] = {}
        self.published: dict[str, tuple[list[float], str]] = {}

    def add(self, goal: Goal, measured: float, floor: float | None = None, *, of: str = "", note: str = "") -> None:
        """Add one run's value for a goal; ``of`` is the unit of the two sides."""
        figure = self.figures.setdefault(goal.name, Figure(goal=goal))
        figure.of, figure.note = of or figure.of, note or figure.note
        figure.add(measured, floor)

    def distribution(self, chart: str, line: str, seconds: Sequence[float]) -> None:
        """Set the latencies of one line of a chart; the latest run replaces earlier ones."""
        self.distributions.setdefault(chart, {})[line] = list(seconds)

    def at_scale(self, line: str, stacks: int, value: float) -> None:
        """Add one point of the cost against the number of stacks."""
        self.scale.setdefault(line, {})[stacks] = value

    def cost(self, name: str, value: float) -> None:
        """Add a value without a bound, such as CPU per operation."""
        self.costs.setdefault(name, []).append(value)

    def beside(self, name: str, value: float, published: str) -> None:
        """Add one run's value beside another project's published value for the same work."""
        self.published.setdefault(name, ([], published))[0].append(value)

    def as_json(self) -> dict[str, Any]:
        """Everything except the single latencies."""
        return {
            "figures": [figure.as_json() for figure in self.figures.values()],
            "costs": {
                name: {"median": statistics.median(values), "runs": values} for name, values in self.costs.items()
            },
            "published": {name: {"runs": values, "published": said} for name, (values, said) in self.published.items()},
            "scale": {
                line: {str(count): value for count, value in points.items()} for line, points in self.scale.items()
            },
            "percentiles": {
                chart: {
                    line: {f"p{share * 100:g}": percentile(samples, share) for share in (0.5, 0.9, 0.99, 0.999)}
                    for line, samples in lines.items()
                }
                for chart, lines in self.distributions.items()
            },
        }
