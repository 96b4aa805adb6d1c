"""Named values that belong to the file itself (which cluster it serves, whether a brake is on). Owns their table."""

from __future__ import annotations

from stackd.store import queries
from stackd.store.transaction import Transaction

_PROBE = "probed_at"


def get(tx: Transaction, key: str) -> str | None:
    """The value, or None."""
    row = tx.row(queries.GET_META, (key,))
    return None if row is None else str(row[0])


def put(tx: Transaction, key: str, value: str | None) -> None:
    """Set the value; None removes it."""
    if value is None:
        tx.run(queries.DELETE_META, (key,))
    else:
        tx.run(queries.SET_META, (key, value))


def probe(tx: Transaction) -> None:
    """A small write, to find out whether the file takes one."""
    put(tx, _PROBE, str(tx.now))
