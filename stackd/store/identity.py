"""The identity of the state file: whose stacks it holds, and how far its history goes.

Owns: the named values of the file (the cluster and the namespace it belongs to, its ids, whether it may lack stacks), and
the rule when a file starts a new history. Then it gets a new id, so that a comparison with the Lease detects it. Does not
know the cluster, nor how identities are compared.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from stackd.errors import ConfigError
from stackd.store import rows
from stackd.store.transaction import Transaction

SEQUENCE = "sequence"
FILE_ID = "file_id"
INCOMPLETE = "incomplete"

SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
DELETE_META = "DELETE FROM meta WHERE key = ?"
ALL_META = "SELECT key, value FROM meta"


def put(tx: Transaction, key: str, value: str | None) -> None:
    """Set the value of ``key``; None deletes it."""
    if value is None:
        tx.run(DELETE_META, (key,))
    else:
        tx.run(SET_META, (key, value))


def _read(tx: Transaction) -> FileIdentity:
    return FileIdentity.from_meta(dict(tx.rows(ALL_META)))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """``file_id``     the id of this history: a new, restored or reassigned file has a new id
    ``lock_id``     the id of the lock that this process holds; its next holder knows that this process has ended
    ``epoch``       how many processes have worked with the file
    ``sequence``    how many commits have changed stacks, other than by observations only
    ``incomplete``  the file may lack stacks that the cluster has: it is new, or an older copy
    ``cluster_uid``, ``namespace``, ``instance``  whose stacks these are; empty if that was never written
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
    def from_meta(cls, values: Mapping[str, str]) -> FileIdentity:
        """The identity from the named values of a file."""
        return cls(
            file_id=values.get(FILE_ID, ""),
            epoch=int(values.get("epoch", "0")),
            sequence=int(values.get(SEQUENCE, "0")),
            incomplete=INCOMPLETE in values,
            cluster_uid=values.get("cluster_uid", ""),
            namespace=values.get("namespace", ""),
            instance=values.get("instance", ""),
        )

    def contradiction(self, namespace: str, instance: str) -> str:
        """How the file differs from the configuration; empty if they agree, or the file does not say."""
        pairs = (("stacks.namespace", self.namespace, namespace), ("cluster.instance", self.instance, instance))
        return ", ".join(f'{key} is "{own}", not "{wanted}"' for key, own, wanted in pairs if own not in ("", wanted))

    def require_own(self, path: str, stacks: int, *, namespace: str, instance: str) -> None:
        """Raise ConfigError if the file at ``path`` holds stacks, and says that they belong to others."""
        if stacks and (contradiction := self.contradiction(namespace, instance)):
            raise ConfigError(
                [
                    f"the state file {path} holds {stacks} stack{'' if stacks == 1 else 's'} for which {contradiction}: "
                    "restore that setting, or choose another state.path"
                ]
            )


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
        put(tx, key, value)
    tx.identity = _read(tx)


def set_cluster(tx: Transaction, uid: str) -> None:
    """Write to which cluster the file belongs: the uid of its namespace ``kube-system``."""
    put(tx, "cluster_uid", uid)
    tx.identity = _read(tx)


def begin_adoption(tx: Transaction) -> None:
    """Mark the file as incomplete until ``end_adoption``, even across restarts: it lacks changes of another file."""
    if not _read(tx).incomplete:
        _begin_history(tx, incomplete=True)
        tx.identity = _read(tx)


def end_adoption(tx: Transaction) -> None:
    """Mark the file as complete: it has all stacks of the cluster."""
    put(tx, INCOMPLETE, None)
    tx.identity = _read(tx)


def mark_copy(connection: sqlite3.Connection) -> None:
    """Mark a copy as incomplete and remove its id, because the original file goes on without it."""
    connection.execute(DELETE_META, (FILE_ID,))
    connection.execute(SET_META, (INCOMPLETE, "1"))


def _begin_history(tx: Transaction, *, incomplete: bool) -> None:
    put(tx, FILE_ID, secrets.token_hex(8))
    put(tx, INCOMPLETE, "1" if incomplete else None)
