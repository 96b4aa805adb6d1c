"""``stacks list``, ``show``, ``timeline`` and ``logs``: what there is, and why."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from stackd.cli.address import client_options
from stackd.cli.client import Client
from stackd.cli.stacks.options import filter_options, json_option, stack_id_argument
from stackd.cli.stacks.shown import (
    LISTED,
    Fields,
    addresses,
    console,
    duration,
    print_json,
    print_rows,
    print_stacks,
    safe,
    since,
    style,
)

TIMELINE = ("when", "what", "reason", "message", "by")
EVENT_FIELDS = ("at", "kind", "reason", "message", "by")
PATH_PART = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,253}")


@click.command("list", short_help="List the stacks.")
@client_options
@filter_options
@json_option
def list_stacks(client: Client, chosen: list[tuple[str, str]], as_json: bool) -> None:
    """List the stacks: a table, or in a pipe one line each with tabs between the fields."""
    fields = [] if as_json else [("fields", LISTED)]
    answer = client.ask("GET", "/stacks", query=[*chosen, *fields])
    if as_json:
        print_json(answer)
    else:
        print_stacks(answer["stacks"])


@click.command()
@client_options
@stack_id_argument
@click.option("--spec", is_flag=True, help="Print the pod spec alone, as YAML.")
@json_option
def show(client: Client, stack_id: str, spec: bool, as_json: bool) -> None:
    """Show everything about one stack."""
    stack = client.ask("GET", f"/stacks/{path_part(stack_id)}")
    if as_json:
        print_json(stack)
    elif spec:
        click.echo(stack["pod_spec"], nl=False)
    else:
        print_detail(stack)


@click.command(short_help="Tell what happened to a stack.")
@client_options
@stack_id_argument
@json_option
def timeline(client: Client, stack_id: str, as_json: bool) -> None:
    """Tell what happened to a stack, also for a while after it is gone."""
    answer = client.ask("GET", f"/stacks/{path_part(stack_id)}/timeline")
    if as_json:
        print_json(answer)
        return
    print_rows(TIMELINE, ([event[name] or "" for name in EVENT_FIELDS] for event in answer["events"]))


@click.command(short_help="Print what a stack has written.")
@client_options
@stack_id_argument
@click.option("--tail", type=click.IntRange(min=1), help="Only the last lines.")
@click.option("--container", metavar="NAME", help="Of this container.")
def logs(client: Client, stack_id: str, tail: int | None, container: str | None) -> None:
    """Print what a stack's container has written; after a failure, the last of it."""
    query = [("tail", str(tail))] if tail else []
    query += [("container", container)] if container else []
    text = asyncio.run(client.text(f"/stacks/{path_part(stack_id)}/logs", query))
    click.echo(safe(text, lines=True) if console().is_terminal else text, nl=not text.endswith("\n"))


def path_part(stack_id: str) -> str:
    """An id as a part of a path. Raises UsageError for what cannot be one."""
    if not PATH_PART.fullmatch(stack_id):
        raise click.UsageError(f"not the id of a stack: {safe(stack_id)!r}")
    return stack_id


def print_detail(stack: Fields) -> None:
    """One stack: a name and a value on each line."""
    out = console()
    if not out.is_terminal:
        for name, value in _facts(stack):
            click.echo(f"{name}\t{safe(value)}")
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _facts(stack):
        grid.add_row(Text(name, style="dim"), Text(safe(value), style=style(stack) if name == "status" else ""))
    out.print(grid)


def _facts(stack: Fields) -> Iterator[tuple[str, str]]:
    yield "stack", stack["stack_id"]
    yield "status", stack["status"]
    if stack.get("status_reason") or stack.get("status_message"):
        yield "because", ": ".join(filter(None, (stack.get("status_reason"), stack.get("status_message"))))
    for address, port in zip(addresses(stack), stack["ports"], strict=False):
        yield "address", f"{address} → {port['container_port']}/{port['protocol']}"
    yield "node", stack["node_id"] or "-"
    for name, value in _labels(stack).items():
        yield "label", f"{name}={value}"
    yield "created", f"{stack['created_at']} ({duration(since(stack['created_at']))} ago)"
    yield "expires", f"{stack['ttl_expires_at']} (in {duration(-since(stack['ttl_expires_at']))})"
    yield "cpu", f"{stack['requested_cpu_milli']}m"
    yield "memory", f"{stack['requested_memory_bytes'] / (1 << 20):.0f}Mi"


def _labels(stack: Fields) -> dict[str, Any]:
    labels: dict[str, Any] = stack.get("labels") or {}
    return labels
