"""The state file of a cluster: each object as it is now, in SQLite. Does not know how objects behave.

It survives the end of the process at any moment, but not that of the machine. While the disk is full, the cluster works
from memory; the file is brought up to date as soon as there is room.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

import orjson

from stackd.embedded.resources import ALL
from stackd.embedded.store import ObjectChange, ObjectStore, Record
from stackd.files import create_private

_RESERVE = 10_000
"""How many revisions are reserved ahead, because not all of them are written to the file (events are not)."""
_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT, namespace TEXT, name TEXT, revision INTEGER, object BLOB, PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reserved (revision INTEGER);
"""
log = logging.getLogger(__name__)

_BY_NAME = {resource.qualified: resource for resource in ALL}


class Journal:
    """Keeps a store in a file. One process at a time. Raises OSError or sqlite3.Error if the file cannot be used."""

    def __init__(self, path: Path, store: ObjectStore) -> None:
        self._path = path
        self._store = store
        self._reserved = 0
        self._behind = False
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(create_private(path))
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_TABLES)

    def load(self) -> bool:
        """Fill the empty store from the file; returns False if the file is new. Calls no observers."""
        for name, namespace, key, revision, obj in self._db.execute("SELECT * FROM objects"):
            if (resource := _BY_NAME.get(name)) is not None:
                self._store.of(resource).put(Record(resource, (namespace, key), orjson.loads(obj), revision))
        (reserved,) = self._db.execute("SELECT max(revision) FROM reserved").fetchone()
        self._store.revision = self._reserved = reserved or 0
        self._store.forget_history()
        return reserved is not None

    def open(self) -> None:
        """Write the whole store, and keep the file up to date from now on."""
        self._write_all()
        self._store.observe(self.note)

    def note(self, change: ObjectChange) -> None:
        """Write a change. If the file cannot be written, write the whole store as soon as it can."""
        try:
            if self._behind:
                self._write_all()
                self._behind = False
                log.warning("%s is up to date again", self._path)
            else:
                self._write(change.after, deleted=change.type == "DELETED")
        except sqlite3.Error as error:
            if not self._behind:
                log.error("%s cannot be written, and is out of date until it can be: %s", self._path, error)
            self._behind = True

    def close(self) -> None:
        """Close the file; there are no pending writes."""
        self._db.close()

    def _write(self, record: Record, *, deleted: bool = False) -> None:
        resource, key = record.resource, record.key
        if record.revision > self._reserved:
            self._reserved = record.revision + _RESERVE
            self._db.execute("INSERT INTO reserved VALUES (?)", (self._reserved,))
        if not resource.persistent:
            return
        if deleted:
            delete = "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?"
            self._db.execute(delete, (resource.qualified, *key))
        else:
            row = (resource.qualified, *key, record.revision, record.body())
            self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)

    def _write_all(self) -> None:
        try:
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM objects")
            self._reserved = self._store.revision + _RESERVE
            self._db.execute("INSERT INTO reserved VALUES (?)", (self._reserved,))
            for resource in ALL:
                for record in self._store.of(resource).records.values():
                    self._write(record)
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
