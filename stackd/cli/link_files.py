"""The links of a class in a file: who has one keeps it, and nobody gets two.

Owns: that no link is lost that was made, since stackd shows it to nobody again: each is written, or printed, before the next one
is made; and that the file is written as the list of players is, so that it opens in the same program.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from stackd.cli import output as render
from stackd.cli.players import PLAYER, Form, Player, rows_of
from stackd.client import Busy, Client
from stackd.client.attempts import TOO_MANY
from stackd.contract import KeptLink, NewLink
from stackd.files import write_private
from stackd.printable import printable, some_of

MADE = ("link_id", "url", "expires_at", "code")
LONGEST_NAME = 40
SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A link by its name, and its player's line of the file with the link in it."""

    name: str
    cells: Mapping[str, str]

    @classmethod
    def of(cls, columns: Mapping[str, str], link: Mapping[str, Any], name: str) -> Made:
        """The link as stackd answers it, or as a file has it."""
        return cls(name=name, cells={**columns, **{each: str(link.get(each, "")) for each in MADE}})


@dataclass(slots=True, kw_only=True)
class Group:
    """The links of the ``people`` in a list of this ``form``: of requests with this ``body`` and these ``labels``. ``into``: the
    file of the links, None: they are printed. ``new``: those that players have are replaced.

    ``links``: those that there are by now, in the order of the list; ``new_ones`` counts those that were made, of those that were
    ``missing``.
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
    missing: int = 0
    # What the file has: the cells of each player in the list, and the rows of others whose links work.
    _cells: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _others: list[Mapping[str, str]] = field(default_factory=list)

    def find(self) -> None:
        """Find the links in the file that still work. Raises UsageError if players have links that the file lacks, unless all
        are replaced."""
        if self.into is None:
            return
        rows = {row.get("link_id", ""): row for row in _rows(self.into) if row.get("url")}
        working = [one for one in self.client.links() if not one.revoked]
        players = self._players(working)
        last = {players[link_id]: row for link_id, row in rows.items() if link_id in players}
        self._cells = {one.player: Made.of(one.columns, last.get(one.player, {}), "").cells for one in self.people}
        self._others = [
            rows[one.link_id] for one in working if one.link_id in rows and players.get(one.link_id) not in self._cells
        ]
        lacking = {*players.values()} - last.keys()
        lost = [one.called for one in self.people if one.player in lacking]
        if lost and not self.new:
            who = printable(some_of(lost, SHOWN))
            raise click.UsageError(
                f"{self.into} lacks the links of {render.counted(len(lost), 'player')}: {who}; nothing was made. "
                "--new makes new ones, and revokes those"
            )

    def make(self, *, print_lines: bool) -> None:
        """Make the links that are missing, one after the other, as fast as the key's limits allow; then revoke what they
        replace."""
        kept = {} if self.new else {player: cells for player, cells in self._cells.items() if cells["url"]}
        self.missing = len(self.people) - len(kept)
        self._write()
        for one in self.people:
            if one.player in kept:
                self.links.append(Made(name=_called(one), cells=kept[one.player]))
                continue
            who = {"name": _called(one), "player_name": one.called, "labels": {**self.labels, PLAYER: one.player}}
            link = patiently(self.client, {**self.body, **who})
            made = Made.of(one.columns, link.raw, link.name)
            self.links.append(made)
            self.new_ones += 1
            self._cells[one.player] = made.cells
            self._write()
            if self.into is None and print_lines:  # else they are printed together at the end
                head = [made.cells] if self.new_ones == 1 else []
                click.echo(Form().written([*head, made.cells.values()]), nl=False)
        if self.new:
            self._revoke_others()

    def _write(self) -> None:
        """Write the file in one step: whoever is interrupted finds each link in it that was made, below its own head."""
        if self.into is not None:
            head = self._cells[self.people[0].player].keys()
            others = ([row.get(column, "") for column in head] for row in self._others)
            rows = [[*head], *(self._cells[one.player].values() for one in self.people), *others]
            write_private(self.into, self.form.written(rows))

    def _players(self, working: Iterable[KeptLink]) -> dict[str, str]:
        """The players of the links with these labels and templates, by the links' ids."""
        templates = {*self.body.get("templates", ())}
        return {
            one.link_id: one.labels[PLAYER]
            for one in working
            if PLAYER in one.labels
            and self.labels.items() <= one.labels.items()
            and (not templates or templates == {*one.templates})
        }

    def _revoke_others(self) -> None:
        there = self._players(one for one in self.client.links() if not one.revoked)
        ours = {made.cells["link_id"] for made in self.links}
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


def _rows(into: Path) -> list[dict[str, str]]:
    """The lines of a file of links; none if there is no file."""
    if not into.exists() or not into.stat().st_size:
        return []
    _, rows = rows_of(str(into), "url")
    _, head = next(rows, (1, []))
    return [dict(zip(head, row, strict=False)) for _, row in rows]
