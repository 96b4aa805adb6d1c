"""The page of a rehearsal: one self-contained HTML file for a screen, light or dark, and for paper.

Owns: the content of the page, and its style. It has no script and loads nothing. Names of nodes, images and reasons are
foreign text, and are escaped.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from stackd.rehearse import charts
from stackd.rehearse.attempts import Stage
from stackd.rehearse.charts import Mark, Span
from stackd.rehearse.measure import Group
from stackd.rehearse.outcome import Outcome, Titled, are_numbers

RUNNING = Stage.RUNNING.value
SPREAD_SECONDS = 1.0
"""If the presses are spread over more than this, a chart shows how long each start took, by the time of its press."""

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
    title = f"Rehearsal {found.ident}"
    began = dt.datetime.fromtimestamp(found.began).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    header = (
        f'<header class="{tone}"><h1>{escape(found.verdict.sentence)}</h1>\n<p>{escape(found.arrival())}.</p>\n'
        f'<p class="soft">{escape(title)}, {escape(began)}, {found.seconds:.0f} s, stackd {escape(found.version or "?")}</p>'
        "</header>"
    )
    return document(title, [header, _tiles(found), *_drawings(found), *tables(found.tables())])


def _tiles(found: Outcome) -> str:
    results = found.results
    running = results.stages[RUNNING]
    tiles = {
        "running, half of them within": charts.time(running.p50) if running.count else "–",
        "running, 95 of 100 within": charts.time(running.p95) if running.count else "–",
        "failed": f"{results.failed} of {results.started}",
        "accepted a second": f"{results.accepted_rate:.1f}",
    }
    if (spent := results.side.create_time) is not None and spent.total:
        tiles["API server's share of a create"] = f"{spent.api_server / spent.total:.0%}"
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">{shown}</dl>'


def _drawings(found: Outcome) -> Iterator[str]:
    results, samples = found.results, found.results.samples
    goals = [
        Mark(name=f"goal {goal.what} {goal.text.partition('=')[0].partition('-')[2]}", value=goal.limit, style="goal")
        for goal in found.goals
        if goal.what in set(Stage)
    ]
    yield '<div class="pair">'
    if running := results.times[RUNNING]:
        marks = [Mark(name=name, value=getattr(results.stages[RUNNING], name)) for name in ("p50", "p95", "p99")]
        yield section("Time to running", charts.distribution(running, marks, "Distribution of the time to running"))
    if reached := {name: results.times[name] for name in results.stages if results.times[name]}:
        totals, label = dict.fromkeys(reached, results.started), "Share of stacks by time and stage"
        drawn = charts.rises(reached, label, "after the press", "share of all stacks", totals, goals)
        yield section("Share of stacks that came so far, over time", drawn)
        drawn = charts.rises(_course(found), "Stacks by stage over the rehearsal", "of the rehearsal", "stacks")
        yield section("The rehearsal's course", drawn)
    pressed = [sample.pressed for sample in samples]
    if pressed and max(pressed) - min(pressed) > SPREAD_SECONDS:
        dots = [(sample.pressed, sample.running) for sample in samples if sample.running is not None]
        failed = [sample.pressed for sample in samples if sample.failed]
        yield section("Time to running over time", charts.scatter(dots, failed, "Time to running by time of the press"))
    yield "</div>"
    if (spent := results.side.create_time) is not None and spent.total:
        yield section("Where a create's time goes, on average", charts.parts(spent.parts(), "A create's time by part"))
    yield '<div class="pair">'
    for title, groups in (("By node: time to running", results.nodes), ("By image: time to running", results.images)):
        if any(group.running.count for group in groups):
            yield section(title, charts.spans(_spans(groups), title), SPAN_KEY)
    yield "</div>"


SPAN_KEY = "A bar is from the median to the 95th percentile, the tick is the longest; at the right are the stacks."


def _course(found: Outcome) -> dict[str, list[float]]:
    samples = found.results.samples
    lines = {"pressed": [sample.pressed for sample in samples]}
    lines |= {
        RUNNING: [one.pressed + one.running for one in samples if one.running is not None],
        Stage.REACHABLE.value: [one.pressed + one.reachable for one in samples if one.reachable is not None],
    }
    return {name: times for name, times in lines.items() if times}


def _spans(groups: Sequence[Group]) -> list[Span]:
    return [
        Span(
            name=group.name,
            p50=group.running.p50,
            p95=group.running.p95,
            longest=group.running.longest,
            note=f"{group.started}, {group.failed} failed" if group.failed else str(group.started),
        )
        for group in groups
    ]


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
