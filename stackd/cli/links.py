"""``stackd links …``: links for players, by name or for a whole class, as CSV or as a sheet with QR codes; and the secret that
signs them.

Owns: what is printed, once; stackd shows no link again.
"""

from __future__ import annotations

import html
import secrets
from pathlib import Path
from typing import Any

import click

from stackd.cli import group
from stackd.cli import output as render
from stackd.cli.link_files import Group, Made, patiently
from stackd.cli.options import (
    Length,
    column_option,
    config_option,
    confirm,
    labels_of,
    labels_option,
    output_option,
    template_option,
)
from stackd.cli.players import players_option, read_players
from stackd.cli.stacks import for_each
from stackd.cli.target import client_options, interruptible
from stackd.client import Client
from stackd.files import read_keys, write_private
from stackd.printable import printable

SHEET = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.4 system-ui, sans-serif; margin: 1cm; color: #000; background: #fff }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5cm, 1fr)); gap: .6cm }}
section {{ break-inside: avoid; border: 1px dashed #999; padding: .4cm; text-align: center }}
h2 {{ font-size: 1.1em; margin: 0 0 .2cm; overflow-wrap: anywhere }}
svg {{ width: 5cm; height: 5cm }}
p {{ margin: .1cm 0 0; font-size: .8em; overflow-wrap: anywhere }}
b {{ font: 1.4em monospace; white-space: nowrap }}
</style>
<main>
{cards}</main>
</html>
"""
CARD = """<section><h2>{name}</h2>
{code}
<p><a href="{url}">{site}</a></p><p>{typed}</p><p>until {until}</p></section>
"""


@group()
def links() -> None:
    """Make and revoke links with which players start stacks in a browser, without an account."""


@links.command(short_help="Make links for players.")
@client_options
@players_option
@template_option("templates", multiple=True,
                 help='What the player may start, such as "lab-*"; may be repeated.  [all that the key may use]')  # fmt: skip
@labels_option(help="A label of the player's stacks; may be repeated.")
@click.option("--name", metavar="NAME", help='What page and log call it.  [of a class: column "name", or the player]')
@click.option("--expires", type=Length(), help="For how long it works, such as 7d.  [7d]")
@click.option("--stacks", type=click.IntRange(1, 100), help="How many stacks a player may have at a time.  [1]")
@click.option("--visitors", type=click.IntRange(1, 10_000), metavar="TOTAL",
              help="An open link: everybody who opens it is a player; all have at most TOTAL stacks.")  # fmt: skip
@click.option("--csv", "into", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="With --players: write the links into this file. Who has one in it keeps that.")  # fmt: skip
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="With --players: write the same links into this page to print, each with a QR code.")  # fmt: skip
@column_option
@click.option("--new", is_flag=True, help="With --csv: replace the links that players have, and revoke those.")
@click.option("--html", "as_html", is_flag=True, help="Print a sheet for a classroom, with a QR code for each link.")
@output_option("json", "jsonl")
def create(client: Client, players: str | None, output: str | None, as_html: bool, **options: Any) -> None:
    """Make links for players. Each link is shown only now: who has it is the player.

    \b
    stackd links create -t lab-1 --players players.csv --csv links.csv --sheet sheet.html
    stackd links create -t lab-1 --players players.csv --player-column mail > links.csv
    stackd links create --template lab-1 --label player=seat-12 --name "Seat 12"
    """
    body = {name: options[name] for name in ("expires", "stacks") if options[name]}
    body |= {"templates": list(options["templates"])} if options["templates"] else {}
    labels = labels_of(options["labels"])
    named = {one for one in options["templates"] if not {"*", "?"} & {*one}}
    if unknown := named and named - {one.name for one in client.templates()}:
        raise click.UsageError(f"there is no template {', '.join(sorted(unknown))} that this key may use")
    if players is not None and (options["name"] or options["visitors"]):
        raise click.UsageError("--players names the links, each for one player: leave out --name and --visitors")
    into, sheet = options["into"], options["sheet"]
    if (into or sheet) and (players is None or output or as_html):
        raise click.UsageError("--csv and --sheet go with --players, and without --output and --html")
    if options["new"] and not into:
        raise click.UsageError("--new goes with --csv: the links that are replaced are those of the file")
    if players is None:
        name = {"name": options["name"]} if options["name"] else {}
        body |= {"each": "visitor", "total": options["visitors"]} if options["visitors"] else {}
        link = patiently(client, {**body, **name, "labels": labels})
        if output or as_html:
            _print([Made.of({"name": link.name}, link.raw, link.name)], output, as_html=as_html)
        else:
            click.echo(link.url)
            click.echo(f"or, at {link.url.partition('#')[0]}, the code {link.code}", err=True)
        return
    people, form = read_players(players, options["player_column"])
    made = Group(client=client, people=people, form=form, body=body, labels=labels, into=into, new=options["new"])
    _of_all(made, output, as_html=as_html)
    if sheet:
        write_private(sheet, sheet_of(made.links))


def _of_all(group: Group, output: str | None, *, as_html: bool) -> None:
    """Make the links of a class. What was made before an error is printed, or in the file: nobody is shown it again."""
    group.find()
    try:
        with interruptible("the links that were made work; revoke them with: stackd links revoke"):
            group.make(print_lines=not (output or as_html))
    except BaseException:
        if group.new_ones:
            count = f"{group.new_ones} of {render.counted(group.missing, 'link')}"
            where = "in the file; the next run makes the rest"
            if group.into is None:
                where = "printed; leave their players out of the file for the rest"
            click.echo(f"{count} are made and {where}", err=True)
            _print(group.links, output, as_html=as_html)
        raise
    _print(group.links, output, as_html=as_html)


def _print(wanted: list[Made], output: str | None, *, as_html: bool) -> None:
    """Print links as a sheet or as JSON; those of CSV are printed as soon as there is one."""
    if as_html:
        click.echo(sheet_of(wanted), nl=False)
    elif output:
        entries = [{**made.cells, "name": made.name} for made in wanted]
        render.printed({"links": entries}, output, entries)


def sheet_of(made: list[Made]) -> str:
    """A page to print: for each link its name, a QR code, and the short code to type. It loads nothing."""
    import segno

    cards = [
        CARD.format(
            name=html.escape(link.name),
            code=segno.make(link.cells["url"], error="m").svg_inline(border=2, omitsize=True),
            url=html.escape(link.cells["url"]),
            site=html.escape(link.cells["url"].partition("#")[0]),
            typed=link.cells["code"] and f"and there the code <b>{html.escape(link.cells['code'])}</b>",
            until=render.local(link.cells["expires_at"])[:16].replace("T", " "),
        )
        for link in made
    ]
    return SHEET.format(title=f"{render.counted(len(cards), 'link')}", cards="".join(cards))


@links.command("list", short_help="List the links that have not expired.")
@client_options
@output_option("json", "jsonl", "name")
def list_links(client: Client, output: str | None) -> None:
    """List the links that have not expired, without the links themselves, which nobody is shown again."""
    render.print_list("links", [one.raw for one in client.links()], COLUMNS, output, "link_id")


COLUMNS = (
    render.Column(head="link", of=lambda one: one["link_id"]),
    render.Column(head="name", of=lambda one: one["name"] or "-", elastic=True),
    render.Column(head="labels", of=lambda one: render.label_text(one) or "-", elastic=True),
    render.Column(head="templates", of=lambda one: " ".join(one["templates"]) or "all", elastic=True),
    render.Column(head="stacks", of=lambda one: str(one["stacks"])),
    render.Column(head="by", of=lambda one: one["by"], keep=5, elastic=True),
    render.Column(head="expires", of=lambda one: "revoked" if one["revoked"] else render.local(one["expires_at"])),
)


@links.command(short_help="Revoke links; their stacks stay.")
@client_options
@click.argument("link_ids", nargs=-1, metavar="LINK…")
@template_option(help="Those of this template alone.")
@labels_option(help="Those with this label; may be repeated.")
@click.option("--all", "every", is_flag=True, help="All links that the key may see.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
def revoke(
    client: Client, link_ids: tuple[str, ...], template: str | None, labels: tuple[str, ...], every: bool, yes: bool
) -> None:
    """Revoke links, by their ids or all that are chosen: from now on they open nothing. Their stacks stay.

    \b
    stackd links revoke link-6804aa27d53fbbaf
    stackd links revoke --template lab-1 --label room=b12 --yes
    """
    chosen = bool(template or labels or every)
    if chosen == bool(link_ids):
        raise click.UsageError("name links, or choose them with --template, --label or --all")
    if chosen:
        wanted = labels_of(labels)
        link_ids = tuple(
            one.link_id
            for one in client.links()
            if not one.revoked and wanted.items() <= one.labels.items() and template in (None, *one.templates)
        )
        if not link_ids:
            raise click.ClickException("there are no such links")
        confirm("revoke", render.counted(len(link_ids), "link"), yes=yes)

    def each(link_id: str) -> None:
        client.revoke_link(link_id)
        click.echo(f"{printable(link_id)}\trevoked")

    for_each(link_ids, each)


@links.command(short_help="Replace the secret that signs links.")
@config_option
@click.option("--keep", is_flag=True, help="Links that were made so far go on, until the next rotation.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
def rotate(config_path: Path | None, keep: bool, yes: bool) -> None:
    """Replace the secret that signs links, beside the configuration, and reload the service. All links end.

    On two machines, copy the file to the other one.
    """
    from stackd.cli.installed import INSTALLED
    from stackd.config.credentials import PLAY_SECRET
    from stackd.doctor import service

    file = (config_path or INSTALLED).with_name(PLAY_SECRET)
    if not file.parent.is_dir():
        raise click.UsageError(f"there is no {file.parent}: run this on stackd's machine, or name it with --config")
    try:
        before = [text for _, text in read_keys(file)]
    except (OSError, ValueError):
        before = []
    if before and not (keep or yes):
        click.confirm("All links that were made so far end. Replace the secret?", abort=True, err=True)
    kept = before[:1] if keep else []
    write_private(file, "".join(f"{text}\n" for text in (new_secret(), *kept)))
    reloaded = service.runs_here() and service.find_unit() is not None and service.reload()
    click.echo(f"{file} has a new secret{'; earlier links go on' if kept else ''}")
    click.echo("the service has read it" if reloaded else "reload the service, so that it is in force: stackd reload")


def new_secret() -> str:
    return secrets.token_hex(32)
