"""Commands about the daemon as a whole, over its API: templates, statistics, capacity, events, rehearse, and more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from stackd.cli import group
from stackd.cli import output as render
from stackd.cli.options import (
    Length,
    checked,
    filter_options,
    label_option,
    output_option,
    stack_complete,
    template_complete,
)
from stackd.cli.target import client_options
from stackd.client import Client, Event
from stackd.contract import ACTIONS, AUDIT, STACK_FIELDS
from stackd.printable import printable
from stackd.quantity import of_bytes, of_milli

# The columns of a stack that an event shows on a terminal.
IN_EVENTS = tuple(column for column in render.COLUMNS if column.head not in ("node", "age", "left"))
FROM_COMPOSE = ("stackd.cli.compose:from_compose", "Print a template from a Compose file.")


@group(table={"from-compose": FROM_COMPOSE}, default="list", aliases={"get": "list"})
def templates() -> None:
    """List the templates, delete some, or make one; `stackd push` writes them. Without a command, it lists them."""


@templates.command("list", short_help="List the templates.")
@client_options
@output_option("json", "jsonl", "name")
def list_templates(client: Client, output: str | None) -> None:
    """List the templates that a create can name, their stacks, and the state of their pools."""
    render.print_list("templates", [one.raw for one in client.templates()], TEMPLATE, output, "name")
    for problem in client.template_problems():
        click.echo(printable(f"not in force: {problem.message}"), err=True)


@templates.command("delete", short_help="Delete templates of the API.")
@client_options
@click.argument("names", metavar="TEMPLATE…", nargs=-1, required=True, shell_complete=template_complete)
def delete_templates(client: Client, names: tuple[str, ...]) -> None:
    """Delete templates that were written over the API. Their stacks stay until they expire; their pools are removed.

    A template of a file on the daemon's machine is deleted there.
    """
    for name in names:
        client.delete_template(checked(name))
        click.echo(f"deleted  {name}")


def _images(one: Any) -> str:
    states = [pull["state"] for pull in (one["prepull"] or {}).values()]
    return "-" if one["prepull"] is None else f"on {states.count('pulled')} of {render.counted(len(states), 'node')}"


def _reason(one: Any) -> str:
    return next(filter(None, [one["reason"], *(pull["reason"] for pull in (one["prepull"] or {}).values())]), "-")


TEMPLATE = (
    render.Column(head="template", of=lambda one: one["name"]),
    render.Column(head="ports", of=lambda one: render.ports_text(one["target_port"]), keep=2),
    render.Column(head="ttl", of=lambda one: one["ttl"], keep=3),
    render.Column(head="stacks", of=lambda one: render.by_status(one["stacks"]) or "-", keep=7, elastic=True),
    render.Column(head="pool", of=lambda one: f"{one['ready']} of {one['pool']} ready" if one["pool"] else "-", keep=6),
    render.Column(head="images", of=_images, keep=5),
    render.Column(head="reason", of=_reason, keep=8, fold=True),
)


@click.command()
@client_options
@output_option("json", "jsonl")
def stats(client: Client, output: str | None) -> None:
    """Count stacks, their node ports, and the CPU and memory that they reserve."""
    totals = client.stats().raw
    if not render.printed(totals, output):
        render.print_facts(_counts(totals, Counter[str](stack.status for stack in client.stacks(fields=["status"]))))


def _counts(totals: Any, counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    yield "stacks", ": ".join(filter(None, [str(sum(counts.values())), render.by_status(counts)]))
    yield "node ports", str(totals["used_node_ports"])
    yield "spare services", str(totals.get("spare_services", 0))
    yield "cpu", str(of_milli(totals["reserved_cpu_milli"]))
    yield "memory", str(of_bytes(totals["reserved_memory_bytes"]))
    yield from _on_nodes(totals["node_distribution"])


def _on_nodes(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for node in sorted(counts, key=render.natural):
        yield f"on {node}", str(counts[node])


@click.command()
@client_options
@click.option("--cpu", default="", metavar="QUANTITY", help="CPU of one stack.  [100m]")
@click.option("--memory", default="", metavar="QUANTITY", help="Memory of one stack.  [128Mi]")
@click.option("--ephemeral-storage", default="", metavar="QUANTITY",
              help="Disk of one stack.  [what policy.max_ephemeral_storage or the namespace's LimitRange gives]")  # fmt: skip
@click.option("--ports", type=click.IntRange(min=1), help="Node ports of one stack.  [1]")
@output_option("json", "jsonl")
def capacity(client: Client, output: str | None, ports: int | None, **size: str) -> None:
    """Show how many more stacks of a size fit, and what runs out first."""
    answer = client.capacity(ports=ports or 0, **size).raw
    if not render.printed(answer, output):
        render.print_facts(_bounds(answer))


def _bounds(capacity: Any) -> Iterator[tuple[str, str]]:
    size = f"{of_milli(capacity['requested_cpu_milli'])} CPU and {of_bytes(capacity['requested_memory_bytes'])}"
    yield "fits", f"{capacity['fits']} more stacks of {size}"
    yield "limited by", str(capacity["limited_by"])
    yield from _on_nodes(capacity["nodes"])
    yield "node ports", str(capacity["ports"])
    unread = "not read yet; ask again in half a minute" if capacity["quota_seen_at"] is None else "no limit"
    yield "quota", unread if capacity["quota"] is None else f"{capacity['quota']} ({capacity['quota_limited_by']})"
    yield "max_stacks", "no limit" if capacity["stacks"] is None else str(capacity["stacks"])
    if capacity.get("unassigned"):
        yield "in pools", f"{capacity['unassigned']}, which make way for creates and count as free"


@click.command()
@client_options
@filter_options
@output_option("json", "jsonl")
def events(client: Client, output: str | None, **chosen: Any) -> None:
    """Print what changes, as it changes: stacks, and without a filter batch-delete jobs. Ends with Ctrl-C.

    In JSON, one event a line: kind, id, and data as the API sends it, without pod specs.
    """
    fields = [name for name in STACK_FIELDS if name != "pod_spec"] if output else render.LISTED
    with suppress(KeyboardInterrupt):
        for event in client.events(fields=fields, **chosen):
            if output:
                render.print_json_line({"kind": event.kind, "id": event.id, "data": event.data})
            elif words := _words(event):
                click.echo(render.line([datetime.now().astimezone().strftime("%H:%M:%S"), event.kind, *words]))


def _words(event: Event) -> list[str]:
    if event.kind == "stack":
        return render.cells(event.data, IN_EVENTS if render.is_terminal() else render.COLUMNS)
    if event.kind in ("deleted", "left"):
        return [event.stack_id]
    if (job := event.job) is not None:
        return [job.job_id, job.status, f"{job.done + job.not_found + job.failed} of {job.total}"]
    return ["changes were missed"] if event.kind == "reset" else []


@click.command()
@client_options
@click.option(
    "--plan", "action", flag_value="plan", default=True, help="Print what a pass would do and why.  [default]"
)
@click.option("--confirm", "action", flag_value="confirm",
              help="Release what a brake holds back now, and remove unknown objects.")  # fmt: skip
@output_option("json", "jsonl")
def reconcile(client: Client, action: str, output: str | None) -> None:
    """Show what the reconciliation of a running daemon would do, or release its brake."""
    confirms = action == "confirm"
    answer = (client.release() if confirms else client.reconcile()).raw
    if not render.printed(answer, output):
        click.echo("\n".join(map(printable, _released(answer) if confirms else _plan(answer))))


def _released(answer: Any) -> Iterator[str]:
    yield f"released: {render.counted(answer['released'], 'stack')}"
    yield from (f"removed: {name}" for name in answer.get("removed", ()))
    if held := answer.get("held"):
        yield f"{len(held)} more are held back now; see: stackd reconcile --plan"


def _plan(plan: Any) -> Iterator[str]:
    held, unknown = set(plan["held"]), plan.get("unknown", ())
    if plan["blocked"]:
        yield f"reconciliation is stopped: {plan['blocked']}"
        if held:
            yield f"{len(held)} held back; they can be released when it resumes"
        return
    for action in plan["actions"]:
        waits = "  (held)" if action["name"].removeprefix("svc-") in held else ""
        yield f"{action['action']:<15} {action['name']}  {action['why']}{waits}"
    yield from (f"{'unknown':<15} {one['kind']} {one['name']}  {one['why']}" for one in unknown)
    yield from (f"not ready: {reason}" for reason in plan.get("reasons", ()))
    if not plan["actions"] and not unknown and not plan.get("reasons"):
        yield "nothing to do: rows and cluster agree"
    if held:
        yield f"{len(held)} held back; release with: stackd reconcile --confirm"
    if unknown:
        yield f"{len(unknown)} unknown and left alone; remove with: stackd reconcile --confirm"


@click.command()
@client_options
@click.option("--key", "key_name", default="", metavar="NAME", help="Only requests of the API key with this name.")
@click.option("--action", type=click.Choice(ACTIONS), metavar="KIND", help=f"Only of one kind: {', '.join(ACTIONS)}.")
@click.option("--stack", metavar="STACK", help="Only about this stack.", shell_complete=stack_complete)
@label_option
@click.option("--find", multiple=True, metavar="TEXT",
              help="Only with this text in the key's name, action, labels, id or message; may be repeated.")  # fmt: skip
@click.option("--since", metavar="TIME", help="Only since a time (2026-02-10T02:02:26Z), or in the last 1h.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@output_option("json", "jsonl")
def activity(client: Client, key_name: str, labels: tuple[str, ...], output: str | None, **options: Any) -> None:
    """Show which API key asked for what, when, for how many stacks, and with which result; the latest first."""
    chosen = {name: value for name, value in options.items() if value}
    entries = [one.raw for one in client.activity(key=key_name, labels=labels, **chosen)]
    render.print_list("activity", entries, ACTIVITY, output)


def _result(one: Any) -> str:
    """``38 done, 2 failed``; while it goes on, ``running, 12 of 40``."""
    counts = render.by_status({"done": one["done"], "not found": one["not_found"], "failed": one["failed"]})
    if one["status"] in ("queued", "running"):
        return f"{one['status']}, {one['done'] + one['not_found'] + one['failed']} of {one['total']}"
    if one["action"] in AUDIT:
        return " ".join(
            [*(["failed"] if one["status"] == "failed" else []), *([f"{one['count']} times"] if "count" in one else [])]
        )
    return counts or "nothing to do"


ACTIVITY = (
    render.Column(head="when", of=lambda one: render.recent(one["at"])),
    render.Column(head="by", of=lambda one: one["by"], keep=7, elastic=True),
    render.Column(head="action", of=lambda one: f"{one['action']} {one.get('ttl') or ''}".strip()),
    render.Column(head="about", of=lambda one: one.get("stack_id") or one.get("job_id") or "-", keep=6),
    render.Column(head="stacks", of=lambda one: str(one["total"] or "-"), keep=7, right=True),
    render.Column(head="result", of=_result, keep=8, elastic=True),
    render.Column(head="labels", of=lambda one: render.label_text(one) or "-", keep=5, elastic=True),
    render.Column(head="message", of=lambda one: one["message"], keep=1, elastic=True),
)

TAKEOVER_SECONDS = 120.0
CHECK_SECONDS = 0.2


@click.command()
@client_options
@output_option("json", "jsonl")
@click.option("--is", "role", type=click.Choice(["owner", "lapsed", "standby", "lost", "released"]),
              help="Exit with 1 unless this is the role of the daemon.")  # fmt: skip
def owner(client: Client, output: str | None, role: str | None) -> None:
    """Show who owns the stacks, and the role of the daemon at this address."""
    ownership = client.owner().raw
    if role not in (None, ownership["role"]):
        raise click.ClickException(f"this stackd is {ownership['role']}")
    if not render.printed(ownership, output):
        render.print_facts(_ownership(ownership))


def _ownership(ownership: Any) -> Iterator[tuple[str, str]]:
    lapsed = ownership["role"] == "lapsed"
    yield ownership["host"], "lapsed: its Lease was not renewed in time" if lapsed else ownership["role"]
    acquired, renewed = [render.local(ownership[at]) if ownership[at] else "" for at in ("acquired_at", "renewed_at")]
    yield "owner", f"{ownership['owner']} since {acquired or '?'}" if ownership["owner"] else "none"
    yield "lease", f"{ownership['lease']}, held by {ownership['holder'] or 'nobody'}, renewed {renewed or 'never'}"
    yield "good for", f"{ownership['lease_duration_seconds']} s after a renewal"
    yield "takeovers", str(ownership["transitions"])
    if ownership["asked_for_by"]:
        yield "asked for by", ownership["asked_for_by"]
    if ownership["trouble"]:
        yield "trouble", ownership["trouble"]


@click.command()
@client_options
def takeover(client: Client) -> None:
    """Make the standby at this address take over the stacks; return when it owns them.

    The owner finishes what is under way, hands the stacks over, and then becomes a standby itself.
    """
    asked = client.takeover()
    click.echo(printable(f"{asked} was asked to hand the stacks over"))
    end = time.monotonic() + TAKEOVER_SECONDS
    while time.monotonic() < end:
        ownership = client.owner()
        if ownership.role == "owner":
            click.echo(printable(f"{ownership.host} owns the stacks"))
            return
        time.sleep(CHECK_SECONDS)
    raise click.ClickException(f"{asked} has not handed them over within {TAKEOVER_SECONDS:g} s; see: stackd owner")


@click.command(short_help="Will it hold? Start many stacks, and measure.")
@client_options
@click.option("--stacks", "-n", type=click.IntRange(1, 100_000), required=True, help="How many players press start.")
@click.option("--rate", metavar="RATE", help="How many press start per second, such as 20/s.")
@click.option("--burst", is_flag=True, help="All at once, instead of a rate.")
@click.option("--template", multiple=True, metavar="NAME[=WEIGHT]",
              help="A template of the daemon's; several are mixed by weight.")  # fmt: skip
@click.option("--file", "-f", multiple=True, metavar="FILE[=WEIGHT]",
              help="A Pod as YAML, or the body of a create as JSON.")  # fmt: skip
@click.option("--hold", type=Length(), default="10s", show_default=True, help="How long all stacks are kept.")
@click.option("--churn", default="0%", show_default=True, metavar="SHARE",
              help="Share of players who delete their stack during the hold and start another.")  # fmt: skip
@click.option("--probe", type=click.Choice(("none", "tcp", "http")), default="none", show_default=True,
              help="Try each address from here.")  # fmt: skip
@click.option("--poll", type=Length(), default="2s", show_default=True, help="How often a player asks for the status.")
@click.option("--label", "-l", multiple=True, metavar="KEY=VALUE",
              help="More labels; {player} becomes the player's number.")  # fmt: skip
@click.option("--ttl", type=Length(), default="10m", show_default=True,
              help="Time to live of each stack if this command is killed; extended while it runs.")  # fmt: skip
@click.option("--patience", type=Length(), default="2m", show_default=True, help="How long a stack may take to run.")
@click.option("--expect", "-e", multiple=True, metavar="GOAL",
              help="Exit code 1 if it is missed: running-p95=10s, failed=1%.  [default: failed=0]")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 20_000),
              help="Most connections to the daemon.  [enough for a burst]")  # fmt: skip
@click.option("--anyway", is_flag=True, help="Start even if the daemon is not ready or the capacity is too small.")
@click.option("--with-others", is_flag=True, help="Start even if others have stacks.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False, writable=True),
              help="Write a page with charts.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def rehearse(client: Client, **options: Any) -> None:
    """Rehearse an event: let many players press start, and measure how long they wait and what fails.

    \b
    stackd rehearse --stacks 300 --rate 20/s --file pod.yaml \\
      --hold 5m --probe tcp --expect running-p95=10s

    All its stacks have the label stackd.rehearsal; it deletes them at the end, even after Ctrl-C.
    """
    from stackd.cli import rehearsal

    rehearsal.rehearse(client, options)
