"""Charts as SVG, and the page of a rehearsal: one self-contained HTML file for a screen, light or dark, and for paper.

Owns: the content of the page and its style: colours are classes of the style sheet. It has no script and loads nothing.
Names of nodes, images and reasons are foreign text, and are escaped.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

from stackd.rehearse.measure import Group, Stage
from stackd.rehearse.outcome import Outcome, Titled, are_numbers

WIDTH, HEIGHT, WIDE = 640.0, 280.0, 1040.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 16.0, 44.0
BINS = 40
ROW, NAME_WIDTH = 22.0, 190.0
MOST_ROWS, LONGEST_NAME = 40, 26
TICKS = 6
FAR = 2.5
"""A goal beyond this many times the last value is left out, because the scale would squeeze the values."""

COLUMNS = 3
STYLES = {
    "pressed": "s4", "accepted": "s0", "scheduled": "s1", "running": "s2", "reachable": "s3", "floor": "s0", "stackd": "s2",
}  # fmt: skip
"""The colours of lines."""

RUNNING = Stage.RUNNING.value
SPREAD_SECONDS = 1.0
"""If the presses are spread over more than this, a chart shows how long each start took, by the time of its press."""

Marks = Sequence[tuple[str, float, str]]
"""Values on the horizontal axis: each with its name, and the style of its line."""


class _Scale:
    """Maps values between 0 and the next tick after ``most`` to places between ``begin`` and ``end``."""

    def __init__(self, most: float, begin: float, end: float) -> None:
        step = _step(most / TICKS)
        self.most = math.ceil(most / step - 1e-9) * step if most > 0 else 1.0
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        return self._begin + min(value, self.most) / self.most * (self._end - self._begin)

    def ticks(self) -> list[float]:
        step = _step(self.most / TICKS)
        return [place * step for place in range(math.floor(self.most / step + 1e-9) + 1)]


def _step(rough: float) -> float:
    """The next round number: 1, 2 or 5 with zeros."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _shape(name: str, style: str, title: str = "", **places: float) -> str:
    at = "".join(f' {place}="{value:.1f}"' for place, value in places.items())
    return f'<{name} class="{style}"{at}>{f"<title>{escape(title)}</title>" if title else ""}</{name}>'


def _text(style: str, text: str, x: float, y: float, anchor: str = "start", title: str = "") -> str:
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{hint}</text>'


def _svg(label: str, content: Iterable[str], height: float = HEIGHT, width: float = WIDTH) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
    return "\n".join([f"<svg {box}>", *content, "</svg>"])


def _plot(across: float, up: float) -> tuple[_Scale, _Scale]:
    return _Scale(across, LEFT, WIDTH - RIGHT), _Scale(up, HEIGHT - BOTTOM, TOP)


def _axes(across: _Scale, up: _Scale, below: str, beside: str, form: str = "{:g}") -> Iterator[str]:
    """Both axes with their names; ``form`` is that of the vertical one's values, seconds if it is empty."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in up.ticks():
        yield _shape("line", "grid", x1=LEFT, x2=right, y1=up(tick), y2=up(tick))
        yield _text("tick", form.format(tick) if form else _duration(tick), LEFT - 6, up(tick) + 4, "end")
    for tick in across.ticks():
        yield _text("tick", _duration(tick), across(tick), bottom + 16, "middle")
    yield _shape("line", "axis", x1=LEFT, x2=right, y1=bottom, y2=bottom)
    yield _text("label", below, (LEFT + right) / 2, HEIGHT - 8, "middle")
    yield _text("label", beside, LEFT, TOP - 5)


def _marks(across: _Scale, marks: Marks, below: float = 12) -> Iterator[str]:
    for place, (name, value, style) in enumerate(marks):
        x = across(value)
        anchor, gap = ("end", -5) if x > WIDTH * 0.75 else ("start", 5)
        yield _shape("line", style, x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM)
        yield _text(f"{style}-text", f"{name} {_duration(value)}", x + gap, TOP + below + 14 * (place % 4), anchor)


def _distribution(values: Sequence[float], marks: Marks, label: str) -> str:
    """How many stacks took how long; ``values`` are sorted and not empty."""
    across, _ = _plot(max(values[-1], *(value for _, value, _ in marks)), 1.0)
    width = _step(across.most / BINS)
    counts = [0] * (math.ceil(across.most / width) + 1)
    for value in values:
        counts[int(value / width)] += 1
    _, up = _plot(1.0, max(counts))
    bars = [
        _shape(
            "rect", "bar", f"{count} stacks: {_duration(place * width)} to {_duration((place + 1) * width)}",
            x=across(place * width) + 0.5, y=up(count), height=up(0) - up(count),
            width=max(1.0, across((place + 1) * width) - across(place * width) - 1),
        )
        for place, count in enumerate(counts) if count
    ]  # fmt: skip
    return _svg(label, [*_axes(across, up, "from the press to running", "stacks"), *bars, *_marks(across, marks)])


def rises(
    lines: Mapping[str, Sequence[float]],
    label: str,
    below: str,
    beside: str,
    totals: Mapping[str, int] | None = None,
    marks: Marks = (),
) -> str:
    """How many values are up to a time, or the share of ``totals`` that they are; a line for each name."""
    most = max((max(values) for values in lines.values() if values), default=0.0)
    near = [mark for mark in marks if mark[1] <= most * FAR]
    longest = max((len(values) for values in lines.values()), default=0)
    across, up = _plot(max([most, *(value for _, value, _ in near)]), longest if totals is None else 1.0)
    drawn = []
    for row, (name, values) in enumerate(lines.items()):
        total, y = 1 if totals is None else totals[name], HEIGHT - BOTTOM - 12 - 17 * (len(lines) - 1 - row)
        stairs = [(value, (count + up_by) / total) for count, value in enumerate(sorted(values)) for up_by in (0, 1)]
        points = _thinned([(across(x), up(y)) for x, y in [(0.0, 0.0), *stairs, (across.most, len(values) / total)]])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn += [
            f'<polyline class="line {STYLES[name]}" points="{path}"><title>{escape(name)}</title></polyline>',
            _shape("line", f"line {STYLES[name]}", x1=WIDTH - 128, x2=WIDTH - 106, y1=y - 4, y2=y - 4),
            _text("name", name, WIDTH - 100, y),
        ]
    axes = _axes(across, up, below, beside, "{:g}" if totals is None else "{:.0%}")
    return _svg(label, [*axes, *drawn, *_marks(across, near, below=70)])


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The points without those within half a pixel of the one before, which nobody would see."""
    last = (-10.0, -10.0)
    for point, following in pairwise([*points, None]):
        if point is not None and (following is None or math.dist(point, last) >= 0.5):
            yield point
            last = point


def _scatter(points: Sequence[tuple[float, float]], failed: Sequence[float], label: str) -> str:
    """How long each start took, by the time of the press; failed ones are at the top."""
    across, up = _plot(max([*(x for x, _ in points), *failed]), max((y for _, y in points), default=1.0) * 1.08)
    dots = [_shape("circle", "dot", cx=across(x), cy=up(y), r=2.2) for x, y in points]
    y = TOP + 5
    crosses = [f'<path class="cross" d="M{across(x) - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>' for x in failed]
    return _svg(label, [*_axes(across, up, "when start was pressed", "to running", form=""), *dots, *crosses])


def _spans(groups: Sequence[Group], label: str) -> str:
    """A row for each group: a bar from the median to the 95th percentile, and a tick at the longest."""
    shown = groups[:MOST_ROWS]
    height = TOP + ROW * len(shown) + BOTTOM
    across = _Scale(max((group.running.longest for group in shown), default=0.0), NAME_WIDTH, WIDTH - 90)
    parts = []
    for tick in across.ticks():
        parts.append(_shape("line", "grid", x1=across(tick), x2=across(tick), y1=TOP, y2=height - BOTTOM))
        parts.append(_text("tick", _duration(tick), across(tick), height - BOTTOM + 16, "middle"))
    for place, group in enumerate(shown):
        y, times, name = TOP + ROW * place + ROW / 2, group.running, group.name
        x, end = across(times.p50), across(times.longest)
        title = f"{name}: p50 {_duration(times.p50)}, p95 {_duration(times.p95)}, longest {_duration(times.longest)}"
        short = name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
        note = f"{group.started}, {group.failed} failed" if group.failed else str(group.started)
        parts += [
            _text("name", short, NAME_WIDTH - 10, y + 4, "end", title=name),
            _shape("rect", "bar", title, x=x, y=y - 5, height=10, rx=2, width=max(2.0, across(times.p95) - x)),
            _shape("line", "longest", x1=end, x2=end, y1=y - 7, y2=y + 7),
            _text("tick", note, WIDTH - 4, y + 4, "end"),
        ]
    return _svg(label, parts, height)


def _create_parts(shares_of: Mapping[str, float], label: str) -> str:
    """One bar of parts that add up to the total, with a legend."""
    total = sum(shares_of.values()) or 1.0
    x, drawn = 0.0, []
    for place, (name, value) in enumerate(shares_of.items()):
        width, text = value / total * WIDE, f"{name}: {_duration(value)}"
        left, top = place % COLUMNS * WIDE / COLUMNS, 58 + place // COLUMNS * 22
        drawn += [
            _shape("rect", f"part s{place}", text, x=x, y=4, width=max(0.0, width - 1), height=30),
            _shape("rect", f"part s{place}", x=left, y=top - 10, width=11, height=11, rx=2),
            _text("name", f"{text}, {value / total:.0%}", left + 17, top),
        ]
        x += width
    return _svg(label, drawn, 58 + 22 * ((len(shares_of) - 1) // COLUMNS) + 14, WIDE)


def _duration(seconds: float) -> str:
    """A length of time in the form of axes and titles."""
    if not seconds:
        return "0"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1a1d21; --soft: #5d6672; --rule: #dfe3e8; --tile: #f5f7f9;
  --good: #14743c; --bad: #b3261e; --s0: #7a8794; --s1: #b7791f; --s2: #1f6fb2; --s3: #2f8f5b; --s4: #8a5bb0; --bar: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e7eaee; --soft: #a0a9b4; --rule: #333a42;
  --tile: #1d2126; --good: #5fd08d; --bad: #ff8a80; --s0: #98a4b1; --s1: #e0a84e; --s2: #62b0ee; --s3: #6fd39b;
  --s4: #c49be6; --bar: #62b0ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 0 0 6px; } .soft, caption { color: var(--soft); }
.good h1 { color: var(--good); } .bad h1 { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 22px 0; padding: 0; }
.tiles div { background: var(--tile); border-radius: 8px; padding: 12px 14px; }
.tiles dt { color: var(--soft); font-size: 13px; } .tiles dd { margin: 0; font-size: 22px; font-weight: 600; }
section { margin: 28px 0 0; break-inside: avoid; overflow-x: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 32px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); } td.n, th.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg .name { fill: var(--ink); font-size: 12px; }
svg .grid { stroke: var(--rule); } svg .axis { stroke: var(--soft); }
svg .bar, svg .dot { fill: var(--bar); } svg .dot { fill-opacity: .55; } svg .cross { stroke: var(--bad); fill: none; }
svg .longest { stroke: var(--ink); stroke-width: 2; } svg .line { fill: none; stroke-width: 2; }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3; } svg .mark-text { fill: var(--ink); }
svg .goal { stroke: var(--bad); stroke-dasharray: 6 4; stroke-width: 1.5; } svg .goal-text { fill: var(--bad); }
svg .line.s0 { stroke: var(--s0); } svg .line.s1 { stroke: var(--s1); } svg .line.s2 { stroke: var(--s2); }
svg .line.s3 { stroke: var(--s3); stroke-dasharray: 7 3; }
svg .line.s4 { stroke: var(--s4); } svg .part.s0 { fill: var(--s0); } svg .part.s1 { fill: var(--s1); }
svg .part.s2 { fill: var(--s2); } svg .part.s3 { fill: var(--s3); } svg .part.s4 { fill: var(--s4); }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --tile: #fff;
  --good: #0b5a2c; --bad: #a01a13; --s0: #7a8794; --s1: #b7791f; --s2: #1f6fb2; --s3: #2f8f5b; --s4: #8a5bb0; --bar: #1f6fb2; }
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; } main { max-width: none; padding: 0; }
  .tiles { grid-template-columns: repeat(5, 1fr); } .tiles div { border: 1px solid var(--rule); }
  .pair { grid-template-columns: 1fr 1fr; gap: 0 20px; }
  h2 { break-after: avoid; } }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """One self-contained HTML page."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    )
    return f"{head}<style>{STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"


def page(found: Outcome) -> str:
    """The page of a rehearsal."""
    tone = "good" if found.verdict.holds else "" if found.interrupted else "bad"
    rehearsal = found.rehearsal
    title = f"Rehearsal {rehearsal.ident}"
    began = dt.datetime.fromtimestamp(rehearsal.wall).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    header = (
        f'<header class="{tone}"><h1>{escape(found.verdict.sentence)}</h1>\n<p>{escape(found.arrival())}.</p>\n'
        f'<p class="soft">{escape(title)}, {escape(began)}, {found.seconds:.0f} s, stackd {escape(rehearsal.version or "?")}</p>'
        "</header>"
    )
    return document(title, [header, _tiles(found), *_drawings(found), *tables(found.tables())])


def _tiles(found: Outcome) -> str:
    results = found.results
    running = results.stages[RUNNING]
    tiles = {
        "running, half of them within": _duration(running.p50) if running.count else "–",
        "running, 95 of 100 within": _duration(running.p95) if running.count else "–",
        "failed": f"{results.failed} of {results.started}",
        "accepted a second": f"{results.accepted_rate:.1f}",
    }
    if (spent := results.create_time) is not None and spent.total:
        tiles["API server's share of a create"] = f"{spent.api_server / spent.total:.0%}"
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">{shown}</dl>'


def _drawings(found: Outcome) -> Iterator[str]:
    results, samples = found.results, found.results.samples
    goals = [
        (f"goal {goal.what} {goal.text.partition('=')[0].partition('-')[2]}", goal.limit, "goal")
        for goal in found.goals
        if goal.what in set(Stage)
    ]
    yield '<div class="pair">'
    if running := results.times[RUNNING]:
        marks = [(name, getattr(results.stages[RUNNING], name), "mark") for name in ("p50", "p95", "p99")]
        yield section("Time to running", _distribution(running, marks, "Distribution of the time to running"))
    if reached := {name: results.times[name] for name in results.stages if results.times[name]}:
        totals, label = dict.fromkeys(reached, results.started), "Share of stacks by time and stage"
        drawn = rises(reached, label, "after the press", "share of all stacks", totals, goals)
        yield section("Share of stacks that came so far, over time", drawn)
        course = {
            "pressed": [one.pressed for one in samples],
            RUNNING: [one.pressed + one.running for one in samples if one.running is not None],
            "reachable": [one.pressed + one.reachable for one in samples if one.reachable is not None],
        }
        course = {name: times for name, times in course.items() if times}
        drawn = rises(course, "Stacks by stage over the rehearsal", "of the rehearsal", "stacks")
        yield section("The rehearsal's course", drawn)
    pressed = [sample.pressed for sample in samples]
    if pressed and max(pressed) - min(pressed) > SPREAD_SECONDS:
        dots = [(sample.pressed, sample.running) for sample in samples if sample.running is not None]
        failed = [sample.pressed for sample in samples if sample.failed]
        yield section("Time to running over time", _scatter(dots, failed, "Time to running by time of the press"))
    yield "</div>"
    if (spent := results.create_time) is not None and spent.total:
        yield section("Where a create's time goes, on average", _create_parts(spent.parts(), "A create's time by part"))
    yield '<div class="pair">'
    for title, groups in (("By node: time to running", results.nodes), ("By image: time to running", results.images)):
        if any(group.running.count for group in groups):
            yield section(title, _spans(groups, title), SPAN_KEY)
    yield "</div>"


SPAN_KEY = "A bar is from the median to the 95th percentile, the tick is the longest; at the right are the stacks."


def section(title: str, content: str, note: str = "") -> str:
    """A part of a page."""
    soft = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>\n{content}\n{soft}</section>"


def tables(titled: Iterable[Titled]) -> Iterator[str]:
    """The tables that have rows, each as a part of a page."""
    for title, heads, rows in titled:
        if rows:
            columns = zip(*rows, strict=True)
            styles = [' class="n"' if are_numbers(column) else "" for column in columns]
            body = "".join(_row("td", row, styles) for row in rows)
            head = f"<thead>{_row('th', heads, styles)}</thead>" if any(heads) else ""
            yield section(title[:1].upper() + title[1:], f"<table>{head}<tbody>{body}</tbody></table>")


def _row(tag: str, cells: Sequence[str], styles: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}{style}>{escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))}</tr>"
