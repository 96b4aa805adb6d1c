"""What commands print: tables on a terminal, lines of fields with tabs between them in a pipe, and JSON.

Owns: columns, colours, the format of times, and the layout on a narrow terminal: the least important columns are left
out first, and an address is never folded. Messages and logs of stacks are hostile text: none of their control
characters reaches a terminal.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from stackd.printable import printable, printable_json
from stackd.quantity import of_bytes, of_milli

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Fields = Mapping[str, Any]
NANOSECONDS = 10**9
GAP = 2
WIDEST = 4096
SHORTEST = 8
"""Least width of a column that is cut off."""

STYLES = {
    "running": "green",
    "completed": "green",
    "creating": "cyan",
    "queued": "cyan",
    "stopped": "yellow",
    "failed": "bold red",
    "node_deleted": "bold magenta",
}
LISTED = "stack_id,status,status_reason,node_id,node_public_ip,ports,created_at,ttl_expires_at,labels,ended,template"
"""The fields of a stack that a table needs; the API leaves out the others."""

WIDE = f"{LISTED},requested_cpu_milli,requested_memory_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. On a narrow terminal, the lowest ``keep`` is left out first; an ``elastic`` column may be cut off."""

    head: str
    of: Callable[[Fields], str]
    keep: int
    elastic: bool = False


def _status(stack: Fields) -> str:
    reason = stack.get("status_reason")
    return f"{stack['status']} ({reason})" if reason else str(stack["status"])


COLUMNS = (
    Column(head="stack", of=lambda stack: stack["stack_id"], keep=6),
    Column(head="status", of=_status, keep=8, elastic=True),
    Column(head="address", of=lambda stack: " ".join(addresses(stack)) or "-", keep=9),
    Column(head="node", of=lambda stack: stack.get("node_id") or "-", keep=2),
    Column(head="age", of=lambda stack: duration(since(stack["created_at"])), keep=3),
    Column(head="left", of=lambda stack: duration(-since(stack["ttl_expires_at"])), keep=5),
    Column(head="labels", of=lambda stack: label_text(stack) or "-", keep=7, elastic=True),
)
MORE_COLUMNS = (
    Column(head="ports", of=lambda stack: " ".join(map(_port, stack["ports"])) or "-", keep=1),
    Column(head="cpu", of=lambda stack: str(of_milli(stack["requested_cpu_milli"])), keep=1),
    Column(head="memory", of=lambda stack: str(of_bytes(stack["requested_memory_bytes"])), keep=1),
    Column(head="expires", of=lambda stack: local(stack["ttl_expires_at"]), keep=1),
)


def console() -> Console:
    """A console on standard output."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def terminal_width() -> int:
    """The terminal's width in characters; rich assumes 80 for every dumb terminal."""
    return shutil.get_terminal_size().columns


def print_json(value: object) -> None:
    """Print JSON for another program, indented."""
    click.echo(printable_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_json_line(value: object) -> None:
    """Print JSON for another program, on one line."""
    click.echo(printable_json(json.dumps(value, separators=(",", ":"), ensure_ascii=False)))


PRINTED = {"json": print_json, "jsonl": print_json_line}
"""The functions that print one object, by the value of ``--output``."""


def print_text(text: str) -> None:
    """Print a tenant's lines: unchanged to a pipe or file, without control characters to a terminal."""
    click.echo(printable(text, lines=True) if is_terminal() else text, nl=not text.endswith("\n"))


def print_stacks(answer: Fields, output: str) -> None:
    """Print all stacks of an answer: as the API's JSON, JSON lines, ids, a table, or lines of fields."""
    stacks: Sequence[Fields] = answer["stacks"]
    if output == "json":
        print_json(answer)
    elif output == "jsonl":
        for stack in stacks:
            print_json_line(stack)
    elif output == "name":
        for stack in stacks:
            click.echo(printable(stack["stack_id"]))
    elif is_terminal():
        out = console()
        columns = (*COLUMNS, *MORE_COLUMNS) if output == "wide" else COLUMNS
        print_table(out, table(stacks, None if output == "wide" else terminal_width(), columns))
        from rich.text import Text

        out.print(Text(summary(stacks), style="dim"))
    else:
        for stack in stacks:
            click.echo(line(cells(stack, (*COLUMNS, *MORE_COLUMNS) if output == "wide" else COLUMNS)))


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on a terminal, with a long last column folded; else lines of fields."""
    if not is_terminal():
        for row in rows:
            click.echo(line(row))
        return
    from rich.text import Text

    made = _empty()
    for head in heads:
        made.add_column(head.upper(), no_wrap=head != heads[-1], overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    console().print(made)


def print_facts(facts: Iterable[tuple[str, str]], styles: Mapping[str, str] = {}) -> None:
    """Print a name and a value on each line."""
    if not is_terminal():
        for name, value in facts:
            click.echo(f"{name}\t{printable(value)}")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, GAP, 0, 0))
    for name, value in facts:
        grid.add_row(Text(name, style="dim"), Text(printable(value), style=styles.get(name, "")))
    console().print(grid)


def table(stacks: Iterable[Fields], width: int | None, columns: Sequence[Column] = COLUMNS) -> Table:
    """A table of the stacks with colours, at most ``width`` characters wide; None for no limit."""
    from rich.text import Text

    rows = [(stack, cells(stack, columns)) for stack in stacks]
    widths = [max(map(len, [column.head, *(row[at] for _, row in rows)])) for at, column in enumerate(columns)]
    shown = fitting(columns, widths, width)
    made = _empty()
    for at, wide in shown.items():
        made.add_column(columns[at].head.upper(), no_wrap=True, overflow="ellipsis", width=wide)
    for stack, row in rows:
        made.add_row(*(Text(row[at], style=style(stack) if columns[at].head == "status" else "") for at in shown))
    return made


def fitting(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> dict[int, int]:
    """The widths of the columns that are shown, by their positions."""
    shown = dict(enumerate(widths))
    if width is None:
        return shown
    least = {
        at: min(wants, max(len(columns[at].head), SHORTEST)) if columns[at].elastic else wants
        for at, wants in shown.items()
    }
    while len(shown) > 1 and sum(least[at] for at in shown) + GAP * (len(shown) - 1) > width:
        del shown[min(shown, key=lambda at: columns[at].keep)]
    excess = sum(shown.values()) + GAP * (len(shown) - 1) - width
    for at in sorted(shown, key=lambda at: columns[at].keep):
        cut = max(0, min(excess, shown[at] - least[at]))
        shown[at] -= cut
        excess -= cut
    return shown


def print_table(out: Console, made: Table) -> None:
    """Print a table as wide as its columns: it never wraps on a narrow terminal."""
    from rich.console import ConsoleDimensions

    size, out.size = out.size, ConsoleDimensions(WIDEST, 1)
    try:
        out.print(made, crop=False, no_wrap=True, overflow="ignore")
    finally:
        out.size = size


def style(stack: Fields) -> str:
    """The colour of a status."""
    return STYLES.get(str(stack.get("status")), "")


def cells(stack: Fields, columns: Sequence[Column] = COLUMNS) -> list[str]:
    """One stack, in the order of the columns."""
    return [printable(column.of(stack)) for column in columns]


def line(row: Iterable[str]) -> str:
    """Fields with tabs between them."""
    return "\t".join(printable(cell) for cell in row)


def addresses(stack: Fields) -> list[str]:
    """Where a stack is reached: one ``address:port`` for each port; none if it has ended, which released its ports."""
    if stack.get("ended"):
        return []
    host = stack.get("node_public_ip")
    host = f"[{host}]" if host and ":" in host else host or ""
    suffix = {"TCP": "", "UDP": "/udp"}
    return [f"{host}:{port['node_port']}{suffix.get(port['protocol'], '')}" for port in stack["ports"]]


def label_text(stack: Fields) -> str:
    """``team=7 player=3``."""
    return " ".join(f"{name}={value}" for name, value in (stack.get("labels") or {}).items())


def summary(stacks: Sequence[Fields]) -> str:
    """How many stacks there are, in all and by status."""
    counts: dict[str, int] = {}
    for stack in stacks:
        counts[stack["status"]] = counts.get(stack["status"], 0) + 1
    total = f"{len(stacks)} stack{'' if len(stacks) == 1 else 's'}"
    return ", ".join([total, *(f"{count} {status}" for status, count in sorted(counts.items()))])


def since(time_text: str) -> float:
    """Seconds since that time; negative for a future time."""
    from stackd.clock import to_nanoseconds

    return (time.time_ns() - to_nanoseconds(time_text)) / NANOSECONDS


def local(time_text: str) -> str:
    """A time in the local zone: short on a terminal, with its offset for other programs."""
    at = datetime.fromisoformat(time_text).astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S") if is_terminal() else at.isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A length of time in its two largest units; ``0s`` if it is negative."""
    left = max(0, int(seconds))
    days, hours, minutes = left // 86400, left // 3600 % 24, left // 60 % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes:
        return f"{minutes}m{left % 60:02d}s"
    return f"{left}s"


def _port(port: Fields) -> str:
    return f"{port['container_port']}/{str(port['protocol']).lower()}"


def _empty() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold dim")
