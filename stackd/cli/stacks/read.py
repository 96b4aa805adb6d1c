"""``stacks list``, ``get``, ``show``, ``describe``, ``wait``, ``timeline`` and ``logs``: the commands that only read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from stackd.cli.options import (
    STATUSES,
    Length,
    filter_options,
    ids_of_stacks,
    output_option,
    stack_id_argument,
    stack_ids_argument,
)
from stackd.cli.output import (
    LISTED,
    PRINTED,
    WIDE,
    Column,
    Fields,
    addresses,
    duration,
    local,
    print_all,
    print_facts,
    print_stacks,
    print_table,
    print_text,
    recent,
    since,
    style,
)
from stackd.cli.target import client_options
from stackd.printable import printable
from stackd.quantity import of_bytes, of_milli

if TYPE_CHECKING:
    from stackd.client import Client

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
@click.argument("stack_ids", metavar="[STACK…]", nargs=-1, shell_complete=ids_of_stacks)
@output_option("wide", "json", "jsonl", "name")
def get(client: Client, stack_ids: tuple[str, ...], output: str) -> None:
    """List the stacks with these ids, or all, as stacks list does."""
    fields = CHOSEN[output].split(",") if output in CHOSEN else None
    found = [client.get(checked(one)) for one in stack_ids] if stack_ids else client.stacks(fields=fields)
    print_stacks({"stacks": [stack.raw for stack in found]}, output)


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
def describe(client: Client, stack_id: str) -> None:
    """Show everything about one stack, and what happened to it."""
    print_detail(client.get(checked(stack_id)).raw)
    click.echo()
    print_table(TIMELINE, [event.raw for event in client.timeline(stack_id)])


@click.command()
@client_options
@stack_ids_argument
@click.option(
    "--for", "status", type=click.Choice((*STATUSES, "deleted")), default="running", show_default=True,
    help="The status to wait for.",
)  # fmt: skip
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="The longest wait.")
def wait(client: Client, stack_ids: tuple[str, ...], status: Any, timeout: str) -> None:
    """Wait until stacks have a status; exit code 1 if one of them cannot reach it, or not in time."""
    from stackd.units import parse_duration

    end = time.monotonic() + parse_duration(timeout)

    def each(stack_id: str) -> None:
        stack = client.wait(checked(stack_id), status, timeout=max(0.0, end - time.monotonic()))
        click.echo("\t".join([stack_id, stack.status, *(addresses(stack.raw) if stack.raw else ())]))

    for_each(stack_ids, each)


@click.command()
@client_options
@stack_id_argument
@output_option("json", "jsonl")
def timeline(client: Client, stack_id: str, output: str) -> None:
    """Show what happened to a stack, even for a while after it is gone."""
    events = [event.raw for event in client.timeline(checked(stack_id))]
    if output:
        print_all({"stack_id": stack_id, "events": events}, events, output, name="")
    else:
        print_table(TIMELINE, events)


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


def for_each(stack_ids: tuple[str, ...], each: Callable[[str], None]) -> None:
    """Call ``each`` for every stack, print the errors, and fail at the end if there were any."""
    from stackd.client import ClientError, Unreachable

    failed = 0
    for stack_id in dict.fromkeys(stack_ids):
        try:
            each(stack_id)
        except ClientError as error:
            if len(stack_ids) == 1 or isinstance(error, Unreachable):
                raise
            click.ClickException(printable(str(error))).show()
            failed += 1
    if failed:
        raise click.ClickException(f"{failed} of {len(stack_ids)} failed")


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


def _what(event: Fields) -> str:
    count = event.get("count", 1)
    return f"{event['kind']} ({count} times)" if count > 1 else str(event["kind"])


TIMELINE = (
    Column(head="when", of=lambda event: recent(event["at"])),
    Column(head="what", of=_what, elastic=True),
    Column(head="reason", of=lambda event: event["reason"] or "", keep=6, elastic=True),
    Column(head="by", of=lambda event: event["by"] or "", keep=5, elastic=True),
    Column(head="message", of=lambda event: event["message"] or "", keep=8, fold=True),
)
