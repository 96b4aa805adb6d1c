"""Charts as SVG, without a library: latency distributions, and cost against the number of stacks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks.figures import Results, percentile

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 44
OURS, FLOOR = "#c2410c", "#888888"
SHARES = (0.01, 0.05, *(step / 50 for step in range(5, 46)), 0.95, 0.98, 0.99, 0.995, 0.999)

Points = Sequence[tuple[float, float]]


def draw(results: Results, folder: Path) -> list[Path]:
    """Write one file per chart; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = {
        title: _plot(title, "latency, ms", "share of requests, %", {
            line: [(percentile(seconds, share) * 1e3, share * 100) for share in SHARES]
            for line, seconds in lines.items()
        }, zero=True)
        for title, lines in results.distributions.items()
    }  # fmt: skip
    for line, points in results.scale.items():
        charts[f"scale: {line}"] = _plot(line, "stacks", line, {"stackd": sorted(points.items())}, zero=False)
    paths = []
    for title, text in charts.items():
        path = folder / ("".join(c if c.isascii() and c.isalnum() else "-" for c in title).strip("-") + ".svg")
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def _plot(title: str, across: str, up: str, lines: Mapping[str, Points], *, zero: bool) -> str:
    """A chart with a logarithmic horizontal axis and a vertical axis from zero."""
    xs = [max(x, 1e-3) for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    low, high = math.log10(min(xs)), math.log10(max(xs))
    most = 100.0 if zero else max(ys) * 1.1

    def place(x: float, y: float) -> tuple[float, float]:
        span = (high - low) or 1.0
        return (
            LEFT + (math.log10(max(x, 1e-3)) - low) / span * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / (most or 1.0) * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="16" font-size="13">{escape(title)}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>',
        f'<text x="14" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {HEIGHT / 2})">{escape(up)}</text>',
        *_grid(place, (low, high), most),
    ]
    for name, points in lines.items():
        colour = _colour(name)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colour}"/>'
            for x, y in (place(*point) for point in points)
            if not zero
        ]
    parts += _legend(list(lines))
    return "\n".join([*parts, "</svg>", ""])


def _grid(place: Callable[[float, float], tuple[float, float]], decades: tuple[float, float], most: float) -> list[str]:
    parts = []
    for step in range(5):
        value = most * step / 4
        _, y = place(10 ** decades[0], value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    low, high = decades
    ticks = [f * 10.0**d for d in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    for tick in ticks:
        if low <= math.log10(tick) <= high:
            x, _ = place(tick, 0)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#eeeeee"/>')
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick:g}</text>')
    return parts


def _legend(names: list[str]) -> list[str]:
    parts = []
    for index, name in enumerate(names):
        colour, x = _colour(name), LEFT + index * 150
        parts.append(f'<rect x="{x}" y="24" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="33">{escape(name)}</text>')
    return parts


def _colour(name: str) -> str:
    return OURS if name == "stackd" else FLOOR
