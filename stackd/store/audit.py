"""What concerns the operator and no stack: refused requests, reloads, changes of keys, takeovers.

Owns: their lines, which are in the timeline of no stack, and how many of each kind are kept; and which API keys were in
force last, so that a change of them while stackd was stopped is seen.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stackd.model import AuditEntry, AuditKind, Principal
from stackd.store.history import OF_CALLER, SAYING, ActivityFilter
from stackd.store.meta import set_meta
from stackd.store.transaction import Columns, Table, Transaction, id_array, operation

KEPT_OF_A_KIND = 1000
KEYS = "keys_in_force"
ENTRIES = Columns(
    AuditEntry,
    read={"kind": AuditKind, "by": Principal.parse, "failed": bool},
    write={"by": str},
    renamed={"failed": "reason"},
)
INSERT = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " VALUES ('', :at, :kind, iif(:failed, 'failed', ''), :message, :by, :count)"
)
TRIM = (
    "DELETE FROM timeline WHERE stack_id = '' AND kind = :kind AND seq <= (SELECT seq FROM timeline"
    " WHERE stack_id = '' AND kind = :kind ORDER BY seq DESC LIMIT 1 OFFSET :kept)"
)
FIND = (
    f"SELECT {ENTRIES.sql} FROM timeline AS t INDEXED BY timeline_stack WHERE stack_id = ''"
    f" AND at BETWEEN :since AND :at AND (at < :at OR seq < :seq){OF_CALLER}"
    f" AND kind IN (SELECT value FROM json_each(:kinds)){SAYING.format(more='')} ORDER BY at DESC, seq DESC LIMIT :limit"
)


def keep(tx: Transaction, entries: Sequence[AuditEntry]) -> None:
    tx.many(INSERT, [ENTRIES.values(entry) for entry in entries])
    for kind in {entry.kind for entry in entries}:
        tx.run(TRIM, {"kind": kind, "kept": KEPT_OF_A_KIND})


def entries(tx: Transaction, wanted: ActivityFilter, kinds: Collection[AuditKind]) -> list[AuditEntry]:
    return [ENTRIES.record(row) for row in tx.rows(FIND, wanted.parameters() | {"kinds": id_array(kinds)})]


def remember_keys(tx: Transaction, keys: Sequence[str]) -> list[str] | None:
    """Keep the descriptions of the keys in force; returns those from before, None if there are none."""
    row = tx.row("SELECT value FROM meta WHERE key = ?", (KEYS,))
    before, now = None if row is None else row[0].splitlines(), "\n".join(keys)
    if before != list(keys):
        set_meta(tx, KEYS, now)
    return before


class Audit(Table):
    """The entries, and the keys that were in force last."""

    keep = operation(keep, grows=True, relaxed=True)
    entries = operation(entries, long=True)
    remember_keys = operation(remember_keys)
