"""``stackd flags …``: whose is a value that somebody has handed in, one or a column of a file; and all values, for a grader."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import click

from stackd.cli import group
from stackd.cli import output as render
from stackd.cli.options import labels_of, labels_option, output_option, template_option
from stackd.cli.players import Form, table_of
from stackd.cli.target import client_options
from stackd.client import Client
from stackd.contract import ValueHolder

ADDED = ("stack_id", "labels", "is_there")
NOBODY = 1


@group()
def flags() -> None:
    """Find out for whom a value such as a flag was generated."""


@flags.command(short_help="Say whose a value is.")
@client_options
@click.argument("value")
@output_option("json", "jsonl", "name")
def find(client: Client, value: str, output: str | None) -> None:
    """Say whose a value is; exit code 1 if it is nobody's.

    Finds stacks that are gone, too, for as long as their history is kept.
    """
    found = [one.raw for one in client.find_value(value.strip())]
    render.print_list("found", found, COLUMNS, output, "stack_id")
    if not found:
        sys.exit(NOBODY)


@flags.command(short_help="Say whose each value of a file is.")
@client_options
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE")
@click.option("--column", default="flag", show_default=True, metavar="NAME", help="The column with the values.")
def check(client: Client, file: str, column: str) -> None:
    """Say whose each value of a CSV file is: prints the file again, with the stack and its labels in each line.

    A value that was generated for nobody gets empty cells.

    \b
    stackd flags check answers.csv --column answer > checked.csv
    """
    form, head, place, rows = table_of(file, column, "see --column")
    lines = _checked(client, rows, place, len(head))
    click.echo(form.written([[*head, *ADDED], *lines]), nl=False)


def _checked(client: Client, rows: Iterable[tuple[int, list[str]]], place: int, width: int) -> Iterator[list[str]]:
    """Each line with what is known of its value; each value is asked for once."""
    known: dict[str, list[ValueHolder]] = {}
    for _, row in rows:
        row.extend([""] * (width - len(row)))
        value = row[place]
        if value and value not in known:
            known[value] = client.find_value(value)
        holders = known.get(value, [])
        yield [
            *row,
            " ".join(one.stack_id for one in holders),
            "; ".join(render.label_text(one.raw) for one in holders),
            " ".join("no" if one.removed_at else "yes" for one in holders),
        ]


@flags.command(short_help="Print the values of all stacks, for a grader.")
@client_options
@template_option(default="", help="Of this template only.")
@labels_option(help="Of stacks with this label only; may be repeated.")
@output_option("json", "jsonl")
def export(client: Client, template: str, labels: tuple[str, ...], output: str | None) -> None:
    """Print the values of all stacks as CSV, a line for each value. The activity says who has done so.

    \b
    stackd flags export --template lab-1 > flags.csv
    """
    stacks = client.values(labels=labels_of(labels), template=template)
    if not render.printed({"stacks": [one.raw for one in stacks]}, output, [one.raw for one in stacks]):
        lines = (
            [one.stack_id, one.template, render.label_text(one.raw), *pair]
            for one in stacks
            for pair in one.values.items()
        )
        click.echo(Form().written([["stack_id", "template", "labels", "name", "value"], *lines]), nl=False)


def _until(one: render.Fields) -> str:
    """Until when the stack had the value; - if it has it."""
    return render.local(one["removed_at"]) if one["removed_at"] else "renewal" if one.get("renewed") else "-"


COLUMNS = (
    render.Column(head="stack", of=lambda one: one["stack_id"]),
    render.Column(head="name", of=lambda one: one["name"]),
    render.Column(head="labels", of=lambda one: render.label_text(one) or "-", elastic=True),
    render.Column(head="template", of=lambda one: one["template"] or "-", keep=5),
    render.Column(head="until", of=_until),
)
