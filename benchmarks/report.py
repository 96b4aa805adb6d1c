"""The tables, for people."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Results


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    if results.figures:
        console.print(_figures(results))
    if results.costs:
        console.print(_costs(results))
    if results.published:
        console.print(_published(results))
    if results.scale:
        console.print(_scale(results))


def _figures(results: Results) -> Table:
    table = Table(title="stackd beside its floors", title_justify="left", pad_edge=False)
    for name, justify in (
        ("row", "left"), ("stackd", "right"), ("floor", "right"),
        ("min", "right"), ("median", "right"), ("max", "right"), ("goal", "right"), ("", "left"), ("", "left"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for figure in results.figures.values():
        table.add_row(*_line(figure))
    return table


def _line(figure: Figure) -> list[str]:
    goal = figure.goal
    unit = f" {goal.unit}" if goal.unit else ""
    sides = ["", ""]
    if figure.floor:
        sides = [f"{number(statistics.median(side))} {figure.of}" for side in (figure.measured, figure.floor)]
    values = [number(value) + unit for value in figure.spread]
    bound = f"{'≤' if goal.at_most else '≥'} {goal.bound:g}{unit}"
    return [goal.name, *sides, *values, bound, "ok" if figure.met else "[bold]missed[/]", figure.note or goal.text]


def _costs(results: Results) -> Table:
    table = Table(title="what it costs", title_justify="left", pad_edge=False)
    for name in ("", "min", "median", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in results.costs.items():
        table.add_row(name, *(number(value) for value in (min(values), statistics.median(values), max(values))))
    return table


def _published(results: Results) -> Table:
    table = Table(title="beside what agent-sandbox 1.0 publishes", title_justify="left", pad_edge=False)
    for name in ("", "min", "median", "max", "agent-sandbox 1.0"):
        table.add_column(name, justify="right" if name else "left")
    for name, (values, said) in results.published.items():
        spread = (min(values), statistics.median(values), max(values))
        table.add_row(name, *(f"{number(value)} ms" for value in spread), said)
    return table


def _scale(results: Results) -> Table:
    table = Table(title="cost against the number of stacks", title_justify="left", pad_edge=False)
    counts = sorted({count for points in results.scale.values() for count in points})
    for name in ("", *map(str, counts)):
        table.add_column(name, justify="right" if name else "left")
    for line, points in results.scale.items():
        table.add_row(line, *(number(points[count]) if count in points else "" for count in counts))
    return table


def number(value: float) -> str:
    """A number with about three digits."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
