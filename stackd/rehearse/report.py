"""Charts as SVG, and the page of a rehearsal: one self-contained HTML file for a screen, light or dark, and for paper.

Owns: the content of the page and its style: colours are classes of the style sheet. It has no script and loads nothing.
Names of nodes, images and reasons are foreign text, and are escaped.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

from stackd.rehearse.measure import Group, Stage, spent_in_all
from stackd.rehearse.outcome import Outcome, Titled, are_numbers

WIDTH, HEIGHT = 640.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 16.0, 44.0
ROW, NAME_WIDTH = 22.0, 190.0
MOST_ROWS, LONGEST_NAME, MOST_STEPS = 40, 26, 400
TICKS = 6
# A goal beyond this many times the last value is left out, because the scale would squeeze the values.
FAR = 2.5
# The colours of lines.
STYLES = {"accepted": "s0", "scheduled": "s1", "running": "s2", "reachable": "s3", "floor": "s0", "stackd": "s2"}
RUNNING = Stage.RUNNING.value
# Values on the horizontal axis: each with its name, and the style of its line.
Marks = Sequence[tuple[str, float, str]]


class _Scale:
    """Maps values between 0 and the next tick after ``most`` to places between ``begin`` and ``end``."""

    def __init__(self, most: float, begin: float, end: float) -> None:
        rough = most / TICKS or 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
        self.ticks = [place * step for place in range(math.ceil(most / step - 1e-9) + 1)] if most > 0 else [0.0, 1.0]
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        return self._begin + min(value / self.ticks[-1], 1.0) * (self._end - self._begin)


def _shape(name: str, style: str, text: str = "", title: str = "", **attributes: float | str) -> str:
    values = {key: f"{value:.1f}" if isinstance(value, float | int) else value for key, value in attributes.items()}
    written = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in values.items())
    hint = f"<title>{escape(title)}</title>" if title else ""
    return f'<{name} class="{style}"{written}>{escape(text)}{hint}</{name}>'


def _text(style: str, text: str, x: float, y: float, anchor: str = "start", title: str = "") -> str:
    return _shape("text", style, text, title, x=x, y=y, text_anchor=anchor)


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return _shape("line", style, x1=x1, y1=y1, x2=x2, y2=y2)


def _svg(label: str, content: Iterable[str], height: float = HEIGHT) -> str:
    box = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"'
    return "\n".join([f"<svg {box}>", *content, "</svg>"])


def _plot(
    most: tuple[float, float], below: str, beside: str, form: Callable[[float], str]
) -> tuple[_Scale, _Scale, list[str]]:
    """Both scales up to the ``most`` values, and the axes with their names; ``form`` is that of the vertical values."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    across, up = _Scale(most[0], LEFT, right), _Scale(most[1], bottom, TOP)
    axes = [_line("axis", LEFT, bottom, right, bottom)]
    for tick in up.ticks:
        axes.append(_line("grid", LEFT, up(tick), right, up(tick)))
        axes.append(_text("tick", form(tick), LEFT - 6, up(tick) + 4, "end"))
    axes += [_text("tick", _duration(tick), across(tick), bottom + 16, "middle") for tick in across.ticks]
    axes += [_text("label", below, (LEFT + right) / 2, HEIGHT - 8, "middle"), _text("label", beside, LEFT, TOP - 5)]
    return across, up, axes


def rises(
    lines: Mapping[str, Sequence[float]], totals: Mapping[str, int], label: str, of: str, marks: Marks = ()
) -> str:
    """The share of ``totals`` that took up to a time; a line for each name."""
    last = max((max(values) for values in lines.values() if values), default=0.0)
    near = [mark for mark in marks if mark[1] <= last * FAR]
    most = max([last, *(value for _, value, _ in near)]), 1.0
    across, up, drawn = _plot(most, of, "share of all", "{:.0%}".format)
    for row, (name, values) in enumerate(lines.items()):
        ordered, y = sorted(values), HEIGHT - BOTTOM - 12 - 17 * (len(lines) - 1 - row)
        places = sorted({*range(0, len(ordered), len(ordered) // MOST_STEPS + 1), len(ordered) - 1} - {-1})
        steps = [(ordered[place], count) for place in places for count in (place, place + 1)]
        ends = [(0.0, 0), *steps, (across.ticks[-1], len(ordered))]
        path = " ".join(f"{across(x):.1f},{up(count / totals[name]):.1f}" for x, count in ends)
        drawn += [
            _shape("polyline", f"line {STYLES[name]}", title=name, points=path),
            _line(f"line {STYLES[name]}", WIDTH - 128, y - 4, WIDTH - 106, y - 4),
            _text("name", name, WIDTH - 100, y),
        ]
    for place, (name, value, style) in enumerate(near):
        x, y = across(value), TOP + 82 + 14 * (place % 4)
        anchor, gap = ("end", -5) if x > WIDTH * 0.75 else ("start", 5)
        drawn += [
            _line(style, x, TOP, x, HEIGHT - BOTTOM),
            _text(f"{style}-text", f"{name} {_duration(value)}", x + gap, y, anchor),
        ]
    return _svg(label, drawn)


def _scatter(points: Sequence[tuple[float, float]], failed: Sequence[float], label: str) -> str:
    """How long each start took, by the time of the press; failed ones are at the top."""
    most = max([*(x for x, _ in points), *failed]), max((y for _, y in points), default=1.0) * 1.08
    across, up, axes = _plot(most, "when start was pressed", "to running", _duration)
    dots = [_shape("circle", "dot", cx=across(x), cy=up(y), r=2.2) for x, y in points]
    crosses = [_shape("path", "cross", d=f"M{across(x) - 3:.1f} {TOP + 2:.1f}l6 6m0 -6l-6 6") for x in failed]
    return _svg(label, [*axes, *dots, *crosses])


def _spans(groups: Sequence[Group], label: str) -> str:
    """A row for each group: a bar from the median to the 95th percentile, and a tick at the longest."""
    shown = groups[:MOST_ROWS]
    height = TOP + ROW * len(shown) + BOTTOM
    across = _Scale(max(group.running.longest for group in shown), NAME_WIDTH, WIDTH - 90)
    parts = [_line("grid", across(tick), TOP, across(tick), height - BOTTOM) for tick in across.ticks]
    parts += [_text("tick", _duration(tick), across(tick), height - BOTTOM + 16, "middle") for tick in across.ticks]
    for place, group in enumerate(shown):
        y, times, name = TOP + ROW * place + ROW / 2, group.running, group.name
        x, end = across(times.p50), across(times.longest)
        title = f"{name}: p50 {_duration(times.p50)}, p95 {_duration(times.p95)}, longest {_duration(times.longest)}"
        short = name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
        note = f"{group.started}, {group.failed} failed" if group.failed else str(group.started)
        parts += [
            _text("name", short, NAME_WIDTH - 10, y + 4, "end", title=name),
            _shape("rect", "bar", title=title, x=x, y=y - 5, height=10, rx=2, width=max(2.0, across(times.p95) - x)),
            _line("longest", end, y - 7, end, y + 7),
            _text("tick", note, WIDTH - 4, y + 4, "end"),
        ]
    return _svg(label, parts, height)


def _duration(seconds: float) -> str:
    if not seconds:
        return "0"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


STYLE = """
:root { color-scheme: light dark; --paper: light-dark(#fff, #14171a); --ink: light-dark(#1a1d21, #e7eaee);
  --soft: light-dark(#5d6672, #a0a9b4); --rule: light-dark(#dfe3e8, #333a42); --tile: light-dark(#f5f7f9, #1d2126);
  --good: light-dark(#14743c, #5fd08d); --bad: light-dark(#b3261e, #ff8a80); --s0: light-dark(#7a8794, #98a4b1);
  --s1: light-dark(#b7791f, #e0a84e); --s2: light-dark(#1f6fb2, #62b0ee); --s3: light-dark(#2f8f5b, #6fd39b); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 8px; break-after: avoid; }
p { margin: 0 0 6px; } .soft { color: var(--soft); }
.good h1 { color: var(--good); } .bad h1 { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 22px 0; padding: 0; }
.tiles div { background: var(--tile); border-radius: 8px; padding: 12px 14px; }
.tiles dt { color: var(--soft); font-size: 13px; } .tiles dd { margin: 0; font-size: 22px; font-weight: 600; }
section { margin: 28px 0 0; break-inside: avoid; overflow-x: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 0 32px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); } .n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
svg .name { fill: var(--ink); font-size: 12px; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .longest { stroke: var(--ink); stroke-width: 2; }
.bar, .dot { fill: var(--s2); } .dot { fill-opacity: .55; } .cross { stroke: var(--bad); fill: none; }
.mark { stroke: var(--ink); stroke-dasharray: 2 3; } svg .mark-text { fill: var(--ink); }
.goal { stroke: var(--bad); stroke-dasharray: 6 4; stroke-width: 1.5; } svg .goal-text { fill: var(--bad); }
.s0 { --it: var(--s0); } .s1 { --it: var(--s1); } .s2 { --it: var(--s2); } .s3 { --it: var(--s3); }
.line { fill: none; stroke: var(--it); stroke-width: 2; } .line.s3 { stroke-dasharray: 7 3; }
@media print { :root { color-scheme: light; }
  body { font-size: 10.5pt; print-color-adjust: exact; } main { max-width: none; padding: 0; }
  .tiles { grid-template-columns: repeat(5, 1fr); } .tiles div { background: none; border: 1px solid var(--rule); }
  .pair { grid-template-columns: 1fr 1fr; gap: 0 20px; } }
"""


def document(title: str, parts: Iterable[str]) -> str:
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    )
    return f"{head}<style>{STYLE}</style></head><body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"


def page(outcome: Outcome) -> str:
    rehearsal, verdict = outcome.rehearsal, outcome.verdict
    tone = "good" if verdict.holds else "" if outcome.interrupted else "bad"
    title = f"Rehearsal {rehearsal.ident}"
    began = dt.datetime.fromtimestamp(rehearsal.wall).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    about = f"{title}, {began}, {outcome.seconds:.0f} s, stackd {rehearsal.version or '?'}"
    header = (
        f'<header class="{tone}"><h1>{escape(verdict.sentence)}</h1>\n<p>{escape(outcome.arrival())}.</p>\n'
        f'<p class="soft">{escape(about)}</p></header>'
    )
    return document(title, [header, _tiles(outcome), *_charts(outcome), *tables(outcome.tables())])


def _tiles(outcome: Outcome) -> str:
    results = outcome.results
    running = results.stages[RUNNING]
    tiles = {
        "running, half of them within": _duration(running.p50) if running.count else "–",
        "running, 95 of 100 within": _duration(running.p95) if running.count else "–",
        "failed": f"{results.failed} of {results.started}",
        "accepted a second": f"{results.accepted_rate:.1f}",
    }
    if spent := results.create_time:
        tiles["API server's share of a create"] = f"{spent['api_server'] / spent_in_all(spent):.0%}"
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">{shown}</dl>'


def _charts(outcome: Outcome) -> Iterator[str]:
    results, attempts = outcome.results, outcome.rehearsal.attempts
    yield '<div class="pair">'
    if reached := {name: results.times[name] for name in results.stages if results.times[name]}:
        marks = [
            (f"goal {goal.what} {goal.text.partition('=')[0].partition('-')[2]}", goal.limit, "goal")
            for goal in outcome.goals
            if goal.what in results.stages
        ]
        running = results.stages[RUNNING]
        marks += [
            (f"running {name}", getattr(running, name), "mark") for name in ("p50", "p95", "p99") if running.count
        ]
        totals = dict.fromkeys(reached, results.started)
        drawn = rises(reached, totals, "Distribution of the time to each stage", "after the press", marks)
        yield section("Time to running: the share of stacks that came so far", drawn)
    if attempts:
        dots = [(one.due, took) for one in attempts if (took := one.took(Stage.RUNNING)) is not None]
        failed = [one.due for one in attempts if one.failed]
        yield section("Time to running over time", _scatter(dots, failed, "Time to running by time of the press"))
    for title, groups in (("By node: time to running", results.nodes), ("By image: time to running", results.images)):
        if any(group.running.count for group in groups):
            yield section(title, _spans(groups, title), SPAN_KEY)
    yield "</div>"


SPAN_KEY = "A bar is from the median to the 95th percentile, the tick is the longest; at the right are the stacks."


def section(title: str, content: str, note: str = "") -> str:
    soft = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>\n{content}\n{soft}</section>"


def tables(titled: Iterable[Titled]) -> Iterator[str]:
    """The tables that have rows, each as a part of a page."""
    for title, heads, rows in titled:
        if rows:
            styles = [' class="n"' if are_numbers(column) else "" for column in zip(*rows, strict=True)]
            body = "".join(_row("td", row, styles) for row in rows)
            head = f"<thead>{_row('th', heads, styles)}</thead>" if any(heads) else ""
            yield section(title[:1].upper() + title[1:], f"<table>{head}<tbody>{body}</tbody></table>")


def _row(tag: str, cells: Sequence[str], styles: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}{style}>{escape(cell)}</{tag}>' for style, cell in zip(styles, cells, strict=True))}</tr>"
