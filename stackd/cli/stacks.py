"""``stackd stacks …``, a client of the API: the group, the commands that only read, and ``create``.

Those that change existing stacks are in ``change``, ``watch`` is a module of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from stackd.cli import group
from stackd.cli import output as render
from stackd.cli.options import (
    Length,
    checked,
    column_option,
    filter_options,
    labels_of,
    labels_option,
    output_option,
    stack_id_argument,
    stack_ids_argument,
    template_option,
)
from stackd.cli.target import client_options, interruptible
from stackd.client import Client, ClientError, StackEnded, Unreachable
from stackd.client.operations import target_port
from stackd.contract import STATUSES
from stackd.printable import printable
from stackd.quantity import of_bytes, of_milli
from stackd.units import parse_duration

VERBS = {
    "list": ("stackd.cli.stacks:list_stacks", "List the stacks."),
    "create": ("stackd.cli.stacks:create", "Create a stack."),
    "show": ("stackd.cli.stacks:show", "Show a stack and what happened to it."),
    "wait": ("stackd.cli.stacks:wait", "Wait until stacks have a status."),
    "watch": ("stackd.cli.watch:watch", "Watch the stacks change."),
    "delete": ("stackd.cli.change:delete", "Delete stacks."),
    "extend": ("stackd.cli.change:extend", "Extend a stack's time to live."),
    "label": ("stackd.cli.change:label", "Change a stack's labels."),
    "restart": ("stackd.cli.change:restart", "Give stacks a fresh pod behind the same ports."),
    "renew": ("stackd.cli.change:renew", "Give stacks the newest version of their template."),
    "stop": ("stackd.cli.change:stop", "Remove the pods of stacks; keep their ports."),
    "start": ("stackd.cli.change:start", "Give stopped stacks a fresh pod."),
    "logs": ("stackd.cli.stacks:logs", "Print what a stack has written."),
    "timeline": ("stackd.cli.stacks:timeline", "Print what happened to a stack."),
}
# The fields to request by the form of the output; the JSON forms have all.
CHOSEN = {None: render.LISTED, "wide": render.WIDE, "name": ("stack_id",)}


@group(table=VERBS, aliases={"get": "list", "describe": "show", "batch-delete": "delete"})
def stacks() -> None:
    """Show and change stacks, over the API of a running daemon.

    The address and the key are taken from --url and --key-file, else from STACKD_URL and STACKD_API_KEY, else from
    ~/.config/stackd/client.toml (url = "…", and key = "…" or key_file = "…").

    Completion of commands and ids for bash (similar for zsh and fish):

    eval "$(_STACKD_COMPLETE=bash_source stackd)"
    """


@click.command("list")
@client_options
@stack_ids_argument(required=False)
@filter_options
@output_option("wide", "json", "jsonl", "name")
def list_stacks(client: Client, stack_ids: tuple[str, ...], output: str | None, **chosen: Any) -> None:
    """List the stacks, or those with these ids: a table, or in a pipe one line each with tabs between the fields."""
    if stack_ids and any(chosen.values()):
        raise click.UsageError("name stacks, or choose them with --label, --status, --node or --template")
    listed = [client.get(checked(one)) for one in stack_ids] or client.stacks(**chosen, fields=CHOSEN.get(output, ()))
    if not listed:
        click.echo("no stack matches" if any(chosen.values()) else "there are no stacks", err=True)
    raw = [stack.raw for stack in listed]
    if output == "wide":
        from stackd.cli.roster import player_names

        names = player_names(client, listed)
        raw = [{**stack, "player": names.get(stack["stack_id"])} for stack in raw]
    render.print_stacks(raw, output)


@click.command()
@client_options
@stack_id_argument
@click.option("--spec", is_flag=True, help="Print the pod spec alone, as YAML.")
@output_option("json", "jsonl")
def show(client: Client, stack_id: str, spec: bool, output: str | None) -> None:
    """Show everything about one stack, and what happened to it."""
    stack = client.get(checked(stack_id)).raw
    if render.printed(stack, output):
        return
    if spec:
        render.print_text(stack["pod_spec"])
        return
    _print_detail(stack)
    click.echo()
    render.print_table(TIMELINE, [event.raw for event in client.timeline(stack_id)])


@click.command()
@client_options
@stack_ids_argument(required=True)
@click.option(
    "--for", "status", type=click.Choice((*STATUSES, "deleted")), default="running", show_default=True,
    help="The status to wait for.",
)  # fmt: skip
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="The longest wait.")
def wait(client: Client, stack_ids: tuple[str, ...], status: Any, timeout: str) -> None:
    """Wait until stacks have a status; exit code 1 if one of them cannot reach it, or not in time."""
    end = time.monotonic() + parse_duration(timeout)

    def each(stack_id: str) -> None:
        stack = client.wait(stack_id, status, timeout=max(0.0, end - time.monotonic()))
        click.echo("\t".join([stack_id, stack.status, *(render.addresses(stack.raw) if stack.raw else ())]))

    for_each(stack_ids, each)


@click.command()
@client_options
@stack_id_argument
@output_option("json", "jsonl")
def timeline(client: Client, stack_id: str, output: str | None) -> None:
    """Show what happened to a stack, even for a while after it is gone."""
    events = [event.raw for event in client.timeline(checked(stack_id))]
    if not render.printed({"stack_id": stack_id, "events": events}, output, events):
        render.print_table(TIMELINE, events)


@click.command()
@client_options
@stack_id_argument
@click.option("--follow", "-f", is_flag=True, help="Follow the output until it ends or Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last lines.")
@click.option("--container", metavar="NAME", help="The container.  [the first one]")
@click.option("--member", metavar="NAME", default="", help="The member whose pod it is.  [the first pod]")
@click.option("--raw", is_flag=True, help="Do not escape control characters; a terminal obeys them.")
def logs(client: Client, stack_id: str, follow: bool, tail: int | None, raw: bool, **of: str | None) -> None:
    """Print what a stack's container has written; after a failure, its last lines."""
    chosen: Any = {"tail": tail or 0, **{name: value or "" for name, value in of.items()}}
    if not follow:
        render.print_text(client.logs(checked(stack_id), **chosen), raw=raw)
        return
    with suppress(KeyboardInterrupt):
        for text in client.follow_logs(checked(stack_id), **chosen):
            render.print_text(text, raw=raw)


def for_each(stack_ids: tuple[str, ...], each: Callable[[str], None]) -> None:
    """Call ``each`` for every stack, print the errors, and fail at the end if there were any. Raises UsageError."""
    failed = 0
    for stack_id in dict.fromkeys(stack_ids):
        try:
            each(checked(stack_id))
        except ClientError as error:
            if len(stack_ids) == 1 or isinstance(error, Unreachable):
                raise
            click.ClickException(printable(str(error))).show()
            failed += 1
    if failed:
        raise click.ClickException(f"{failed} of {len(stack_ids)} failed")


def _print_detail(stack: render.Fields) -> None:
    render.print_facts(_facts(stack), {"status": render.style(stack)})


def _facts(stack: render.Fields) -> Iterator[tuple[str, str]]:
    yield "stack", stack["stack_id"]
    yield "status", stack["status"]
    if why := ": ".join(filter(None, (stack.get("status_reason"), stack.get("status_message")))):
        yield "because", why
    for text, each in zip(render.addresses(stack), stack.get("addresses") or (), strict=True):
        yield "address", f"{text} → {each['port']}/{each['protocol']}"
    yield "node", stack["node_id"] or "-"
    for member in stack.get("members") or ():
        yield "member", f"{member['name']} on {member['node_id'] or '-'}"
    for name, value in (stack.get("labels") or {}).items():
        yield "label", f"{name}={value}"
    yield "created", f"{render.local(stack['created_at'])} ({render.duration(render.since(stack['created_at']))} ago)"
    yield (
        "expires",
        f"{render.local(stack['ttl_expires_at'])} (in {render.duration(-render.since(stack['ttl_expires_at']))})",
    )
    yield "cpu", str(of_milli(stack["requested_cpu_milli"]))
    yield "memory", str(of_bytes(stack["requested_memory_bytes"]))


def _what(event: render.Fields) -> str:
    count = event.get("count", 1)
    return f"{event['kind']} ({count} times)" if count > 1 else str(event["kind"])


TIMELINE = (
    render.Column(head="when", of=lambda event: render.recent(event["at"])),
    render.Column(head="what", of=_what, elastic=True),
    render.Column(head="reason", of=lambda event: event["reason"] or "", keep=6, elastic=True),
    render.Column(head="by", of=lambda event: event["by"] or "", keep=5, elastic=True),
    render.Column(head="message", of=lambda event: event["message"] or "", keep=8, fold=True),
)


@click.command()
@client_options
@click.option(
    "--file", "-f", "source", type=click.Path(dir_okay=False, allow_dash=True),
    help="A Pod as YAML, or the body of a create as JSON; - is standard input.",
)  # fmt: skip
@template_option(help="A template instead of a file; see stackd templates.")
@click.option("--port", "-p", "ports", multiple=True, metavar="CONTAINER_PORT[/PROTOCOL or /ROUTE]",
              help="A port to publish.  [all of the pod's ports]")  # fmt: skip
@click.option("--ttl", type=Length(), help="How long it lives, such as 30m.")
@labels_option(help="A label; may be repeated.")
@click.option(
    "--players", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help='With --template, for each player who has none, a stack: a CSV file with a column "player"; - is standard input.',
)  # fmt: skip
@column_option
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable that the template lets a create set.")
@click.option("--return-existing", is_flag=True, help="If a label's limit is reached, show the existing stack.")
@click.option("--dry-run", is_flag=True, help="Create nothing; print what would be created.")
@click.option("--wait", is_flag=True, help="Return when it is running; exit code 1 if it fails.")
@click.option("--timeout", type=Length(), default="5m", show_default=True, help="The longest wait.")
@output_option("json", "jsonl", "name")
def create(client: Client, source: str | None, output: str | None, **options: Any) -> None:
    """Create a stack.

    \b
    stackd stacks create -f pod.yaml --port 80/tcp --ttl 30m --label player=7
    stackd stacks create --template web-1 --label player=7
    stackd stacks create --template lab-1 --players players.csv --wait
    """
    body = _body(source, options["template"], options["ports"]) | ({"ttl": options["ttl"]} if options["ttl"] else {})
    for field, texts in (("labels", options["labels"]), ("env", options["env"])):
        if texts:
            body[field] = {**body.get(field, {}), **labels_of(texts, "--env" if field == "env" else "--label")}
    if options["players"]:
        if not options["template"] or options["return_existing"] or options["dry_run"]:
            raise click.UsageError("--players goes with --template, --ttl, --label, --env, --wait and --output")
        from stackd.cli.players import create_for

        timeout = options["timeout"] if options["wait"] else None
        create_for(client, options["players"], options["player_column"], body, output, timeout=timeout)
        return
    if options["return_existing"]:
        body["if_exists"] = "return"
    if options["dry_run"]:
        if not render.printed(dry := client.dry_run_from(body).raw, output):
            render.print_text(dry["pod_spec"])
        return
    with interruptible("the stack may have been created; see: stackd stacks list"):
        created = client.create_from(body)
    stack = dict(created.raw)
    try:
        if options["wait"]:
            still = f"{created.stack_id} still exists; delete it with: stackd stacks delete {created.stack_id}"
            with interruptible(still):
                stack |= client.wait(created, timeout=options["timeout"]).raw
    except StackEnded as error:
        stack |= error.stack.raw
        raise
    finally:
        _print_created(stack, output)


def _print_created(stack: render.Fields, output: str | None) -> None:
    """Print what was created, also if it does not come to run: its generated values are shown to nobody a second time."""
    for warning in stack.get("warnings") or ():
        click.echo(f"warning: {printable(warning)}", err=True)
    values = stack.get("values") or {}
    if render.printed(stack, output):
        return
    if output == "name":
        click.echo(stack["stack_id"])
    elif render.is_terminal():
        _print_detail(stack)
        render.print_facts(values.items())
    else:
        shown = [f"{name}={printable(value)}" for name, value in values.items()]
        click.echo("\t".join([stack["stack_id"], stack["status"], *render.addresses(stack), *shown]))


def _body(source: str | None, template: str | None, ports: Sequence[str]) -> dict[str, Any]:
    if (source is None) == (template is None):
        raise click.UsageError("say what to create: either --file or --template")
    if source is not None:
        return request_body(source, ports)
    if ports:
        raise click.UsageError("--port goes with --file: a template publishes its own ports")
    return {"template": template}


def request_body(source: str, ports: Sequence[str] = ()) -> dict[str, Any]:
    """The request body in a file (``-``: standard input), which is a pod spec, or a complete request as JSON.

    Without ``ports``, stackd publishes all that the pod declares. Raises UsageError.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{source} cannot be read: {error}") from error
    body: Any = None
    with suppress(ValueError):
        body = json.loads(text)
    if not isinstance(body, dict) or {"pod_spec", "template"}.isdisjoint(body):
        body = {"pod_spec": text}
    published = []
    for port in ports:
        try:
            published.append(target_port(port))
        except ClientError as error:
            raise click.UsageError(f"--port must be like 80 or 53/udp, not {port!r}") from error
    return {**body, **({"target_port": published} if published else {})}
