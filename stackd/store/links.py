"""The links for players and helpers that the file knows: what ``GET /links`` shows, and which were revoked.

A link works without its row, because its token says everything but that. The revocations of links that have not expired are
in the Lease, too (``revocations``), so that the next owner with another file knows them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from msgspec import json

from stackd.clock import NANOSECONDS
from stackd.errors import Conflict
from stackd.keys import READ
from stackd.model import NO_LABELS, Principal
from stackd.store.transaction import (
    Columns,
    Submit,
    Table,
    Transaction,
    id_array,
    json_text,
    labels_from,
    labels_text,
    operation,
)

MOST_OF_A_KEY = 10_000
MOST_REVOKED = 2_000
"""So many revocations fit into the Lease: about 60 KB, which each renewal sends."""

RESERVED = 500
"""So many of them are for the operator's keys alone."""

_PREFIX = "link-"

Visit = tuple[int, int]
"""The times of the first and of the last request of a link's player."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """``labels``     what the player's stacks get; ``among`` those of them that the tenant has who made the link
    ``templates``  patterns of the templates that it may start; empty: all
    ``stacks``     how many stacks a player may have; 0: it is a helper's, who reads everything
    ``expires_at`` in nanoseconds; a token has whole seconds
    ``total``      of an open link: how many stacks all of its visitors may have; 0: it is one player's
    ``visitor``    in a session of an open link: which visitor
    """

    link_id: str
    name: str
    labels: Mapping[str, str]
    templates: tuple[str, ...]
    stacks: int
    expires_at: int
    among: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    total: int = 0
    visitor: str = ""

    @property
    def player(self) -> str:
        """Who has a budget of their own: a link's player, or one visitor of an open link."""
        return f"{self.link_id}/{self.visitor}" if self.visitor else self.link_id

    @property
    def title(self) -> str:
        """What the page is called; for a visitor of an open link with so much of the label as can be read out."""
        return f"{self.name} {self.visitor[:4].upper()}".strip()

    def visited(self, visitor: str) -> Self:
        return replace(self, visitor=visitor)

    @property
    def scope(self) -> str:
        """``read`` if it is a helper's."""
        return "" if self.stacks else READ

    @property
    def each(self) -> str:
        """``visitor`` if it is an open link."""
        return "visitor" if self.total else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLink(Link):
    """A link with what its token does not say; times in nanoseconds, ``by`` who has made it, ``opened_at`` and ``seen_at`` the
    first and the last request of its player that is known; ``code``: the digest of its short code; ``player_name``: who the
    player is to whoever has made it."""

    by: Principal
    created_at: int = 0
    revoked: bool = False
    opened_at: int | None = None
    seen_at: int | None = None
    code: str = ""
    player_name: str = ""


LINKS = Columns(
    KeptLink,
    without="visitor",
    read={
        "labels": labels_from,
        "templates": lambda text: tuple(json.decode(text)),
        "by": Principal.parse,
        "revoked": bool,
        "among": labels_from,
    },
    write={
        "labels": labels_text,
        "among": labels_text,
        "templates": lambda names: json_text(list(names)),
        "by": str,
    },
)
INSERT = f"INSERT INTO links ({LINKS.sql}) VALUES ({LINKS.parameters})"
FIND = f"SELECT {LINKS.sql} FROM links WHERE link_id = ? AND by <> '' AND expires_at > ?"
BY_CODE = f"SELECT {LINKS.sql} FROM links WHERE code <> '' AND code IN (SELECT value FROM json_each(?))"
PAGE = (
    f"SELECT {LINKS.sql} FROM links WHERE by <> '' AND expires_at > ? AND (created_at, link_id) > (?, ?)"
    " ORDER BY created_at, link_id LIMIT ?"
)
VISITED = "UPDATE links SET opened_at = coalesce(opened_at, ?), seen_at = ? WHERE link_id = ?"
REVOKED = "SELECT link_id, expires_at FROM links WHERE revoked = 1"
COUNT = "SELECT count(*) FROM links WHERE principal = ? AND revoked = 0 AND expires_at > ?"
REVOKED_OF = "SELECT count(*) FROM links WHERE revoked = 1 AND expires_at > ? AND principal = ? AND link_id <> ?"
REVOKED_OF_ALL = "SELECT count(*) FROM links WHERE revoked = 1 AND expires_at > ? AND link_id <> ?"
REVOKE = (
    "INSERT INTO links (link_id, name, labels, templates, stacks, total, created_at, expires_at, by, revoked)"
    " VALUES (?, '', '{}', '[]', 0, 0, ?, ?, '', 1) ON CONFLICT (link_id) DO UPDATE SET revoked = 1"
)


def add(tx: Transaction, kept: KeptLink) -> None:
    """Keep a new link, which is made now. Raises ``Conflict`` if the key has too many."""
    if tx.rows(COUNT, (kept.by.id, tx.now))[0][0] >= MOST_OF_A_KEY:
        raise Conflict(f"{kept.by.name} has {MOST_OF_A_KEY} links that have not expired; revoke some")
    tx.run(INSERT, LINKS.values(replace(kept, created_at=tx.now)))


def find(tx: Transaction, link_id: str) -> KeptLink | None:
    """The link, unless it has expired or only its revocation is known."""
    row = tx.row(FIND, (link_id, tx.now))
    return None if row is None else LINKS.record(row)


def by_code(tx: Transaction, digests: Iterable[str]) -> KeptLink | None:
    """The link whose short code has one of these digests, expired or not."""
    row = tx.row(BY_CODE, (id_array(digests),))
    return None if row is None else LINKS.record(row)


def page(tx: Transaction, after: tuple[int, str], most: int) -> list[KeptLink]:
    """The links that have not expired, by the time when they were made and id, from after this place."""
    return [LINKS.record(row) for row in tx.rows(PAGE, (tx.now, *after, most))]


def visited(tx: Transaction, visits: Mapping[str, Visit]) -> None:
    tx.many(VISITED, [(*visit, link_id) for link_id, visit in visits.items()])


def revoke(tx: Transaction, expiries: Mapping[str, int]) -> None:
    tx.many(REVOKE, [(link_id, tx.now, expires_at) for link_id, expires_at in expiries.items()])
    _publish(tx)


def revoke_one(tx: Transaction, link_id: str, expires_at: int, maker: Principal | None, tenants: int) -> None:
    """Revoke a link; for one of so many ``tenants``, with the ``maker`` of the link. Raises ``Conflict`` if as many as a
    tenant may have, or the Lease, are revoked and have not expired."""
    revoked = tx.rows(REVOKED_OF_ALL, (tx.now, link_id))[0][0]
    if maker is not None:
        share = (MOST_REVOKED - RESERVED) // max(1, tenants)
        if tx.rows(REVOKED_OF, (tx.now, maker.id, link_id))[0][0] >= share or revoked >= MOST_REVOKED - RESERVED:
            raise Conflict(
                f"a tenant's key may revoke {share} links that have not expired yet; an admin's key can revoke this one"
            )
    if revoked >= MOST_REVOKED:
        raise Conflict(f"{MOST_REVOKED} revoked links have not expired yet; replace the secret, which ends all links")
    revoke(tx, {link_id: expires_at})


def purge(tx: Transaction) -> int:
    """Forget the links that have expired; returns how many."""
    gone = tx.run("DELETE FROM links WHERE expires_at <= ?", (tx.now,))
    if gone:
        _publish(tx)
    return gone


def _publish(tx: Transaction) -> None:
    tx.revoked = {link_id: expires_at for link_id, expires_at in tx.rows(REVOKED) if expires_at > tx.now}


class Links(Table):
    """The links; ``revoked`` are the ids that are not to be accepted, each with the time when it expires; ``revocations`` is
    that in the form of the Lease's annotation."""

    def __init__(self, revoked: Mapping[str, int], submit: Submit) -> None:
        super().__init__(submit)
        self.publish(revoked)

    add = operation(add, grows=True)
    find = operation(find, writes=False)
    by_code = operation(by_code, writes=False)
    page = operation(page, long=True)
    visited = operation(visited)
    revoke = operation(revoke)
    revoke_one = operation(revoke_one)

    def publish(self, revoked: Mapping[str, int]) -> None:
        """Accept these links no more, as committed: whether or not anybody waits for the answer."""
        self.revoked = dict(revoked)
        self.revocations = " ".join(
            f"{link_id.removeprefix(_PREFIX)}:{at // NANOSECONDS}" for link_id, at in sorted(revoked.items())
        )


def read_revocations(text: str) -> dict[str, int]:
    """The revocations in an annotation, which anybody with rights on the Lease may have edited."""
    found = {}
    for entry in text.split()[:MOST_REVOKED]:
        name, _, seconds = entry.partition(":")
        if name.isalnum() and len(name) < 64 and seconds.isascii() and seconds.isdigit() and len(seconds) < 12:
            found[_PREFIX + name] = (int(seconds) + 1) * NANOSECONDS
    return found


def load_revoked(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute(REVOKED))
