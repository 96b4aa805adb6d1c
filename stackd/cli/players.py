"""``--players FILE``: the players of a class, and a stack for each of them by one batch job.

Owns: the form of the file. A player is the value of the label ``player``, so it must be one that Kubernetes takes.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stackd.cli import output as render
from stackd.cli.change import finished
from stackd.cli.target import interruptible
from stackd.contract import BARE_KEY
from stackd.printable import printable

if TYPE_CHECKING:
    from stackd.client import Client, Job, Stack

PLAYER = "player"
_VALUE = re.compile(BARE_KEY)
players_option = click.option(
    "--players", type=click.Path(dir_okay=False, allow_dash=True), metavar="FILE",
    help='For each player in it: a CSV file with a column "player", or one player a line; - is standard input.',
)  # fmt: skip
SHOWN = ("stack_id", "status", "status_reason", "node_public_ip", "ports", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """One line of the file; ``columns`` is all that it says, by the names in the head."""

    line: int
    player: str
    columns: Mapping[str, str]


def read_players(source: str) -> list[Player]:
    """The players in a file, each once. Raises UsageError with the line that is wrong."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lines = text.splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    rows = [(reader.line_num, row) for reader in [csv.reader(lines, delimiter=delimiter)] for row in reader if any(row)]
    head = [name.strip() for name in rows[0][1]] if rows else []
    names = [name.lower() for name in head]
    if PLAYER in names:
        rows.pop(0)
    elif len(head) > 1:
        raise click.UsageError(f'{source}:1: there is no column "player", only {printable(", ".join(head))}')
    else:
        head, names = [PLAYER], [PLAYER]
    place, players, seen = names.index(PLAYER), [], dict[str, int]()
    for line, row in rows:
        player = row[place].strip() if place < len(row) else ""
        if not _VALUE.fullmatch(player):
            right = 'letters, digits, "-", "_" and ".", at most 63, with a letter or digit at both ends'
            raise click.UsageError(f"{source}:{line}: player {printable(player)!r}: {right} are expected")
        if player.lower() in seen:
            raise click.UsageError(f"{source}:{line}: player {player} stands in line {seen[player.lower()]}, too")
        seen[player.lower()] = line
        players.append(Player(line=line, player=player, columns=dict(zip(head, map(str.strip, row), strict=False))))
    if not players:
        raise click.UsageError(f"{source} has no players")
    return players


def create_for(
    client: Client, source: str, body: Mapping[str, Any], output: str | None, *, timeout: str | None
) -> None:
    """Create a stack for each player in the file, and print which; with a ``timeout``, wait until they run. Exit code 1 if
    one has none, or it does not run in time."""
    players = read_players(source)
    labels = body.get("labels", {})
    env = {"env": body["env"]} if body.get("env") else {}
    each = [{"labels": {**labels, PLAYER: one.player}, **env} for one in players]
    job = client.batch_create(body["template"], each, ttl=body.get("ttl"))
    with interruptible(f"{job.job_id} continues to create {render.counted(len(each), 'stack')}"):
        (job,) = finished("create", client.batch_job, [job], len(each))
        job = client.batch_job(job.job_id, results=True)
        failed = [
            f"{source}:{players[one.index].line}: {one.error or one.code}" for one in job.results if not one.stack_id
        ]
        made = [one.stack_id for one in job.results if one.stack_id]
        failed += _not_running(client, made, timeout) if timeout else []
    _print(client, job, players, output)
    for why in failed:
        click.echo(printable(why), err=True)
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(players)} failed")


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


def _print(client: Client, job: Job, players: Sequence[Player], output: str | None) -> None:
    results = [{**one, PLAYER: players[one["index"]].player} for one in job.raw["results"]]
    if render.printed({**job.raw, "results": results}, output, results):
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
    render.Column(head="address", of=lambda row: " ".join(row["stack"].addresses) if row["stack"] else "", fold=True),
    render.Column(head="values", of=_values, fold=True),
)
