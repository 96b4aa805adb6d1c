"""The operations on the identity of the state file, which is kept as named values.

Owns: the rule when a file starts a new history. Then it gets a new id, so that a comparison with the Lease detects it.
"""

from __future__ import annotations

import secrets
import sqlite3

from stackd.store import rows
from stackd.store.identity import ALL_META, DELETE_META, FILE_ID, INCOMPLETE, SET_META, FileIdentity
from stackd.store.transaction import Transaction


def set_meta(tx: Transaction, key: str, value: str | None) -> None:
    if value is None:
        tx.run(DELETE_META, (key,))
    else:
        tx.run(SET_META, (key, value))


def _read(tx: Transaction) -> FileIdentity:
    return FileIdentity.from_meta(dict(tx.rows(ALL_META)))


def begin(tx: Transaction, namespace: str, instance: str) -> None:
    """Note that a process starts to work with the file, for the stacks of this namespace and instance: once each process.

    A file without stacks can change to another namespace or instance (``FileIdentity.require_own`` refuses all others);
    it then starts a new history.
    """
    before = _read(tx)
    if before.contradiction(namespace, instance):
        _begin_history(tx, incomplete=True)
    elif not before.file_id:
        # A file that `stackd rebuild` has filled has no id, and is complete. An empty one may replace a lost file.
        _begin_history(tx, incomplete=before.incomplete or tx.rows(rows.COUNT_STACKS) == [(0,)])
    for key, value in (("namespace", namespace), ("instance", instance), ("epoch", str(before.epoch + 1))):
        set_meta(tx, key, value)
    tx.identity = _read(tx)


def set_cluster(tx: Transaction, uid: str) -> None:
    """Write to which cluster the file belongs: the uid of its namespace ``kube-system``."""
    set_meta(tx, "cluster_uid", uid)
    tx.identity = _read(tx)


def begin_adoption(tx: Transaction) -> None:
    """Mark the file as incomplete until ``end_adoption``, even across restarts: it lacks changes of another file."""
    if not _read(tx).incomplete:
        _begin_history(tx, incomplete=True)
        tx.identity = _read(tx)


def end_adoption(tx: Transaction) -> None:
    """Mark the file as complete: it has all stacks of the cluster."""
    set_meta(tx, INCOMPLETE, None)
    tx.identity = _read(tx)


def mark_copy(connection: sqlite3.Connection) -> None:
    """Mark a copy as incomplete and remove its id, because the original file goes on without it."""
    connection.execute(DELETE_META, (FILE_ID,))
    connection.execute(SET_META, (INCOMPLETE, "1"))


def _begin_history(tx: Transaction, *, incomplete: bool) -> None:
    set_meta(tx, FILE_ID, secrets.token_hex(8))
    set_meta(tx, INCOMPLETE, "1" if incomplete else None)
