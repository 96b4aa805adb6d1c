"""Stacks on a terminal or in a pipe: tables, or lines of fields with tabs between them.

Owns: columns, colours, and how long a time reads. What stacks say of themselves (messages, logs) is hostile text: no
control character of theirs reaches a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stackd.clock import NANOSECONDS
from stackd.times import to_nanoseconds

Fields = Mapping[str, Any]
STYLES = {
    "running": "green",
    "completed": "green",
    "creating": "cyan",
    "queued": "cyan",
    "stopped": "yellow",
    "failed": "bold red",
    "node_deleted": "bold magenta",
}
COLUMNS = ("stack", "status", "address", "node", "age", "left", "labels")
LISTED = "stack_id,status,status_reason,node_id,node_public_ip,ports,created_at,ttl_expires_at,labels,ended"
"""What a table needs of a stack: the API leaves out the rest."""

OBEYED = (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
UNPRINTABLE = dict.fromkeys(OBEYED, "\N{REPLACEMENT CHARACTER}")
BREAKS = {ord("\n"): "\n", ord("\t"): "\t"}


def safe(text: str, *, lines: bool = False) -> str:
    """The text without anything that a terminal would obey; ``lines`` keeps line ends and tabs."""
    return text.translate(UNPRINTABLE | BREAKS if lines else UNPRINTABLE)


def console() -> Console:
    """Standard output."""
    return Console(highlight=False, markup=False, emoji=False)


def print_json(value: object) -> None:
    """JSON for another program."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def print_stacks(stacks: Sequence[Fields]) -> None:
    """A table on a terminal; else a line for each stack."""
    out = console()
    if out.is_terminal:
        out.print(table(stacks))
        out.print(Text(summary(stacks), style="dim"))
        return
    for stack in stacks:
        click.echo(line(cells(stack)))


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table on a terminal; else lines."""
    out = console()
    if not out.is_terminal:
        for row in rows:
            click.echo(line(row))
        return
    made = _empty(heads)
    for row in rows:
        made.add_row(*(Text(safe(cell)) for cell in row))
    out.print(made)


def table(stacks: Iterable[Fields], *, one_line: bool = False) -> Table:
    """The stacks as a table with colours; ``one_line`` cuts off what has no room."""
    made = _empty(COLUMNS, one_line=one_line)
    for stack in stacks:
        stack_id, status, *rest = cells(stack)
        made.add_row(Text(stack_id), Text(status, style=style(stack)), *map(Text, rest))
    return made


def style(stack: Fields) -> str:
    """The colour of a status."""
    return STYLES.get(str(stack.get("status")), "")


def cells(stack: Fields) -> list[str]:
    """One stack, in the order of ``COLUMNS``."""
    reason = stack.get("status_reason")
    return [
        safe(cell)
        for cell in (
            stack["stack_id"],
            f"{stack['status']} ({reason})" if reason else stack["status"],
            " ".join(addresses(stack)) or "-",
            stack.get("node_id") or "-",
            duration(since(stack["created_at"])),
            duration(-since(stack["ttl_expires_at"])),
            " ".join(f"{name}={value}" for name, value in stack.get("labels", {}).items()) or "-",
        )
    ]


def line(row: Iterable[str]) -> str:
    """Fields with tabs between them."""
    return "\t".join(safe(cell) for cell in row)


def addresses(stack: Fields) -> list[str]:
    """Where a stack is reached: one ``address:port`` for each of its ports; what has ended has given them back."""
    if stack.get("ended"):
        return []
    host = stack.get("node_public_ip")
    host = f"[{host}]" if host and ":" in host else host or ""
    suffix = {"TCP": "", "UDP": "/udp"}
    return [f"{host}:{port['node_port']}{suffix.get(port['protocol'], '')}" for port in stack["ports"]]


def summary(stacks: Sequence[Fields]) -> str:
    """How many there are of each status."""
    counts: dict[str, int] = {}
    for stack in stacks:
        counts[stack["status"]] = counts.get(stack["status"], 0) + 1
    total = f"{len(stacks)} stack{'' if len(stacks) == 1 else 's'}"
    return ", ".join([total, *(f"{count} {status}" for status, count in sorted(counts.items()))])


def since(time_text: str) -> float:
    """Seconds since that time; negative for times to come."""
    return (time.time_ns() - to_nanoseconds(time_text)) / NANOSECONDS


def duration(seconds: float) -> str:
    """A length of time in its two largest units; ``0s`` when it is over."""
    left = max(0, int(seconds))
    days, hours, minutes = left // 86400, left // 3600 % 24, left // 60 % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes:
        return f"{minutes}m{left % 60:02d}s"
    return f"{left}s"


def _empty(heads: Sequence[str], *, one_line: bool = False) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold dim")
    for head in heads:
        made.add_column(
            head.upper(),
            no_wrap=one_line or head in ("stack", "age", "left", "when"),
            overflow="ellipsis" if one_line else "fold",
        )
    return made
