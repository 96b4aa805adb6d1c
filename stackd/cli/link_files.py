"""The links of a class in a file: who has one keeps it, and nobody gets two.

Owns: that no link is lost that was made, since stackd shows it to nobody again: each is written, or printed, before the next one
is made; and that the file is written as the list of players is, so that it opens in the same program.
"""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from stackd.cli import output as render
from stackd.cli.players import PLAYER, Form, Player, rows_of
from stackd.client import Busy, Client
from stackd.client.attempts import TOO_MANY
from stackd.contract import NewLink
from stackd.files import write_private
from stackd.printable import inert, printable, some_of

MADE = ("link_id", "url", "expires_at", "code")
LONGEST_NAME = 40
SHOWN = 4
# A file has one byte order mark, at its beginning.
FOLLOWING = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A link with its player's line of the file."""

    columns: Mapping[str, str]
    name: str
    link_id: str
    url: str
    expires_at: str
    code: str

    @classmethod
    def of(cls, columns: Mapping[str, str], link: NewLink) -> Made:
        """A link that was made just now."""
        expires_at = str(link.raw["expires_at"])
        made = {"link_id": link.link_id, "url": link.url, "expires_at": expires_at, "code": link.code}
        return cls(columns=columns, name=link.name, **made)

    @property
    def cells(self) -> dict[str, str]:
        """A line of the players' file again, with the link."""
        return {**self.columns, **{name: getattr(self, name) for name in MADE}}


@dataclass(slots=True, kw_only=True)
class Group:
    """The links of the ``people`` in a list of this ``form``: of requests with this ``body`` and these ``labels``. ``into``: the
    file of the links, None: they are printed. ``new``: those that players have are replaced.

    ``links``: those that there are by now, in the order of the list; ``new_ones`` counts those that were made.
    """

    client: Client
    people: list[Player]
    form: Form
    body: Mapping[str, Any]
    labels: Mapping[str, str]
    into: Path | None
    new: bool
    links: list[Made] = field(default_factory=list)
    new_ones: int = 0
    _kept: dict[str, Made] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many players had no link."""
        return len(self.people) - len(self._kept)

    def find(self) -> None:
        """Find the links in the file that still work, unless all are replaced. Raises UsageError if players have links that the
        file lacks."""
        if self.into is None or self.new:
            return
        there, rows = self._working(), _rows(self.into)
        last = {there[row["link_id"]]: row for row in rows if row.get("link_id") in there and row.get("url")}
        self._kept = {one.player: _of_row(one, last[one.player]) for one in self.people if one.player in last}
        lacking = {*there.values()} - self._kept.keys()
        lost = [one.called for one in self.people if one.player in lacking]
        if lost:
            who = printable(some_of(lost, SHOWN))
            raise click.UsageError(
                f"{render.counted(len(lost), 'player')} have links that {self.into} lacks: {who}; nothing was made. "
                "--new makes them new ones, and revokes those"
            )

    def make(self, *, print_lines: bool) -> None:
        """Make the links that are missing, one after the other, as fast as the key's limits allow; then revoke what they
        replace."""
        form, head = (Form(), True) if self.into is None else (self.form, not _rows(self.into))
        with open(self.into, "ab", opener=_for_owner) if self.into else nullcontext() as file:
            for one in self.people:
                made = self._kept.get(one.player)
                if made is None:
                    request = {**self.body, "name": _called(one), "labels": {**self.labels, PLAYER: one.player}}
                    made = Made.of(one.columns, patiently(self.client, request))
                    self.new_ones += 1
                    line = _text([made], form, head=head)
                    if file is not None:
                        encoding = form.encoding if head else FOLLOWING.get(form.encoding, form.encoding)
                        file.write(line.encode(encoding, "replace"))
                        file.flush()
                    elif print_lines:  # else they are printed together at the end
                        click.echo(line, nl=False)
                    head = False
                self.links.append(made)
        if self.into is not None:
            write_private(self.into, _text(self.links, self.form, head=True).encode(self.form.encoding, "replace"))
        if self.new:
            self._revoke_others()

    def _working(self) -> dict[str, str]:
        """The players of the links with these labels and templates that work, by the links' ids."""
        templates = {*self.body.get("templates", ())}
        return {
            one.link_id: one.labels[PLAYER]
            for one in self.client.links()
            if not one.revoked
            and PLAYER in one.labels
            and self.labels.items() <= one.labels.items()
            and (not templates or templates == {*one.templates})
        }

    def _revoke_others(self) -> None:
        there, ours = self._working(), {made.link_id for made in self.links}
        players = {there[link_id] for link_id in ours & there.keys()}
        for link_id, player in there.items():
            if player in players and link_id not in ours:
                self.client.revoke_link(link_id)


def patiently(client: Client, request: Mapping[str, Any]) -> NewLink:
    """The link, once the limits of the key allow it."""
    while True:
        try:
            return client.create_link(request)
        except Busy as error:
            if error.status != TOO_MANY:
                raise
            click.echo(f"{error.sentence}: the next link is made in {error.retry_after:g} s", err=True)
            time.sleep(max(1.0, error.retry_after))


def _called(one: Player) -> str:
    """What the page calls the player: the column "name", or who it is."""
    named = _name({key.lower(): text for key, text in one.columns.items()}.get("name", ""))
    return (named or _name(one.called))[:LONGEST_NAME].strip()


def _name(cell: str) -> str:
    """The cell as the name of a link, which has printable characters and single spaces."""
    return " ".join("".join(each if each.isprintable() else " " for each in cell).split())


def _of_row(one: Player, row: Mapping[str, str]) -> Made:
    return Made(columns=one.columns, name=_called(one), **{name: row.get(name, "") for name in MADE})


def _rows(into: Path) -> list[dict[str, str]]:
    """The lines of a file of links; none if there is no file."""
    if not into.exists() or not into.stat().st_size:
        return []
    _, rows = rows_of(str(into), "url")
    _, head = next(rows, (1, []))
    return [dict(zip(head, row, strict=False)) for _, row in rows]


def _text(made: list[Made], form: Form, *, head: bool) -> str:
    lines = io.StringIO()
    if head and form.named:
        lines.write(f"sep={form.delimiter}\n")
    writer = csv.writer(lines, delimiter=form.delimiter, lineterminator="\n")
    writer.writerows([made[0].cells] if head else [])
    writer.writerows([inert(cell) for cell in one.cells.values()] for one in made)
    return lines.getvalue()


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
