"""``stackd players``: a line for each link of a player: who has not started, whose stack does not work; ``stackd message``: what
players read on their page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from stackd.cli import output as render
from stackd.cli.options import labels_of, labels_option, output_option, template_option
from stackd.cli.target import client_options
from stackd.client import Client
from stackd.contract import KeptLink, Stack
from stackd.names import matches_any

NOT_STARTED = "not started"
LINK = "link"  # the label of what visitors of an open link create


@click.command()
@client_options
@template_option(default="", help="Only stacks of this template.")
@labels_option(help="Only players with this label; may be repeated.")
@click.option("--not-started", is_flag=True, help="Only who has no stack.")
@output_option("json", "jsonl", "name")
def players(client: Client, template: str, labels: tuple[str, ...], not_started: bool, output: str | None) -> None:
    """Show who has a link, and what has become of it.

    A line for each link that has not expired, and for each stack of its player; of an open link, for each stack of its visitors.

    \b
    stackd players --template lab-1
    stackd players --not-started -o name
    """
    wanted = labels_of(labels)
    stacks = client.stacks(labels=wanted, template=template)
    links = [one for one in players_links(client) if wanted.items() <= one.labels.items() and may_start(one, template)]
    own = stacks_by_link(links, stacks)
    rows = [row for link in links for row in _rows(link, own[link.link_id])]
    rows = [row for row in rows if not not_started or row["status"] == NOT_STARTED]
    render.print_list("players", rows, COLUMNS, output, LINK)


def players_links(client: Client) -> list[KeptLink]:
    """The links of players that work."""
    return [one for one in client.links() if not (one.revoked or one.scope)]


def may_start(link: KeptLink, template: str) -> bool:
    """Whether the link is for the template; for any if that is empty."""
    return not (template and link.templates) or matches_any(link.templates, template)


def stacks_by_link(links: Sequence[KeptLink], stacks: Sequence[Stack]) -> Mapping[str, list[Stack]]:
    """The stacks of each link's player, by the link's id: those with its labels."""
    having = defaultdict[tuple[str, str], set[int]](set)
    for place, stack in enumerate(stacks):
        for label in () if stack.shared else stack.labels.items():
            having[label].add(place)
    found = {}
    for link in links:
        labels = {LINK: link.link_id} if link.each else link.labels
        places = set.intersection(*(having[label] for label in labels.items()))
        found[link.link_id] = [stacks[place] for place in sorted(places)]
    return found


def player_names(client: Client, stacks: Sequence[Stack]) -> Mapping[str, str]:
    """What the links call who has the stacks, by the stacks' ids."""
    links = {link.link_id: link for link in players_links(client)}
    found = stacks_by_link([*links.values()], stacks)
    return {stack.stack_id: _name(links[link_id], stack) for link_id, own in found.items() for stack in own}


def _name(link: KeptLink, stack: Stack) -> str:
    """The link's name; for a visitor of an open link with what that page shows beside it."""
    return f"{link.name} {stack.labels['player'][:4].upper()}" if link.each else link.name


def _rows(link: KeptLink, own: list[Stack]) -> Iterator[dict[str, Any]]:
    about = {
        "link": link.link_id,
        "name": link.name,
        "player_name": link.player_name,
        "labels": dict(link.labels),
        "link_expires_at": link.raw["expires_at"],
        "opened_at": link.raw.get("opened_at"),
        "seen_at": link.raw.get("seen_at"),
    }
    for one in own:
        names = ("stack_id", "template", "status", "addresses", "ttl_expires_at", "problem")
        shown = {name: one.raw.get(name) for name in names}
        yield {**about, "name": _name(link, one), "labels": dict(one.labels), **shown}
    if not own and not link.each:
        yield {**about, "status": NOT_STARTED}


def _seen(row: render.Fields) -> str:
    return f"{render.duration(render.since(row['seen_at']))} ago" if row.get("seen_at") else "never"


def _left(row: render.Fields) -> str:
    return render.duration(-render.since(row["ttl_expires_at"])) if row.get("ttl_expires_at") else "-"


COLUMNS = (
    render.Column(head="name", of=lambda row: row["name"] or "-", elastic=True),
    render.Column(head="labels", of=lambda row: render.label_text(row) or "-", keep=6, elastic=True),
    render.Column(head="status", of=lambda row: row["status"], style=render.style),
    render.Column(head="problem", of=lambda row: str((row.get("problem") or {}).get("key", "-")), keep=8),
    render.Column(head="template", of=lambda row: row.get("template") or "-", keep=4),
    render.Column(head="address", of=lambda row: " ".join(render.addresses(row)) or "-", keep=5),
    render.Column(head="left", of=_left, keep=7),
    render.Column(head="seen", of=_seen, keep=2),
    render.Column(head="link", of=lambda row: row["link"], keep=3),
)


@click.command()
@client_options
@click.argument("text", required=False)
@template_option(help="To who may start stacks of it.")
@labels_option(help="To players with this label; may be repeated.")
@click.option("--until", metavar="TIME", help="Such as 30m, or 2026-03-01T17:00:00Z.  [1h]")
@click.option("--delete", metavar="MESSAGE", help="Show this message no more.")
@output_option("json", "jsonl", "name")
def message(client: Client, text: str | None, delete: str | None, output: str | None, **options: Any) -> None:
    """Say something to players: their page shows it within seconds. Without TEXT, list what is shown now.

    \b
    stackd message "Ten minutes left. Save your work." --template lab-1 --until 10m
    """
    if text is not None and delete:
        raise click.UsageError("--delete goes without a text")
    if delete:
        client.delete_message(delete)
    body = {**options, "text": text, "labels": labels_of(options["labels"])}
    said = [client.send_message(body)] if text is not None else client.messages()
    render.print_list("messages", [one.raw for one in said], MESSAGE, output, "message_id")


MESSAGE = (
    render.Column(head="message", of=lambda one: one["message_id"]),
    render.Column(head="text", of=lambda one: one["text"], elastic=True),
    render.Column(head="labels", of=lambda one: render.label_text(one) or "-", elastic=True),
    render.Column(head="template", of=lambda one: one["template"] or "-", keep=5),
    render.Column(head="until", of=lambda one: render.local(one["until"])),
)
