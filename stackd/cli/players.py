"""``--players FILE``: the players of a class, and a stack for each of them by one batch job.

Owns: the form of the file. A player is the value of the label ``player``, so it must be one that Kubernetes takes. Without the
column, no line is taken for a player: it may be a head.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.change import NAMED, finished
from stackd.cli.target import interruptible
from stackd.contract import BARE_KEY
from stackd.printable import printable, some_of

if TYPE_CHECKING:
    from stackd.client import Client, Job, Stack

PLAYER = "player"
_VALUE = re.compile(BARE_KEY)
players_option = click.option(
    "--players", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help='For each player in it: a CSV file with a column "player"; - is standard input.',
)  # fmt: skip
SHOWN = ("stack_id", "status", "status_reason", "addresses", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """One line of the file; ``columns`` is all that it says, by the names in the head."""

    line: int
    player: str
    columns: Mapping[str, str]


def read_players(source: str) -> list[Player]:
    """The players in a file, each once. Raises UsageError with the line that is wrong."""
    rows = rows_of(source, PLAYER)
    first, head = next(rows, (1, []))
    names = [name.lower() for name in head]
    if names.count(PLAYER) != 1:
        seen = printable(", ".join(head)) or "nothing"
        remedy = f'call the column of the players "{PLAYER}", or put a line "{PLAYER}" above a list without a head'
        raise click.UsageError(f'{source}:{first}: one column "{PLAYER}" is expected, not {seen}; {remedy}')
    place, players, lines = names.index(PLAYER), [], dict[str, int]()
    for line, row in rows:
        if any(row[len(head) :]):
            sizes = f"{len(row)} cells where the head has {len(head)}"
            raise click.UsageError(f"{source}:{line}: {sizes}; put a cell that has a separator in it into quotes")
        row.extend([""] * (len(head) - len(row)))
        player = row[place]
        if not _VALUE.fullmatch(player):
            right = 'letters, digits, "-", "_" and ".", at most 63, with a letter or digit at both ends'
            raise click.UsageError(f"{source}:{line}: player '{printable(player)}': {right} are expected")
        if player.lower() in lines:
            raise click.UsageError(f"{source}:{line}: player {player} stands in line {lines[player.lower()]}, too")
        lines[player.lower()] = line
        players.append(Player(line=line, player=player, columns=dict(zip(head, row, strict=False))))
    if not players:
        raise click.UsageError(f"{source} has no players")
    return players


def rows_of(source: str, column: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file with this ``column`` that are not empty, each with its number. Spreadsheets separate cells by
    commas, semicolons or tabs, and may name that in a first line ``sep=;``. Raises UsageError."""
    lines = io.StringIO(_text(source), newline="").readlines()
    named = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE) if lines else None
    skipped = 0 if named is None else 1
    first = next(filter(str.strip, lines), "")
    delimiter = named[1] if named else next((each for each in ",;\t" if column in _head(first, each)), ",")
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True)
    while True:
        line = skipped + reader.line_num + 1
        try:
            row = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            why = f'{error}; a quote (") inside a quoted cell is written twice, and each has its end'
            raise click.UsageError(f"{source}:{line}: {why}") from error
        if any(row):
            yield line, row


def _head(line: str, delimiter: str) -> list[str]:
    return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=delimiter))]


def _text(source: str) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark. Raises UsageError."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
        end = text.find("\0")
    except UnicodeDecodeError as error:
        text, end = data.decode("latin-1"), error.start
    if end >= 0:
        line = 1 + text.count("\n", 0, end)
        raise click.UsageError(f'{source}:{line}: this is not UTF-8; save the file as "CSV UTF-8", and try again')
    return text


def create_for(
    client: Client, source: str, body: Mapping[str, Any], output: str | None, *, timeout: str | None
) -> None:
    """Create a stack for each player in the file who has none of the template, and print which; with a ``timeout``, wait until
    they run. Exit code 1 if one has none, or it does not run in time."""
    players, template, labels = read_players(source), body["template"], body.get("labels", {})
    there = _there(client, template, labels)
    skipped = {one.player: there[one.player] for one in players if one.player in there}
    players = [one for one in players if one.player not in there]
    if skipped:
        names = some_of(list(skipped), NAMED)
        has = f"{render.counted(len(skipped), 'player')} with a stack of {template} already: skipped {names}"
        click.echo(printable(has), err=True)
    if not players:
        render.printed({"template": template, "total": 0, "results": [], "skipped": skipped}, output, [])
        return
    env = {"env": body["env"]} if body.get("env") else {}
    each = [{"labels": {**labels, PLAYER: one.player}, **env} for one in players]
    job = client.batch_create(template, each, ttl=body.get("ttl"))
    with interruptible(f"{job.job_id} continues to create {render.counted(len(each), 'stack')}"):
        (job,) = finished("create", client.batch_job, [job], len(each))
        job = client.batch_job(job.job_id, results=True)
        failed = [
            f"{source}:{players[one.index].line}: {one.error or one.code}" for one in job.results if not one.stack_id
        ]
        made = [one.stack_id for one in job.results if one.stack_id]
        failed += _not_running(client, made, timeout) if timeout else []
    _print(client, job, players, skipped, output)
    for why in failed:
        click.echo(printable(why), err=True)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(players)} failed")


def _there(client: Client, template: str, labels: Mapping[str, str]) -> dict[str, str]:
    """The stack of each player who has one of the template that has not ended: a page shows a second one beside it, and a
    platform takes it for the player's. With another value of one of these ``labels`` it is another class's."""
    found = client.stacks(template=template, labels=PLAYER, fields=("stack_id", "labels", "ended"))
    return {
        stack.labels[PLAYER]: stack.stack_id
        for stack in found
        if not stack.ended and all(stack.labels.get(name, value) == value for name, value in labels.items())
    }


def _not_running(client: Client, ids: Sequence[str], timeout: str) -> list[str]:
    """Why some of the stacks do not run within ``timeout``."""
    import time

    from stackd.client import ClientError
    from stackd.units import parse_duration

    end, reasons = time.monotonic() + parse_duration(timeout), []
    for stack_id in ids:
        try:
            client.wait(stack_id, timeout=max(0.0, end - time.monotonic()))
        except ClientError as error:
            reasons.append(str(error))
    return reasons


def _print(client: Client, job: Job, players: Sequence[Player], skipped: Mapping[str, str], output: str | None) -> None:
    results = [{**one, PLAYER: players[one["index"]].player} for one in job.raw["results"]]
    if render.printed({**job.raw, "results": results, "skipped": skipped}, output, results):
        return
    if output == "name":
        click.echo("\n".join(one["stack_id"] for one in results if one["stack_id"]))
        return
    stacks: dict[str, Stack] = {one.stack_id: one for one in client.stacks(template=job.template, fields=SHOWN)}
    render.print_table(COLUMNS, [one | {"stack": stacks.get(one["stack_id"])} for one in results])


def _status(row: render.Fields) -> str:
    if row["stack"] is None:
        return str(row.get("code") or "deleted")
    return str(row["stack"].status)


def _values(row: render.Fields) -> str:
    return " ".join(f"{name}={value}" for name, value in row.get("values", {}).items())


COLUMNS = (
    render.Column(head=PLAYER, of=lambda row: row[PLAYER]),
    render.Column(head="stack", of=lambda row: row["stack_id"] or "-"),
    render.Column(head="status", of=_status),
    render.Column(
        head="address", of=lambda row: " ".join(render.addresses(row["stack"].raw)) if row["stack"] else "", fold=True
    ),
    render.Column(head="values", of=_values, fold=True),
)
