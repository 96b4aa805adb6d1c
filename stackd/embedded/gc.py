"""Collects objects whose owners are gone, as the garbage collector does, a moment after the owner went."""

from __future__ import annotations

from stackd.embedded.deletion import Deletion
from stackd.embedded.resources import ALL, BY_KIND, EVENTS, Json, Resource
from stackd.embedded.store import Change, Key, Record, Store

Dependent = tuple[Resource, Key]


class GarbageCollector:
    """Follows ownerReferences; an owner is known by its uid, not by its name."""

    def __init__(self, store: Store, deletion: Deletion, *, delay: float) -> None:
        self._store = store
        self._deletion = deletion
        self._delay = delay
        self._dependents: dict[str, dict[Dependent, None]] = {}
        store.observe(self._follow)

    def adopt(self) -> None:
        """Take up what the store holds already."""
        for resource in ALL:
            for record in self._store.of(resource).records.values():
                self._see(record, None)

    def orphan(self, uid: str) -> None:
        """Let the dependents of an owner that is about to go stay."""
        for resource, key in list(self._dependents.get(uid, ())):
            record = self._store.of(resource).records[key]
            others = [owner for owner in _owners(record.obj) if owner["uid"] != uid]
            metadata = {k: v for k, v in record.obj["metadata"].items() if k != "ownerReferences"}
            if others:
                metadata["ownerReferences"] = others
            self._store.update(record, metadata=metadata)

    def _follow(self, change: Change) -> None:
        if change.type == "DELETED":
            self._unlink(change.after, _owners(change.after.obj))
            for dependent in self._dependents.get(change.after.obj["metadata"]["uid"], ()):
                self._plan(dependent)
        elif change.before is None or change.before.obj["metadata"] is not change.after.obj["metadata"]:
            self._see(change.after, change.before)

    def _see(self, record: Record, before: Record | None) -> None:
        owners = _owners(record.obj)
        old = _owners(before.obj) if before else []
        if owners == old:
            return
        if before is not None:
            self._unlink(before, old)
        dependent = (record.resource, record.key)
        for owner in owners:
            self._dependents.setdefault(owner["uid"], {})[dependent] = None
        if owners and not any(self._is_there(record, owner) for owner in owners):
            self._plan(dependent)

    def _unlink(self, record: Record, owners: list[Json]) -> None:
        for owner in owners:
            dependents = self._dependents.get(owner["uid"], {})
            dependents.pop((record.resource, record.key), None)
            if not dependents:
                self._dependents.pop(owner["uid"], None)

    def _plan(self, dependent: Dependent) -> None:
        uid = self._store.of(dependent[0]).records[dependent[1]].uid
        self._store.clock.later(self._delay, lambda: self._collect(dependent, uid))

    def _collect(self, dependent: Dependent, uid: str) -> None:
        record = self._store.of(dependent[0]).records.get(dependent[1])
        if record is None or record.uid != uid or "deletionTimestamp" in record.obj["metadata"]:
            return
        owners = _owners(record.obj)
        if owners and not any(self._is_there(record, owner) for owner in owners):
            self._deletion.delete(record)

    def _is_there(self, record: Record, owner: Json) -> bool:
        resource = BY_KIND.get((owner["apiVersion"], owner["kind"]))
        if resource is None or resource is EVENTS:
            return True
        namespace = record.key[0] if resource.namespaced else ""
        found = self._store.of(resource).records.get((namespace, owner["name"]))
        return found is not None and found.uid == owner["uid"]


def _owners(obj: Json) -> list[Json]:
    owners: list[Json] = obj["metadata"].get("ownerReferences") or []
    return owners
