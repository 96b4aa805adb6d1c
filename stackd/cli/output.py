"""What commands print: tables on a terminal, lines of fields with tabs between them in a pipe, and JSON.

Owns: the table that all commands share, its layout on a narrow terminal, colours, and the form of times and counts.
Messages and logs of stacks are hostile text: none of their control characters reaches a terminal.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import zip_longest
from typing import Any

import click

from stackd.printable import printable, printable_json
from stackd.quantity import of_bytes, of_milli
from stackd.units import format_duration

Fields = Mapping[str, Any]
# The keywords of ``click.style``.
Style = Mapping[str, Any]
GAP = 2
# Least width of a column that is cut off.
SHORTEST = 8
# Least width of a column whose text continues on the next line.
FOLDED = 30
# Colours that can be read on a dark terminal and on a light one.
GOOD: Style = {"fg": 28}
BUSY: Style = {"fg": 31}
WARNING: Style = {"fg": 166}
BAD: Style = {"fg": 196, "bold": True}
PLAIN: Style = {}
DIM: Style = {"dim": True}
BOLD: Style = {"bold": True}
HEAD: Style = {"bold": True, "dim": True}

STYLES: Mapping[str, Style] = {
    "running": GOOD,
    "completed": GOOD,
    "creating": BUSY,
    "queued": BUSY,
    "stopped": DIM,
    "failed": BAD,
    "node_deleted": {"fg": 164, "bold": True},
}

WORST_FIRST = ("failed", "node_deleted", "creating", "stopped", "running")
# The fields of a stack that a table needs; the API leaves out the others.
LISTED = (
    "stack_id", "status", "status_reason", "node_id", "addresses", "created_at", "ttl_expires_at", "labels", "ended",
    "template",
)  # fmt: skip
WIDE = (*LISTED, "ports", "requested_cpu_milli", "requested_memory_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. On a narrow terminal, the lowest ``keep`` is left out first.

    An ``elastic`` column may be cut off, with an ellipsis; ``fold``: its text continues on the next line.
    """

    head: str
    of: Callable[[Any], str]
    keep: int = 9
    elastic: bool = False
    fold: bool = False
    right: bool = False
    style: Callable[[Any], Style] = lambda _: PLAIN

    def least(self, wants: int) -> int:
        """The least width, for a column whose longest cell has ``wants`` characters."""
        if self.fold:
            return min(wants, FOLDED)
        return min(wants, max(len(self.head), SHORTEST)) if self.elastic else wants


def _status(stack: Fields) -> str:
    reason = stack.get("status_reason")
    return f"{stack['status']} ({reason})" if reason else str(stack["status"])


def style(stack: Fields) -> Style:
    return STYLES.get(str(stack.get("status")), PLAIN)


STACK = (
    Column(head="stack", of=lambda stack: stack["stack_id"], keep=6),
    Column(head="status", of=_status, keep=8, elastic=True, style=style),
    Column(head="address", of=lambda stack: " ".join(addresses(stack)) or "-"),
)
LABELS = Column(head="labels", of=lambda stack: label_text(stack) or "-", keep=7, elastic=True)
COLUMNS = (
    *STACK,
    Column(head="node", of=lambda stack: stack.get("node_id") or "-", keep=2),
    Column(head="age", of=lambda stack: duration(since(stack["created_at"])), keep=3),
    Column(head="left", of=lambda stack: duration(-since(stack["ttl_expires_at"])), keep=5),
    LABELS,
)
MORE_COLUMNS = (
    Column(head="player", of=lambda stack: stack.get("player") or "-", keep=1),
    Column(head="template", of=lambda stack: stack.get("template") or "-", keep=1),
    Column(head="ports", of=lambda stack: ports_text(stack["ports"]) or "-", keep=1),
    Column(head="cpu", of=lambda stack: str(of_milli(stack["requested_cpu_milli"])), keep=1),
    Column(head="memory", of=lambda stack: str(of_bytes(stack["requested_memory_bytes"])), keep=1),
    Column(head="expires", of=lambda stack: local(stack["ttl_expires_at"]), keep=1),
)


def painted(text: str, style: Style) -> str:
    """The text in this style; ``click.echo`` leaves that out where there is no terminal."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return click.style(text, **style) if style and not plain else text


def is_terminal() -> bool:
    return sys.stdout.isatty()


def terminal_width() -> int:
    return shutil.get_terminal_size().columns


def print_json(value: object) -> None:
    click.echo(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_json_line(value: object) -> None:
    click.echo(printable_json(json.dumps(value, separators=(",", ":"), ensure_ascii=False)))


def printed(answer: object, output: str | None, items: Iterable[Fields] | None = None, name: str = "") -> bool:
    """Print an answer as ``json``, or as ``jsonl``; returns whether the output was to be one of these.

    With ``items``, each of them is a line; ``name`` is the field of theirs that ``-o name`` prints.
    """
    if output == "json":
        print_json(answer)
    elif output == "jsonl":
        for item in [answer] if items is None else items:
            print_json_line(item)
    elif output == "name" and name:
        for item in items or ():
            click.echo(printable(item[name]))
    else:
        return False
    return True


def print_list(
    name: str, items: Sequence[Fields], columns: Sequence[Column], output: str | None, id_field: str = ""
) -> None:
    """Print an answer ``{name: items}`` in the wanted form, or its items as a table."""
    if not printed({name: items}, output, items, id_field):
        print_table(columns, items)


def print_text(text: str, *, raw: bool = False) -> None:
    """Print a tenant's lines with their control characters escaped, since a pipe, too, often ends at a terminal; ``raw``
    prints them unchanged.
    """
    click.echo(text if raw else printable(text, lines=True), nl=not text.endswith("\n"), color=raw or None)


def print_stacks(stacks: Sequence[Fields], output: str | None) -> None:
    """Print stacks: as the API's JSON, JSON lines, ids, a table, or lines of fields."""
    more = MORE_COLUMNS if output == "wide" else ()
    if printed({"stacks": stacks}, output, stacks, "stack_id"):
        return
    if not is_terminal():
        print_table((*COLUMNS, *more), stacks)
        return
    print_table((*stack_columns(stacks, every_label=bool(more)), *more), stacks, None if more else terminal_width())
    for note in notes(stacks):
        _print_note(note)


def print_table(columns: Sequence[Column], items: Iterable[Any], width: int | None = 0) -> None:
    """Print a table ``width`` characters wide (0: as the terminal, None: without a limit); in a pipe lines of fields."""
    items = list(items)
    if not is_terminal():
        for item in items:
            click.echo(line(cells(item, columns)))
        return
    filled = [column for column in columns if not items or any(map(column.of, items))]
    lines, hidden = table(filled, items, terminal_width() if width == 0 else width)
    click.echo("\n".join(lines))
    if hidden:
        _print_note(f"too wide for this terminal: {', '.join(hidden)}")


def _print_note(text: str) -> None:
    click.echo(painted(printable(text), DIM))


def print_facts(facts: Iterable[tuple[str, str]], styles: Mapping[str, Style] = {}) -> None:
    facts = [(name, printable(value)) for name, value in facts]
    if not is_terminal():
        click.echo("".join(f"{name}\t{value}\n" for name, value in facts), nl=False)
        return
    names = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        style = styles.get(name, PLAIN)
        click.echo("\n".join(laid_out([(name, names, DIM)], [(line, style) for line in value.splitlines() or [""]])))


def table(columns: Sequence[Column], items: Sequence[Any], width: int | None) -> tuple[list[str], list[str]]:
    """The lines of a table at most ``width`` characters wide (None: no limit), and the columns that have no space in it."""
    rows = [cells(item, columns) for item in items]
    widths = [max(map(len, [column.head, *(row[at] for row in rows)])) for at, column in enumerate(columns)]
    shown = _fitting(columns, widths, width)
    lines = _row(columns, shown, [printable(column.head).upper() for column in columns], [HEAD] * len(columns))
    for item, row in zip(items, rows, strict=True):
        lines += _row(columns, shown, row, [column.style(item) for column in columns])
    return lines, [column.head for at, column in enumerate(columns) if at not in shown]


def _row(columns: Sequence[Column], shown: Mapping[int, int], row: Sequence[str], styles: Sequence[Style]) -> list[str]:
    parts = [_wrapped(row[at], wide) if columns[at].fold else [cut(row[at], wide)] for at, wide in shown.items()]
    lines = []
    for each in zip_longest(*parts, fillvalue=""):
        aligned = [
            painted(text.rjust(wide) if columns[at].right else text.ljust(wide), styles[at])
            for text, (at, wide) in zip(each, shown.items(), strict=True)
        ]
        lines.append((" " * GAP).join(aligned).rstrip())
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(1, width), break_on_hyphens=False) or [""]


def cut(text: str, width: int) -> str:
    """The text, with an ellipsis if it is longer."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def laid_out(heads: Sequence[tuple[str, int, Style]], lines: Iterable[tuple[str, Style]]) -> list[str]:
    """Heads with their widths, and lines beside them, which a terminal wraps there."""
    head = "".join(f"{painted(text.ljust(width), style)}{' ' * GAP}" for text, width, style in heads)
    indent = sum(width + GAP for _, width, _ in heads)
    room = terminal_width() - indent if is_terminal() else sys.maxsize
    wrapped = [painted(part, style) for line, style in lines for part in _wrapped(line, room)]
    return [f"{' ' * indent if at else head}{part}" for at, part in enumerate(wrapped)]


class Screen:
    """Lines on a terminal that are drawn again in their place, and erased at the end."""

    def __init__(self, *, err: bool = False) -> None:
        self._err, self._drawn = err, 0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.draw([])

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, none of which is wider than the terminal, instead of the ones before."""
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        click.echo(back + "".join(f"{line}\n" for line in lines), nl=False, err=self._err)
        self._drawn = len(lines)


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> dict[int, int]:
    shown = dict(enumerate(widths))
    if width is None:
        return shown
    least = {at: columns[at].least(wants) for at, wants in shown.items()}
    while len(shown) > 1 and sum(least[at] for at in shown) + GAP * (len(shown) - 1) > width:
        del shown[min(shown, key=lambda at: (columns[at].keep, -at))]
    for _ in range(sum(shown.values()) + GAP * (len(shown) - 1) - width):
        wider = [at for at in shown if shown[at] > least[at]]
        if wider:
            shown[max(wider, key=lambda at: (columns[at].fold, shown[at]))] -= 1
    return shown


def stack_columns(stacks: Sequence[Fields], *, every_label: bool = False) -> list[Column]:
    """The columns of a terminal's table: each label that differs between the stacks has its own."""
    labels = [stack.get("labels") or {} for stack in stacks]
    values = {name: {each.get(name) for each in labels} for each in labels for name in each}
    every_label = every_label or len(stacks) == 1
    names = sorted((name for name in values if every_label or len(values[name]) > 1), key=lambda at: len(values[at]))
    keeps = [LABELS.keep, LABELS.keep]  # the others go before the time that is left

    def own(name: str) -> Column:
        keep = keeps.pop() if keeps else 4
        return Column(head=name, of=lambda one: (one.get("labels") or {}).get(name) or "-", keep=keep, elastic=True)

    return [*STACK, *map(own, names), *(column for column in COLUMNS if column not in (*STACK, LABELS))]


def notes(stacks: Sequence[Fields]) -> list[str]:
    """What stands below a table of stacks: how many there are, and the labels that all of them have."""
    shared = set.intersection(*({*(stack.get("labels") or {}).items()} for stack in stacks)) if len(stacks) > 1 else ()
    same = " ".join(f"{name}={value}" for name, value in sorted(shared))
    return [summary(stacks), *([f"all have {same}"] if same else [])]


def cells(item: Any, columns: Sequence[Column] = COLUMNS) -> list[str]:
    return [printable(column.of(item)) for column in columns]


def line(row: Iterable[str]) -> str:
    """Fields with tabs between them; on a terminal, with blanks, and cut off with an ellipsis at its edge."""
    fields = [printable(cell) for cell in row]
    if not is_terminal():
        return "\t".join(fields)
    return cut((" " * GAP).join(filter(None, fields)), terminal_width())


def addresses(stack: Fields) -> list[str]:
    """Where a stack is reached: an ``address:port`` (with ``/udp``) or a URL for each port with an address."""
    return [f"{each['text']}{'/udp' if each['protocol'] == 'UDP' else ''}" for each in stack.get("addresses") or ()]


def label_text(stack: Fields) -> str:
    """``player=7 event=a``."""
    return " ".join(f"{name}={value}" for name, value in (stack.get("labels") or {}).items())


def counted(count: int, noun: str) -> str:
    """``1 stack``, ``2 stacks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def by_status(counts: Mapping[str, int]) -> str:
    """``3 failed, 12 running``: the worst first; empty for none."""
    order = [*WORST_FIRST, *sorted(counts.keys() - {*WORST_FIRST})]
    return ", ".join(f"{counts[name]} {name}" for name in order if counts.get(name))


def summary(stacks: Sequence[Fields]) -> str:
    """How many stacks there are, in all and by status."""
    return ": ".join(filter(None, [counted(len(stacks), "stack"), by_status(Counter(one["status"] for one in stacks))]))


def natural(name: str) -> list[str | int]:
    """The key that sorts ``node-2`` before ``node-10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def since(time_text: str) -> float:
    """Seconds since that time; negative for a future time."""
    return (datetime.now().astimezone() - datetime.fromisoformat(time_text)).total_seconds()


def local(time_text: str) -> str:
    """A time in the local zone: short on a terminal, with its offset for other programs."""
    at = datetime.fromisoformat(time_text).astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S") if is_terminal() else at.isoformat(timespec="seconds")


def recent(time_text: str) -> str:
    """The same; on a terminal without the date if that is today."""
    return local(time_text).removeprefix(f"{datetime.now().astimezone().date()} ")


def duration(seconds: float) -> str:
    """A length of time, without the seconds from an hour on; ``0s`` if it is negative."""
    total = max(0, int(seconds))
    return format_duration(total - total % 60 if total >= 3600 else total)


def ports_text(ports: Iterable[Fields]) -> str:
    """``80/tcp 53/udp``."""
    return " ".join(f"{port['container_port']}/{str(port['protocol']).lower()}" for port in ports)
