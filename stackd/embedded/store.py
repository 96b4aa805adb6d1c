"""Objects, versions, and the changes between them; their file; and time. All other parts of the cluster read and write
here.

An object is a plain dict without kind and apiVersion. A stored object is never changed: a new version is a new dict
that shares the unchanged parts. Its JSON is serialized at most once, and shared by responses, lists and all watchers.

The file survives the end of the process at any moment, but not that of the machine. While the disk is full, the cluster
works from memory; the file is brought up to date as soon as there is room.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
import uuid
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msgspec import json

from stackd.embedded.request import Selector
from stackd.embedded.resources import ALL, EVENTS, Json, Resource, already_exists, not_found
from stackd.files import create_private


class LoopClock:
    """The machine's time and the running event loop's timers; a subclass may have other time."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.time()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` from the event loop after `seconds`; 0 means soon, but never immediately."""
        loop = asyncio.get_running_loop()
        if seconds > 0:
            loop.call_later(seconds, action)
        else:
            loop.call_soon(action)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC without fractions, as Kubernetes writes `metav1.Time`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def micro_timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with six fraction digits, as Kubernetes writes `metav1.MicroTime`."""
    return f"{timestamp(seconds)[:-1]}.{int(seconds % 1 * 1_000_000):06d}Z"


Key = tuple[str, str]
"""Namespace (empty for cluster-wide kinds) and name."""
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(slots=True, eq=False)
class Record:
    """One version of one object."""

    resource: Resource
    key: Key
    obj: Json
    revision: int
    _body: bytes | None = None

    @property
    def uid(self) -> str:
        """The object's uid, the same in all versions."""
        uid: str = self.obj["metadata"]["uid"]
        return uid

    def body(self) -> bytes:
        """The JSON as an item of a list: without kind and apiVersion."""
        if self._body is None:
            self._body = json.encode(self.obj)
        return self._body

    def alone(self) -> bytes:
        """The JSON as a single object: with kind and apiVersion."""
        return self.resource.head + self.body()[1:]


@dataclass(slots=True, eq=False)
class ObjectChange:
    """One change of an object; `before` is None for a new one. For a deletion, `after` is the last state."""

    type: ChangeType
    after: Record
    before: Record | None
    _lines: dict[ChangeType, bytes] = field(default_factory=dict)

    def line(self, kind: ChangeType) -> bytes:
        """The watch event's line for a watcher that sees the change as `kind`.

        An object that leaves a watcher's selection is DELETED for it, in its state before the change.
        """
        line = self._lines.get(kind)
        if line is None:
            record = self.after
            if kind == "DELETED" and self.type != "DELETED" and self.before is not None:
                record = Record(record.resource, record.key, stamped(self.before.obj, record.revision), record.revision)
            line = self._lines[kind] = watch_line(kind, record.alone())
        return line


def watch_line(kind: str, body: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


def stamped(obj: Json, revision: int) -> Json:
    """The object with another resourceVersion."""
    return obj | {"metadata": obj["metadata"] | {"resourceVersion": str(revision)}}


_HISTORY = 4096
"""How many changes of a kind are kept, from which a watch can resume."""


class Collection:
    """All objects of one kind, indexed by key and by label, and their recent changes."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.records: dict[Key, Record] = {}
        self.floor = 0
        """The earliest revision from which a watch can resume."""
        self.listeners: set[Callable[[ObjectChange], None]] = set()
        self.changes: deque[ObjectChange] = deque()
        self._sorted: list[Key] = []
        self._by_label: dict[tuple[str, str], dict[Key, None]] = {}

    def get(self, namespace: str, name: str) -> Record:
        """The current version. Raises StatusError 404."""
        record = self.records.get((namespace, name))
        if record is None:
            raise not_found(self.resource, name)
        return record

    def in_namespace(self, namespace: str) -> list[Record]:
        """The objects of the namespace in order of their keys; an empty string means all namespaces."""
        start = bisect_left(self._sorted, (namespace, ""))
        end = bisect_right(self._sorted, (namespace, "\U0010ffff")) if namespace else None
        return [self.records[key] for key in self._sorted[start:end]]

    def select(self, namespace: str, selector: Selector, after: Key | None = None) -> Iterator[Record]:
        """The matching objects in order of their keys, starting after `after`."""
        if selector.labels:
            candidates = sorted(self.labelled(namespace, selector.labels), key=lambda record: record.key)
        else:
            candidates = self.in_namespace(namespace)
        for record in candidates:
            if (after is None or record.key > after) and selector.matches(record.obj):
                yield record

    def labelled(self, namespace: str, labels: Iterable[tuple[str, str]]) -> list[Record]:
        """The objects of the namespace that have all these labels, in no particular order."""
        sets = [self._by_label.get(label, {}) for label in labels]
        smallest = min(sets, key=len, default={})
        return [
            self.records[key]
            for key in smallest
            if (not namespace or key[0] == namespace) and all(key in one for one in sets)
        ]

    def put(self, record: Record) -> None:
        before = self.records.get(record.key)
        self.records[record.key] = record
        if before is None:
            insort(self._sorted, record.key)
        self._index(before, record)

    def drop(self, record: Record) -> None:
        before = self.records.pop(record.key)
        del self._sorted[bisect_left(self._sorted, record.key)]
        self._index(before, None)

    def publish(self, change: ObjectChange) -> None:
        """Keep the change in the history, and pass it to the listeners."""
        self.changes.append(change)
        if len(self.changes) > _HISTORY:
            self.floor = self.changes.popleft().after.revision
        for listener in self.listeners:
            listener(change)

    def since(self, revision: int) -> list[ObjectChange]:
        """The changes after `revision`, oldest first; complete only if `revision` is not below the floor."""
        changes: list[ObjectChange] = []
        for change in reversed(self.changes):
            if change.after.revision <= revision:
                break
            changes.append(change)
        return changes[::-1]

    def as_it_is(self) -> Collection:
        """A copy that does not change any more: the same objects, without history or listeners."""
        copy = Collection(self.resource)
        copy.floor = self.floor
        for record in self.records.values():
            copy.put(record)
        return copy

    def _index(self, before: Record | None, after: Record | None) -> None:
        old = before.obj["metadata"].get("labels") if before else None
        new = after.obj["metadata"].get("labels") if after else None
        if old is new:
            return
        if before and old:
            for label in old.items():
                keys = self._by_label[label]
                del keys[before.key]
                if not keys:
                    del self._by_label[label]
        if after and new:
            for label in new.items():
                self._by_label.setdefault(label, {})[after.key] = None


class ObjectStore:
    """All collections, with one common revision counter."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.revision = 0
        self._collections = {resource.qualified: Collection(resource) for resource in ALL}
        self._observers: list[Callable[[ObjectChange], None]] = []

    def of(self, resource: Resource) -> Collection:
        return self._collections[resource.qualified]

    def observe(self, observer: Callable[[ObjectChange], None]) -> None:
        """Call `observer` after each change, in order; it must not change the store itself before it returns."""
        self._observers.append(observer)

    def prepare(self, resource: Resource, namespace: str, obj: Json) -> Json:
        """The object with the metadata that only the server sets: uid, creation time, generation."""
        metadata = {
            key: value
            for key, value in obj["metadata"].items()
            if key not in {"deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"}
        }
        if namespace:
            metadata["namespace"] = namespace
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp(self.clock.now())
        if resource.generation:
            metadata["generation"] = 1
        return obj | {"metadata": metadata}

    def create(self, resource: Resource, obj: Json) -> Record:
        """Add a prepared object. Raises StatusError 409."""
        metadata = obj["metadata"]
        key = (metadata.get("namespace", "") if resource.namespaced else "", metadata["name"])
        if key in self.of(resource).records:
            raise already_exists(resource, metadata["name"])
        return self._store("ADDED", resource, key, obj, None)

    def update(self, before: Record, *, gone: Iterable[str] = (), **parts: Any) -> Record:
        """Store a new version with these top-level parts replaced or gone. Returns the old one if nothing differs."""
        gone = set(gone)
        if not gone and all(before.obj.get(part) == value for part, value in parts.items()):
            return before
        obj = {part: value for part, value in (before.obj | parts).items() if part not in gone}
        return self._store("MODIFIED", before.resource, before.key, obj, before)

    def remove(self, before: Record) -> Record:
        """Delete the object; returns its last state, with the revision of the deletion."""
        return self._store("DELETED", before.resource, before.key, before.obj, before)

    def _store(self, kind: ChangeType, resource: Resource, key: Key, obj: Json, before: Record | None) -> Record:
        self.revision += 1
        record = Record(resource, key, stamped(obj, self.revision), self.revision)
        collection, change = self.of(resource), ObjectChange(kind, record, before)
        if kind == "DELETED":
            collection.drop(record)
        else:
            collection.put(record)
        collection.publish(change)
        for observer in self._observers:
            observer(change)
        return record

    def forget_history(self) -> None:
        """Compact every collection, as etcd does every few minutes."""
        for collection in self._collections.values():
            collection.changes.clear()
            collection.floor = self.revision

    def set_back(self, revision: int) -> None:
        """Go back to an earlier revision and forget the history, but keep all objects, as after a restored backup."""
        self.revision = revision
        for collection in self._collections.values():
            for key, record in collection.records.items():
                old = stamped(record.obj, revision)
                collection.records[key] = Record(record.resource, key, old, revision)
        self.forget_history()


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
                self._store.of(resource).put(Record(resource, (namespace, key), json.decode(obj), revision))
        (reserved,) = self._db.execute("SELECT max(revision) FROM reserved").fetchone()
        self._store.revision = self._reserved = reserved or 0
        self._store.forget_history()
        return reserved is not None

    def open(self) -> None:
        """Write all objects, and keep the file up to date from now on."""
        self._write_all()
        self._store.observe(self.note)

    def note(self, change: ObjectChange) -> None:
        try:
            if self._behind:
                self._write_all()
            else:
                self._write(change.after, deleted=change.type == "DELETED")
            self._behind = False
        except sqlite3.Error as error:
            log.error("%s cannot be written, and is out of date until it can be: %s", self._path, error)
            self._behind = True

    def close(self) -> None:
        """Close the file; there are no pending writes."""
        self._db.close()

    def _write(self, record: Record, *, deleted: bool = False) -> None:
        key = (record.resource.qualified, *record.key)
        if record.revision > self._reserved:
            self._reserved = record.revision + _RESERVE
            self._db.execute("INSERT INTO reserved VALUES (?)", (self._reserved,))
        if deleted:
            self._db.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", key)
        elif record.resource is not EVENTS:
            row = (*key, record.revision, record.body())
            self._db.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)

    def _write_all(self) -> None:
        with self._db:  # commits, or rolls back
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM objects")
            self._reserved = self._store.revision + _RESERVE
            self._db.execute("INSERT INTO reserved VALUES (?)", (self._reserved,))
            for resource in ALL:
                for record in self._store.of(resource).records.values():
                    self._write(record)
