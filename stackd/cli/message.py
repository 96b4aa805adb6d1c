"""``stackd message``: what players read on their page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.options import label_complete, labels_of, output_option, template_complete
from stackd.cli.target import client_options

if TYPE_CHECKING:
    from stackd.client import Client


@click.command()
@client_options
@click.argument("text", required=False)
@click.option(
    "--template", "-t", metavar="NAME", shell_complete=template_complete, help="To who may start stacks of it."
)
@click.option("--label", "-l", "labels", multiple=True, metavar="KEY=VALUE", shell_complete=label_complete,
              help="To players with this label; may be repeated.")  # fmt: skip
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
    found = [one.raw for one in said]
    if not render.printed({"messages": found}, output, found, "message_id"):
        render.print_table(COLUMNS, found)


COLUMNS = (
    render.Column(head="message", of=lambda one: one["message_id"]),
    render.Column(head="text", of=lambda one: one["text"], elastic=True),
    render.Column(head="labels", of=lambda one: render.label_text(one) or "-", elastic=True),
    render.Column(head="template", of=lambda one: one["template"] or "-", keep=5),
    render.Column(head="until", of=lambda one: render.local(one["until"])),
)
