"""``stacks list``, ``show``, ``timeline`` and ``logs``: the commands that only read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import filter_options, output_option, stack_id_argument
from stackd.cli.output import (
    LISTED,
    PRINTED,
    WIDE,
    Fields,
    addresses,
    duration,
    local,
    print_facts,
    print_json,
    print_json_line,
    print_rows,
    print_stacks,
    print_text,
    since,
    style,
)
from stackd.cli.target import client_options
from stackd.printable import printable
from stackd.quantity import of_bytes, of_milli

if TYPE_CHECKING:
    from stackd.client import Client

TIMELINE = ("when", "what", "reason", "by", "message")
FOLLOW_SECONDS = 1.0
FOLLOWED_LINES = 10_000
CHOSEN = {"": LISTED, "wide": WIDE, "name": "stack_id"}


@click.command("list")
@client_options
@filter_options
@output_option("wide", "json", "jsonl", "name")
def list_stacks(client: Client, chosen: dict[str, Any], output: str) -> None:
    """List the stacks: a table, or in a pipe one line each with tabs between the fields."""
    stacks = client.stacks(**chosen, fields=CHOSEN[output].split(",") if output in CHOSEN else None)
    print_stacks({"stacks": [stack.raw for stack in stacks]}, output)


@click.command()
@client_options
@stack_id_argument
@click.option("--spec", is_flag=True, help="Print the pod spec alone, as YAML.")
@output_option("json", "jsonl")
def show(client: Client, stack_id: str, spec: bool, output: str) -> None:
    """Show everything about one stack."""
    stack = client.get(checked(stack_id)).raw
    if output in PRINTED:
        PRINTED[output](stack)
    elif spec:
        print_text(stack["pod_spec"])
    else:
        print_detail(stack)


@click.command()
@client_options
@stack_id_argument
@output_option("json", "jsonl")
def timeline(client: Client, stack_id: str, output: str) -> None:
    """Show what happened to a stack, even for a while after it is gone."""
    events = [event.raw for event in client.timeline(checked(stack_id))]
    if output == "json":
        print_json({"stack_id": stack_id, "events": events})
    elif output == "jsonl":
        for event in events:
            print_json_line(event)
    else:
        print_rows(TIMELINE, map(_row, events))


@click.command()
@client_options
@stack_id_argument
@click.option("--follow", "-f", is_flag=True, help="Follow the output until it ends or Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last lines.")
@click.option("--container", metavar="NAME", help="The container.  [the first one]")
def logs(client: Client, stack_id: str, follow: bool, tail: int | None, container: str | None) -> None:
    """Print what a stack's container has written; after a failure, its last lines."""
    from stackd.client import Conflict

    stack_id, text = checked(stack_id), ""
    try:
        text = client.logs(stack_id, tail=tail or 0, container=container or "")
    except Conflict:
        if not follow:
            raise
    print_text(text) if text else None
    if follow:
        with suppress(KeyboardInterrupt):
            _follow(client, stack_id, container or "", text)


def _follow(client: Client, stack_id: str, container: str, known: str) -> None:
    """Print new output at each poll, until the stack is gone or no longer creating or running.

    A container that has not started yet is waited for.
    """
    from stackd.client import Busy, Conflict, NotFound

    over = False
    while True:
        time.sleep(FOLLOW_SECONDS)
        try:
            over = client.get(stack_id).status not in ("creating", "running")
            text = client.logs(stack_id, tail=FOLLOWED_LINES, container=container)
        except NotFound:
            click.echo(f"{stack_id} is gone", err=True)
            return
        except Busy:
            continue  # a later poll prints what is missed now
        except Conflict:
            if over:
                raise
            continue
        if more := added(known, text):
            print_text(more)
        known = text
        if over:
            return


def added(before: str, now: str) -> str:
    """The lines of ``now`` after those of ``before``, where both are tails of one log; all of ``now`` for a new log."""
    if now.startswith(before):
        return now[len(before) :]
    lines = before.splitlines(keepends=True)
    for start in range(len(lines)):
        kept = "".join(lines[start:])
        at = now.find(kept)
        if at >= 0 and (at == 0 or now[at - 1] == "\n"):
            return now[at + len(kept) :]
    return now


def checked(stack_id: str) -> str:
    """Return ``stack_id``. Raises UsageError if no stack can have that id."""
    from stackd.client.operations import PATH_PART

    if not PATH_PART.fullmatch(stack_id):
        raise click.UsageError(f"not a stack's id: {printable(stack_id)!r}")
    return stack_id


def print_detail(stack: Fields) -> None:
    """Print one stack: a name and a value on each line."""
    print_facts(_facts(stack), {"status": style(stack)})


def _facts(stack: Fields) -> Iterator[tuple[str, str]]:
    yield "stack", stack["stack_id"]
    yield "status", stack["status"]
    if stack.get("status_reason") or stack.get("status_message"):
        yield "because", ": ".join(filter(None, (stack.get("status_reason"), stack.get("status_message"))))
    for address, port in zip(addresses(stack), stack["ports"], strict=False):
        yield "address", f"{address} → {port['container_port']}/{port['protocol']}"
    yield "node", stack["node_id"] or "-"
    labels: dict[str, Any] = stack.get("labels") or {}
    for name, value in labels.items():
        yield "label", f"{name}={value}"
    yield "created", f"{local(stack['created_at'])} ({duration(since(stack['created_at']))} ago)"
    yield "expires", f"{local(stack['ttl_expires_at'])} (in {duration(-since(stack['ttl_expires_at']))})"
    yield "cpu", str(of_milli(stack["requested_cpu_milli"]))
    yield "memory", str(of_bytes(stack["requested_memory_bytes"]))


def _row(event: Fields) -> list[str]:
    count = event.get("count", 1)
    what = f"{event['kind']} ({count} times)" if count > 1 else event["kind"]
    return [local(event["at"]), what, event["reason"] or "", event["by"] or "", event["message"] or ""]
