"""What the state file is: whose stacks it holds, since when, and how far its history goes.

Owns the named values of the file, those about itself and others (whether a brake is on), and the rule when a file's history
begins anew: its id is then another one, so that whoever compares it with what the cluster has seen last knows. Does not know
the cluster, nor what is compared.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from stackd.errors import StoreError
from stackd.store import rows
from stackd.store.transaction import Table, Transaction, operation

_PROBE = "probed_at"
CLUSTER_UID = "cluster_uid"
NAMESPACE = "namespace"
INSTANCE = "instance"
FILE_ID = "file_id"
EPOCH = "epoch"
SEQUENCE = "sequence"
INCOMPLETE = "incomplete"

GET_META = "SELECT value FROM meta WHERE key = ?"
SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
DELETE_META = "DELETE FROM meta WHERE key = ?"
ALL_META = "SELECT key, value FROM meta"


def get(tx: Transaction, key: str) -> str | None:
    """The value, or None."""
    row = tx.row(GET_META, (key,))
    return None if row is None else str(row[0])


def put(tx: Transaction, key: str, value: str | None) -> None:
    """Set the value; None removes it."""
    if value is None:
        tx.run(DELETE_META, (key,))
    else:
        tx.run(SET_META, (key, value))


def probe(tx: Transaction) -> None:
    """A small write, to find out whether the file can be written."""
    put(tx, _PROBE, str(tx.now))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """``file_id``     of this history: a file that is new, restored, or taken over from another one has a new id
    ``lock_id``     of the lock that this process holds; who holds it next knows that this process has ended
    ``epoch``       how many processes have begun to work with the file
    ``sequence``    how many commits have changed what stacks there are to be
    ``incomplete``  the file may lack stacks that the cluster has: it is new, or a copy of an earlier time
    ``cluster_uid``, ``namespace``, ``instance``  whose stacks they are; empty where that has never been written
    """

    file_id: str = ""
    lock_id: str = ""
    epoch: int = 0
    sequence: int = 0
    incomplete: bool = False
    cluster_uid: str = ""
    namespace: str = ""
    instance: str = ""

    @classmethod
    def from_meta(cls, values: Mapping[str, str], lock_id: str = "") -> FileIdentity:
        """From the named values of a file."""
        return cls(
            file_id=values.get(FILE_ID, ""),
            lock_id=lock_id,
            epoch=int(values.get(EPOCH, "0")),
            sequence=int(values.get(SEQUENCE, "0")),
            incomplete=INCOMPLETE in values,
            cluster_uid=values.get(CLUSTER_UID, ""),
            namespace=values.get(NAMESPACE, ""),
            instance=values.get(INSTANCE, ""),
        )

    def contradiction(self, namespace: str, instance: str) -> str:
        """What the file says and the configuration does not; empty where they agree, or the file does not say."""
        pairs = (("stacks.namespace", self.namespace, namespace), ("cluster.instance", self.instance, instance))
        return ", ".join(
            f'{key} is "{said}", not "{wanted}"' for key, said, wanted in pairs if said not in ("", wanted)
        )


def begin(tx: Transaction, namespace: str, instance: str) -> None:
    """A process begins to work with the file, for the stacks of this namespace and instance.

    A file without stacks may be given to others, and begins a new history then. Raises ``StoreError`` where the file has
    stacks of others.
    """
    values = _read(tx)
    known = FileIdentity.from_meta(values)
    stacks = rows.count(tx)
    contradiction = known.contradiction(namespace, instance)
    if contradiction and stacks:
        raise StoreError(f"the state file holds {stacks} stacks for which {contradiction}")
    if contradiction:
        _begin_history(tx, incomplete=True)
    elif not known.file_id:
        # A file of an earlier stackd has no id and is complete; one with nothing in it may have been lost before.
        _begin_history(tx, incomplete=known.incomplete or not stacks)
    for key, value in ((NAMESPACE, namespace), (INSTANCE, instance), (EPOCH, str(known.epoch + 1))):
        put(tx, key, value)


def begin_adoption(tx: Transaction) -> None:
    """The file lacks what another one has seen: it counts as incomplete until ``end_adoption``, over restarts, too."""
    if not FileIdentity.from_meta(_read(tx)).incomplete:
        _begin_history(tx, incomplete=True)


def end_adoption(tx: Transaction) -> None:
    """The file has all that the cluster has."""
    put(tx, INCOMPLETE, None)


def current(tx: Transaction, lock_id: str) -> FileIdentity:
    """As it is within this transaction."""
    return FileIdentity.from_meta(_read(tx), lock_id)


def mark_copy(connection: sqlite3.Connection) -> None:
    """Have a copy of a file, whose original goes on without it, say so when it is opened."""
    connection.execute(DELETE_META, (FILE_ID,))
    connection.execute(SET_META, (INCOMPLETE, "1"))


def _begin_history(tx: Transaction, *, incomplete: bool) -> None:
    put(tx, FILE_ID, secrets.token_hex(8))
    put(tx, INCOMPLETE, "1" if incomplete else None)


def _read(tx: Transaction) -> dict[str, str]:
    return {key: value for key, value in tx.rows(ALL_META)}  # noqa: C416  rows are tuples of any length


class Meta(Table):
    """The named values of the file."""

    get = operation(get, writes=False)
    put = operation(put)
