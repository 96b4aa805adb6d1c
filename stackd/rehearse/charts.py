"""Charts as SVG, for a page that is light, dark or printed: colours are classes of the page's style sheet.

Owns: scales, axes and the five drawings. Knows no files; all text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 640.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 16.0, 44.0
BINS = 40
ROW, NAME_WIDTH = 22.0, 190.0
MOST_ROWS = 40
LONGEST_NAME = 26
ROOM_FOR_TICKS = 6
WIDE = 1040.0
FAR = 2.5
"""A goal beyond this many times the last value is left out, because the scale would squeeze the values."""

COLUMNS = 3

STYLES = {"pressed": "s4", "accepted": "s0", "scheduled": "s1", "running": "s2", "reachable": "s3"}
STYLES |= {"floor": "s0", "stackd": "s2"}
"""The colours of lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values between 0 and ``most`` to places between ``begin`` and ``end``."""

    most: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.begin + min(value, self.most) / self.most * (self.end - self.begin)

    def ticks(self) -> Iterator[float]:
        """A few round values."""
        step = _step(self.most / ROOM_FOR_TICKS)
        yield from (place * step for place in range(math.floor(self.most / step + 1e-9) + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A value on the horizontal axis with its name, such as a percentile or a goal."""

    name: str
    value: float
    style: str = "mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A named row of a chart: from the median to the 95th percentile, and the longest; ``note`` is at its end."""

    name: str
    p50: float
    p95: float
    longest: float
    note: str


def distribution(values: Sequence[float], marks: Sequence[Mark], label: str) -> str:
    """How many stacks took how long; ``values`` are sorted and not empty."""
    across = _across(max(values[-1], *(mark.value for mark in marks)))
    width = _step(across.most / BINS)
    counts = [0] * (math.ceil(across.most / width) + 1)
    for value in values:
        counts[int(value / width)] += 1
    up = _up(max(counts))
    bars = [
        f'<rect class="bar" x="{across(place * width) + 0.5:.1f}" y="{up(count):.1f}"'
        f' width="{max(1.0, across((place + 1) * width) - across(place * width) - 1):.1f}"'
        f' height="{up(0) - up(count):.1f}"><title>{count} stacks: {time(place * width)} to {time((place + 1) * width)}'
        "</title></rect>"
        for place, count in enumerate(counts)
        if count
    ]
    return _svg(label, [*_axes(across, up, "from the press to running", "stacks"), *bars, *_marks(across, marks)])


def rises(
    lines: Mapping[str, Sequence[float]],
    label: str,
    below: str,
    beside: str,
    totals: Mapping[str, int] | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """How many values are up to a time, or the share of ``totals`` that they are; a line for each name."""
    most = max((max(values) for values in lines.values() if values), default=0.0)
    near = [mark for mark in marks if mark.value <= most * FAR]
    across = _across(max([most, *(mark.value for mark in near)]))
    up = _up(max((len(values) for values in lines.values()), default=0) if totals is None else 1.0)
    drawn = []
    for name, values in lines.items():
        points = [(0.0, 0.0), *_stairs(sorted(values), 1 if totals is None else totals[name])]
        points.append((across.most, points[-1][1]))
        drawn.append(_line(name, [(across(x), up(y)) for x, y in points]))
    axes = _axes(across, up, below, beside, percent=totals is not None)
    return _svg(label, [*axes, *drawn, *_marks(across, near, below=70), *_legend(list(lines))])


def scatter(points: Points, failed: Sequence[float], label: str) -> str:
    """How long each start took, by the time of the press; failed ones are at the top."""
    across = _across(max([*(x for x, _ in points), *failed]))
    up = _up(max((y for _, y in points), default=1.0) * 1.08)
    dots = [f'<circle class="dot" cx="{across(x):.1f}" cy="{up(y):.1f}" r="2.2"/>' for x, y in points]
    crosses = [_cross(across(x), TOP + 5) for x in failed]
    axes = _axes(across, up, "when start was pressed", "to running", seconds_up=True)
    return _svg(label, [*axes, *dots, *crosses])


def spans(rows: Sequence[Span], label: str) -> str:
    """A row for each name: a bar from the median to the 95th percentile, and a tick at the longest."""
    shown = rows[:MOST_ROWS]
    height = TOP + ROW * len(shown) + BOTTOM
    across = Scale(most=_most(max((row.longest for row in shown), default=0.0)), begin=NAME_WIDTH, end=WIDTH - 90)
    parts = [
        f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text class="tick" x="{across(tick):.1f}" y="{height - BOTTOM + 16:.1f}" text-anchor="middle">{time(tick)}</text>'
        for tick in across.ticks()
    ]
    for place, row in enumerate(shown):
        y = TOP + ROW * place + ROW / 2
        parts += [
            f'<text class="name" x="{NAME_WIDTH - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(_short(row.name))}'
            f"<title>{escape(row.name)}</title></text>",
            f'<rect class="bar" x="{across(row.p50):.1f}" y="{y - 5:.1f}" height="10" rx="2"'
            f' width="{max(2.0, across(row.p95) - across(row.p50)):.1f}"><title>{escape(row.name)}: p50 {time(row.p50)},'
            f" p95 {time(row.p95)}, longest {time(row.longest)}</title></rect>",
            f'<line class="longest" x1="{across(row.longest):.1f}" x2="{across(row.longest):.1f}" y1="{y - 7:.1f}"'
            f' y2="{y + 7:.1f}"/>',
            f'<text class="tick" x="{WIDTH - 4}" y="{y + 4:.1f}" text-anchor="end">{escape(row.note)}</text>',
        ]
    return _svg(label, parts, height)


def parts(shares_of: Mapping[str, float], label: str) -> str:
    """One bar of parts that add up to the whole, with a legend."""
    whole = sum(shares_of.values()) or 1.0
    x, drawn = 0.0, []
    for place, (name, value) in enumerate(shares_of.items()):
        width = value / whole * WIDE
        drawn.append(
            f'<rect class="part s{place}" x="{x:.1f}" y="4" width="{max(0.0, width - 1):.1f}" height="30">'
            f"<title>{escape(name)}: {time(value)}</title></rect>"
        )
        x += width
        left, top = place % COLUMNS * WIDE / COLUMNS, 58 + place // COLUMNS * 22
        drawn.append(
            f'<rect class="part s{place}" x="{left:.1f}" y="{top - 10}" width="11" height="11" rx="2"/>'
            f'<text class="name" x="{left + 17:.1f}" y="{top}">{escape(name)}: {time(value)}, {value / whole:.0%}</text>'
        )
    return _svg(label, drawn, 58 + 22 * ((len(shares_of) - 1) // COLUMNS) + 14, WIDE)


def time(seconds: float) -> str:
    """A length of time in the form of axes and titles."""
    if not seconds:
        return "0"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def _svg(label: str, content: Sequence[str], height: float = HEIGHT, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">\n'
        + "\n".join(content)
        + "\n</svg>"
    )


def _across(most: float) -> Scale:
    return Scale(most=_most(most), begin=LEFT, end=WIDTH - RIGHT)


def _up(most: float) -> Scale:
    return Scale(most=_most(most), begin=HEIGHT - BOTTOM, end=TOP)


def _most(value: float) -> float:
    """The end of a scale: the next tick."""
    if value <= 0:
        return 1.0
    step = _step(value / ROOM_FOR_TICKS)
    return math.ceil(value / step - 1e-9) * step


def _step(rough: float) -> float:
    """The next round number: 1, 2 or 5 with zeros."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _axes(
    across: Scale, up: Scale, below: str, beside: str, *, percent: bool = False, seconds_up: bool = False
) -> Iterator[str]:
    for tick in up.ticks():
        text = f"{tick:.0%}" if percent else time(tick) if seconds_up else f"{tick:g}"
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{text}</text>'
    bottom = HEIGHT - BOTTOM
    for tick in across.ticks():
        yield f'<text class="tick" x="{across(tick):.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{time(tick)}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(below)}</text>'
    yield f'<text class="label" x="{LEFT}" y="{TOP - 5}" text-anchor="start">{escape(beside)}</text>'


def _marks(across: Scale, marks: Sequence[Mark], below: float = 12) -> Iterator[str]:
    for place, mark in enumerate(marks):
        x, y = across(mark.value), TOP + below + 14 * (place % 4)
        side, gap = ("end", -5) if x > WIDTH * 0.75 else ("start", 5)
        yield f'<line class="{mark.style}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield (
            f'<text class="{mark.style}-text" x="{x + gap:.1f}" y="{y:.1f}" text-anchor="{side}">'
            f"{escape(mark.name)} {time(mark.value)}</text>"
        )


def _stairs(values: Sequence[float], total: int) -> Iterator[tuple[float, float]]:
    """The points of a line that goes up by one ``total``-th at each value."""
    for count, value in enumerate(values):
        yield value, count / total
        yield value, (count + 1) / total


def _line(name: str, points: Points) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _thinned(points))
    return f'<polyline class="line {STYLES[name]}" points="{path}"><title>{escape(name)}</title></polyline>'


def _thinned(points: Points) -> Iterator[tuple[float, float]]:
    """The points without those within half a pixel of the one before, which nobody would see."""
    last = (-10.0, -10.0)
    for place, point in enumerate(points):
        if place == len(points) - 1 or abs(point[0] - last[0]) + abs(point[1] - last[1]) >= 0.5:
            yield point
            last = point


def _legend(names: Sequence[str]) -> Iterator[str]:
    for place, name in enumerate(names):
        y = HEIGHT - BOTTOM - 12 - 17 * (len(names) - 1 - place)
        yield f'<line class="line {STYLES[name]}" x1="{WIDTH - 128}" x2="{WIDTH - 106}" y1="{y - 4:.1f}" y2="{y - 4:.1f}"/>'
        yield f'<text class="name" x="{WIDTH - 100}" y="{y:.1f}">{escape(name)}</text>'


def _cross(x: float, y: float) -> str:
    return f'<path class="cross" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>'


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
