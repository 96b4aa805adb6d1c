"""Objects, versions, and the changes between them. All other parts of the cluster read and write here.

An object is a plain dict without kind and apiVersion. A stored object is never changed: a new version is a new dict
that shares the unchanged parts. Its JSON is serialized at most once, and shared by responses, lists and all watchers.
"""

from __future__ import annotations

import uuid
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Protocol

import orjson

from stackd.embedded.request import Selector
from stackd.embedded.resources import ALL, Json, Resource
from stackd.embedded.status import already_exists, not_found
from stackd.embedded.timing import DelayingClock, timestamp

Key = tuple[str, str]
"""Namespace (empty for cluster-wide kinds) and name."""
ChangeType = Literal["ADDED", "MODIFIED", "DELETED"]


class Record:
    """One version of one object."""

    __slots__ = ("_body", "key", "obj", "resource", "revision")

    def __init__(self, resource: Resource, key: Key, obj: Json, revision: int) -> None:
        self.resource = resource
        self.key = key
        self.obj = obj
        self.revision = revision
        self._body: bytes | None = None

    @property
    def uid(self) -> str:
        """The object's uid, the same in all versions."""
        uid: str = self.obj["metadata"]["uid"]
        return uid

    def body(self) -> bytes:
        """The JSON as an item of a list: without kind and apiVersion."""
        if self._body is None:
            self._body = orjson.dumps(self.obj)
        return self._body

    def alone(self) -> bytes:
        """The JSON as a single object: with kind and apiVersion."""
        return self.resource.head + self.body()[1:]


class ObjectChange:
    """One change of an object; `before` is None for a new one. For a deletion, `after` is the last state."""

    __slots__ = ("_lines", "after", "before", "type")

    def __init__(self, kind: ChangeType, after: Record, before: Record | None) -> None:
        self.type: ChangeType = kind
        self.after = after
        self.before = before
        self._lines: dict[ChangeType, bytes] = {}

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
    """One line of a watch stream."""
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)


def stamped(obj: Json, revision: int) -> Json:
    """The object with another resourceVersion."""
    return obj | {"metadata": obj["metadata"] | {"resourceVersion": str(revision)}}


class Watcher(Protocol):
    """A listener for the changes of a kind, such as a watch."""

    def offer(self, change: ObjectChange) -> None:
        """Receive the change; must not change the store."""


class Collection:
    """All objects of one kind, indexed by key and by label, and their recent changes."""

    def __init__(self, resource: Resource, history: int) -> None:
        self.resource = resource
        self.records: dict[Key, Record] = {}
        self.floor = 0
        """The earliest revision from which a watch can resume."""
        self.listeners: set[Watcher] = set()
        self.changes: deque[ObjectChange] = deque()
        self._history = history
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
        if not namespace:
            return [self.records[key] for key in self._sorted]
        start = bisect_left(self._sorted, (namespace, ""))
        end = bisect_right(self._sorted, (namespace, "\U0010ffff"))
        return [self.records[key] for key in self._sorted[start:end]]

    def select(self, namespace: str, selector: Selector, after: Key | None = None) -> Iterator[Record]:
        """The matching objects in order of their keys, starting after `after`."""
        for record in self._candidates(namespace, selector):
            if (after is None or record.key > after) and selector.matches(record.obj):
                yield record

    def labelled(self, namespace: str, labels: Iterable[tuple[str, str]]) -> list[Record]:
        """The objects of the namespace that have all these labels, in no particular order."""
        sets = [self._by_label.get(label, {}) for label in labels]
        if not sets:
            return []
        smallest = min(sets, key=len)
        return [
            self.records[key]
            for key in smallest
            if (not namespace or key[0] == namespace) and all(key in one for one in sets)
        ]

    def _candidates(self, namespace: str, selector: Selector) -> list[Record]:
        if selector.name is not None and namespace:
            found = self.records.get((namespace, selector.name))
            return [found] if found else []
        if selector.labels:
            return sorted(self.labelled(namespace, selector.labels), key=lambda record: record.key)
        return self.in_namespace(namespace)

    def put(self, record: Record) -> None:
        """Store the record as the current version."""
        before = self.records.get(record.key)
        self.records[record.key] = record
        if before is None:
            insort(self._sorted, record.key)
        self._index(before, record)

    def drop(self, record: Record) -> None:
        """Remove the object."""
        before = self.records.pop(record.key)
        del self._sorted[bisect_left(self._sorted, record.key)]
        self._index(before, None)

    def publish(self, change: ObjectChange) -> None:
        """Keep the change in the history, and pass it to the listeners."""
        self.changes.append(change)
        if len(self.changes) > self._history:
            self.floor = self.changes.popleft().after.revision
        for listener in self.listeners:
            listener.offer(change)

    def since(self, revision: int) -> list[ObjectChange]:
        """The changes after `revision`, oldest first; complete only if `revision` is not below the floor."""
        found: list[ObjectChange] = []
        for change in reversed(self.changes):
            if change.after.revision <= revision:
                break
            found.append(change)
        return found[::-1]

    def forget(self, revision: int) -> None:
        """Compact: drop the history, so that no watch can resume from before `revision`."""
        self.changes.clear()
        self.floor = revision

    def as_it_is(self) -> Collection:
        """A copy that does not change any more: the same objects, without history or listeners."""
        copy = Collection(self.resource, 0)
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

    def __init__(self, clock: DelayingClock, *, history: int) -> None:
        self.clock = clock
        self.revision = 0
        self._collections = {resource.qualified: Collection(resource, history) for resource in ALL}
        self._observers: list[Callable[[ObjectChange], None]] = []

    def of(self, resource: Resource) -> Collection:
        """The objects of a kind."""
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
        self.revision += 1
        stored = stamped(obj, self.revision)
        record = Record(resource, key, stored, self.revision)
        self.of(resource).put(record)
        self._announce(ObjectChange("ADDED", record, None))
        return record

    def update(self, before: Record, *, gone: Iterable[str] = (), **parts: Any) -> Record:
        """Store a new version with these top-level parts replaced or gone. Returns the old one if nothing differs."""
        gone = set(gone)
        if not gone and all(before.obj.get(part) == value for part, value in parts.items()):
            return before
        self.revision += 1
        whole = {part: value for part, value in (before.obj | parts).items() if part not in gone}
        obj = stamped(whole, self.revision)
        record = Record(before.resource, before.key, obj, self.revision)
        self.of(before.resource).put(record)
        self._announce(ObjectChange("MODIFIED", record, before))
        return record

    def remove(self, before: Record) -> Record:
        """Delete the object; returns its last state, with the revision of the deletion."""
        self.revision += 1
        record = Record(before.resource, before.key, stamped(before.obj, self.revision), self.revision)
        self.of(before.resource).drop(before)
        self._announce(ObjectChange("DELETED", record, before))
        return record

    def forget_history(self) -> None:
        """Compact every collection, as etcd does every few minutes."""
        for collection in self._collections.values():
            collection.forget(self.revision)

    def set_back(self, revision: int) -> None:
        """Go back to an earlier revision and forget the history, but keep all objects, as after a restored backup."""
        self.revision = revision
        for collection in self._collections.values():
            for key, record in collection.records.items():
                old = stamped(record.obj, revision)
                collection.records[key] = Record(record.resource, key, old, revision)
        self.forget_history()

    def _announce(self, change: ObjectChange) -> None:
        self.of(change.after.resource).publish(change)
        for observer in self._observers:
            observer(change)
