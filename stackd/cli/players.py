"""``--players FILE``: the players of a class, and a stack for each of them by one batch job.

Owns: the form of the file, and who is the same player in another run. Without the column, no line is taken for a player: it may
be a head.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stackd.cli import output as render
from stackd.cli.change import NAMED, finished
from stackd.cli.target import interruptible
from stackd.client import Client, ClientError, Job
from stackd.contract import BARE_KEY
from stackd.printable import inert, printable, some_of
from stackd.units import parse_duration

PLAYER = "player"
LONGEST_LABEL, LONGEST_PLAYER = 63, 254
DIGITS = 8  # of a label that is made from a name
MOST_MISTAKES = 20
_VALUE = re.compile(BARE_KEY)
players_option = click.option(
    "--players", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help='For each player in it: a CSV file with a column "player"; - is standard input.',
)  # fmt: skip
SHOWN = ("stack_id", "status", "status_reason", "addresses", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a CSV file is written, so that another one opens in the same program. ``named``: its first line names the separator."""

    delimiter: str = ","
    encoding: str = "utf-8"
    named: bool = False

    def written(self, rows: Iterable[Iterable[str]]) -> bytes:
        """A file of these rows; no spreadsheet takes a cell for a formula."""
        lines = io.StringIO()
        if self.named:
            lines.write(f"sep={self.delimiter}\n")
        writer = csv.writer(lines, delimiter=self.delimiter, lineterminator="\n")
        writer.writerows(map(inert, row) for row in rows)
        return lines.getvalue().encode(self.encoding, "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """One line of the file; ``columns`` is all that it says, by the names in the head. ``player`` is the value of the label:
    ``called`` itself, or made from it where Kubernetes takes no such label, such as an address."""

    line: int
    player: str
    called: str
    columns: Mapping[str, str]


def label_of(called: str) -> str:
    """The value of a label for somebody who is called so; always the same."""
    if _VALUE.fullmatch(called):
        return called
    plain = unicodedata.normalize("NFKD", called).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[: LONGEST_LABEL - DIGITS - 1].rstrip("-")
    return f"{words or PLAYER}-{hashlib.sha256(called.encode()).hexdigest()[:DIGITS]}"


def read_players(source: str, column: str = PLAYER) -> tuple[list[Player], Form]:
    """The players in a file, each once, and its form. Raises UsageError with all lines that are wrong."""
    remedy = f'name it with --player-column, or put a line "{PLAYER}" above a list without a head'
    form, head, place, rows = table_of(source, column, remedy)
    players, mistakes = dict[str, Player](), list[str]()
    for line, row in rows:
        if any(row[len(head) :]):
            sizes = f"{len(row)} cells where the head has {len(head)}"
            mistakes.append(f"{source}:{line}: {sizes}; put a cell that has a separator in it into quotes")
            continue
        row.extend([""] * (len(head) - len(row)))
        called = row[place]
        if not (called.isprintable() and 0 < len(called) <= LONGEST_PLAYER):
            right = f"1 to {LONGEST_PLAYER} printable characters are expected"
            mistakes.append(f"{source}:{line}: {column} '{printable(called)}': {right}")
            continue
        one = Player(line=line, player=label_of(called), called=called, columns=dict(zip(head, row, strict=False)))
        there = players.setdefault(called.casefold(), one)
        if there.columns != one.columns:
            mistakes.append(
                f"{source}:{line}: {printable(called)} stands in line {there.line}, too, and says something else there"
            )
    if mistakes:
        more = [f"and {len(mistakes) - MOST_MISTAKES} more"] if len(mistakes) > MOST_MISTAKES else []
        raise click.UsageError("\n".join([*mistakes[:MOST_MISTAKES], *more]))
    if not players:
        raise click.UsageError(f"{source} has no players")
    return list(players.values()), form


def table_of(source: str, column: str, remedy: str) -> tuple[Form, list[str], int, Iterator[tuple[int, list[str]]]]:
    """As ``rows_of``, with the head, and the place of the ``column`` in it. Raises UsageError, with the remedy if it has none."""
    form, rows = rows_of(source, column)
    line, head = next(rows, (1, []))
    names = [name.lower() for name in head]
    if names.count(column.lower()) != 1:
        seen = printable(", ".join(head)) or "nothing"
        raise click.UsageError(f'{source}:{line}: one column "{column}" is expected, not {seen}; {remedy}')
    return form, head, names.index(column.lower()), rows


def rows_of(source: str, column: str) -> tuple[Form, Iterator[tuple[int, list[str]]]]:
    """The form of a CSV file with this ``column``, and its lines that are not empty, each with its number. Spreadsheets separate
    cells by commas, semicolons or tabs, and may name that in a first line ``sep=;``. Raises UsageError."""
    text, encoding = _text(source)
    lines = io.StringIO(text, newline="").readlines()
    named = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.IGNORECASE) if lines else None
    skipped = 0 if named is None else 1
    first = next(filter(str.strip, lines), "")
    delimiter = named[1] if named else next((each for each in ",;\t" if column.lower() in _head(first, each)), ",")
    form = Form(delimiter=delimiter, encoding=encoding, named=named is not None)
    return form, _rows(source, lines[skipped:], delimiter, skipped)


def _rows(source: str, lines: list[str], delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
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


def _text(source: str) -> tuple[str, str]:
    """The text of a file, and its encoding: UTF-8, UTF-16 with a byte order mark, or what Windows calls ANSI. Raises
    UsageError."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{source} cannot be read: {error.strerror or error}") from error
    marked = "utf-8-sig" if data.startswith(codecs.BOM_UTF8) else "utf-8"
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else marked
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        encoding = "cp1252"
        text = data.decode(encoding, "replace")
    odd = next((each for each in ("\0", "\ufffd") if each in text), "")
    if odd:
        line = 1 + text.count("\n", 0, text.find(odd))
        raise click.UsageError(f'{source}:{line}: this is no text; save the file as "CSV UTF-8", and try again')
    return text, encoding


def create_for(
    client: Client, source: str, column: str, body: Mapping[str, Any], output: str | None, *, timeout: str | None
) -> None:
    """Create a stack for each player in the file who has none of the template, and print which; with a ``timeout``, wait until
    they run. Exit code 1 if one has none, or it does not run in time."""
    (players, _), template, labels = read_players(source, column), body["template"], body.get("labels", {})
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
    job = client.batch_create(template, each, ttl=body.get("ttl"), return_existing=True)
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
    stacks = {one.stack_id: one for one in client.stacks(template=job.template, fields=SHOWN)}
    render.print_table(COLUMNS, [one | {"stack": stacks.get(one["stack_id"])} for one in results])


def _status(row: render.Fields) -> str:
    return str(row["stack"].status if row["stack"] else row.get("code") or "deleted")


COLUMNS = (
    render.Column(head=PLAYER, of=lambda row: row[PLAYER]),
    render.Column(head="stack", of=lambda row: row["stack_id"] or "-"),
    render.Column(head="status", of=_status),
    render.Column(
        head="address", of=lambda row: " ".join(render.addresses(row["stack"].raw)) if row["stack"] else "", fold=True
    ),
    render.Column(head="values", of=lambda row: render.label_text({"labels": row.get("values")}), fold=True),
)
